"""Tables and plots from outcomes. No number here that an Outcome does not hold."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from featcache import console
from featcache.errors import ConfigError, InputError
from featcache.prompts import DEFAULT
from featcache.results import Summary
from featcache.search import Outcome, RunRecord, mean_spread, plain, varying

PLOT_FORMATS = (".png", ".svg", ".pdf")


MAX_ROWS = 24
"""A grid of more points is shown by its best."""


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """One point of a grid over all draws: mean and spread of accuracies, as fractions."""

    values: tuple[Any, ...]
    """Of the fields that differ between runs."""
    alpha: float
    """The residual ratio, or NaN for a method without one."""
    selection: tuple[float, float] | None
    """None where nothing was chosen on."""
    test: tuple[float, float]
    times_chosen: int


def grid_rows(runs: Sequence[RunRecord]) -> list[GridRow]:
    """The runs grouped by the fields that are shown, in the grid's order."""
    names = shown_fields(runs)
    points: dict[tuple[Any, ...], list[RunRecord]] = {}
    for run in runs:
        points.setdefault(tuple(run.config[name] for name in names), []).append(run)
    rows = []
    for values, same in points.items():
        selection = [run.selection.accuracy for run in same if run.selection]
        rows.append(
            GridRow(
                values=values,
                alpha=same[0].alpha,
                selection=mean_spread(selection) if selection else None,
                test=mean_spread([run.test.accuracy for run in same if run.test]),
                times_chosen=sum(run.chosen for run in same),
            )
        )
    return rows


def shown_fields(runs: Sequence[RunRecord]) -> list[str]:
    """The fields that differ between runs; alpha where none does, for it is what people ask after."""
    return varying(runs) or [name for name in runs[0].config if name == "alpha"]


def show(outcome: Outcome) -> None:
    """The search as a table, an alpha curve and the sentence that counts."""
    names, rows = shown_fields(outcome.runs), grid_rows(outcome.runs)
    num_draws = len(outcome.chosen)
    shown = _best_rows(rows)
    best = max(range(len(shown)), key=lambda index: shown[index].times_chosen)
    selection_rows = outcome.chosen[0].selection.num_rows if outcome.chosen[0].selection else 0
    test = outcome.chosen[0].test
    assert test is not None
    console.table(
        [*names, f"{outcome.protocol} %", _test_words(outcome, unit=" %"), "chosen"],
        [[*map(plain, row.values), percent(row.selection), percent(row.test), _times(row, num_draws)] for row in shown],
        title=_title(outcome) + (f": the best {len(shown)} of {len(rows)}" if len(shown) < len(rows) else ""),
        mark=best,
    )
    if _by_alpha(outcome) and 2 < len(rows) <= MAX_ROWS:
        console.raw(curve(rows, outcome.zero_shot.accuracy))
    _show_also(outcome)
    for text in outcome.notes:
        console.warn(text)
    mean, spread = outcome.test_accuracy
    zero_shot = outcome.zero_shot.accuracy
    gain = "" if math.isnan(zero_shot) else f"; zero-shot {100 * zero_shot:.2f} % ({100 * (mean - zero_shot):+.2f})"
    pooled = ", one choice for all draws" if outcome.choose == "pooled" else ""
    chosen_on = (
        f"on {outcome.protocol} ({selection_rows} images a draw{pooled})" if selection_rows else "by nobody (fixed)"
    )
    console.say(
        f"chosen {chosen_on}{_chosen_words(outcome, names)} -> test {percent((mean, spread))} % of "
        f"{test.num_rows} images{gain}"
    )
    laps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in outcome.seconds.items())
    total = sum(outcome.seconds.values())
    epochs = f" x {outcome.recipe.epochs} epochs" if outcome.trained else ""
    console.say(f"{len(outcome.runs)} runs{epochs} in {total:.1f} s on {outcome.device} ({laps})")


def _chosen_words(outcome: Outcome, names: Sequence[str]) -> str:
    """`: alpha 0.3, 0.4, 0.3`, field by field."""
    fields = [f"{name} {', '.join(plain(run.config[name]) for run in outcome.chosen)}" for name in names]
    return f": {'; '.join(fields)}" if fields else ""


def _best_rows(rows: list[GridRow]) -> list[GridRow]:
    """The rows themselves, or of many those that were chosen and the best, all in the grid's order."""
    if len(rows) <= MAX_ROWS:
        return rows

    def rank(row: GridRow) -> tuple[int, float]:
        return -row.times_chosen, -(row.selection or row.test)[0]

    kept = sorted(range(len(rows)), key=lambda index: rank(rows[index]))[: MAX_ROWS // 2]
    return [rows[index] for index in sorted(kept)]


def _by_alpha(outcome: Outcome) -> bool:
    return varying(outcome.runs) == ["alpha"]


def _show_also(outcome: Outcome) -> None:
    """The chosen runs elsewhere."""
    if not outcome.also:
        return
    console.table(
        ["also on", "classes", "test images", "zero-shot %", "test %", "gain"],
        [
            [
                place.store + ("" if place.classes == "all" else f", {place.classes} half"),
                f"{place.num_classes}" + ("" if place.trained_on else " (not trained on: by their text)"),
                f"{place.zero_shot.num_rows or place.scores[0].num_rows:,}",
                f"{100 * place.zero_shot.accuracy:.2f}",
                percent(mean_spread([score.accuracy for score in place.scores])),
                f"{100 * (fmean(score.accuracy for score in place.scores) - place.zero_shot.accuracy):+.2f}",
            ]
            for place in outcome.also
        ],
        title="the chosen runs elsewhere: nothing was trained or chosen there",
    )


def show_means(summaries: Sequence[Summary]) -> None:
    """One table for each method, backbone, prompt set and protocol: data sets by shots, and the mean over data sets."""
    groups: dict[tuple[str, ...], list[Summary]] = {}
    for row in summaries:
        groups.setdefault((row.adapter, row.backbone, row.text_set, row.classes, row.protocol), []).append(row)
    for (adapter, backbone, text_set, classes, protocol), members in groups.items():
        if len({row.store for row in members}) < 2:
            continue
        part = "" if classes == "all" else f", {classes} classes"
        _show_group(members, f"{adapter}, {backbone}, prompts {text_set}{part}: test %, chosen on {protocol}")


def _show_group(members: Sequence[Summary], title: str) -> None:
    shots = sorted({row.shots for row in members})
    stores = list(dict.fromkeys(row.store for row in members))
    found = {(row.store, row.shots): row for row in members}
    name = {row.store: row.dataset for row in members}
    if len(set(name.values())) < len(name):
        name = {store: store for store in name}  # several stores of one data set
    zero_shot = {row.store: math.nan if row.zero_shot_accuracy is None else row.zero_shot_accuracy for row in members}
    rows = [
        [
            name[store],
            _number(zero_shot[store]),
            *(_test_percent(found[store, k]) if (store, k) in found else "-" for k in shots),
        ]
        for store in stores
    ]
    means = [_number(fmean(zero_shot.values()))]
    for k in shots:
        values = [found[store, k].test_accuracy or 0.0 for store in stores if (store, k) in found]
        means.append(_number(fmean(values)) + (f" (of {len(values)})" if len(values) < len(stores) else ""))
    rows.append([f"mean over {len(stores)}", *means])
    console.table(
        ["data set", "zero-shot", *(f"{k} shot" + ("s" if k > 1 else "") for k in shots)],
        rows,
        title=title,
        mark=len(rows) - 1,
    )


def _test_percent(row: Summary) -> str:
    if row.test_accuracy is None:
        return "-"
    return percent((row.test_accuracy, math.nan if row.test_spread is None else row.test_spread))


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def as_json(outcome: Outcome) -> str:
    """The whole outcome as JSON; NaN becomes null."""
    return json.dumps(_no_nan(asdict(outcome)), indent=2)


def show_summaries(summaries: list[Summary]) -> None:
    """The searches, one a line."""
    console.table(
        ["id", "when (UTC)", "store", "adapter", "shots", "draws", "alpha", "chosen on", "val %", "test %", "s"],
        [
            [
                str(row.id),
                row.created[5:16].replace("T", " "),
                row.store,
                row.adapter,
                str(row.shots),
                str(row.num_draws),
                ",".join(f"{alpha:g}" for alpha in row.alphas) or "-",
                row.protocol,
                "-" if row.selection_accuracy is None else f"{100 * row.selection_accuracy:.2f}",
                _test_percent(row),
                f"{row.seconds:.1f}",
            ]
            for row in summaries
        ],
    )


def percent(value: tuple[float, float] | None) -> str:
    """`90.04` or, with more than one draw, `90.04 ± 0.31`."""
    if value is None:
        return "-"
    mean, spread = value
    return f"{100 * mean:.2f}" if math.isnan(spread) else f"{100 * mean:.2f} ± {100 * spread:.2f}"


def curve(rows: list[GridRow], zero_shot: float, *, height: int = 9, step: int = 5) -> str:
    """Test accuracy against alpha in characters: ● where it was chosen, ○ elsewhere, ▼ below the scale."""
    values = [row.test[0] for row in rows]
    high = max([*values, zero_shot])
    # One alpha far below zero-shot would flatten the part that matters: it is drawn as an arrow off the scale.
    low = max(min([*values, zero_shot]), zero_shot - max(high - zero_shot, 0.01))
    span = max(high - low, 1e-9)

    def level(value: float) -> int:
        return max(0, round((value - low) / span * (height - 1)))

    lines = []
    for line in range(height - 1, -1, -1):
        fill = "┄" if level(zero_shot) == line else " "
        cells = ""
        for row, value in zip(rows, values, strict=True):
            mark = "▼" if value < low - 1e-9 else "●" if row.times_chosen else "○"
            cells += (mark if level(value) == line else fill).center(step, fill)
        lines.append(f"{100 * (low + span * line / (height - 1)):6.2f} ┤{cells}")
    axis = " " * 7 + "└" + "─" * (step * len(rows))
    ticks = " " * 8 + "".join(f"{row.alpha:g}".center(step) for row in rows)
    return "\n".join(["test %: ● chosen, ┄ zero-shot, ▼ below the scale", *lines, axis, ticks + "  alpha"])


def check_plot_file(file: Path) -> Path:
    """The file itself, if it can be plotted to; raises before any work is done."""
    if file.suffix.lower() not in PLOT_FORMATS:
        raise ConfigError(f"--plot {file}: the ending says the format; use one of {', '.join(PLOT_FORMATS)}")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--plot {file}: there is no folder {file.absolute().parent}")
    return file


def plot(outcome: Outcome, file: Path) -> None:
    """Accuracy against alpha, mean and spread over draws, as PNG, SVG or PDF."""
    from matplotlib.figure import Figure

    rows = grid_rows(outcome.runs)
    alphas = [row.alpha for row in rows]
    figure: Any = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    series = [(_test_words(outcome), [row.test for row in rows], "#1f5fbf", "-")]
    if outcome.protocol != "test-oracle" and all(row.selection for row in rows):
        series.append((outcome.protocol, [row.selection for row in rows if row.selection], "#c2571a", "--"))
    for label, values, colour, line in series:
        mean = [100 * value for value, _ in values]
        spread = [0.0 if math.isnan(value) else 100 * value for _, value in values]
        axes.plot(alphas, mean, line, color=colour, marker="o", markersize=4, label=label)
        low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(alphas, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(100 * outcome.zero_shot.accuracy, color="#666666", linestyle=":", label="zero-shot, test")
    for alpha in sorted({run.alpha for run in outcome.chosen}):
        axes.axvline(alpha, color="#2b8a3e", linewidth=1, alpha=0.6)
    axes.set_xlabel("residual ratio alpha (green: chosen)")
    axes.set_ylabel("accuracy, %")
    axes.set_title(_title(outcome), fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    try:
        figure.savefig(file, dpi=160)
    except OSError as error:
        raise InputError(f"cannot write the plot {file}: {error.strerror}") from error


def _test_words(outcome: Outcome, unit: str = "") -> str:
    """What the test numbers are called: under the oracle they did choose, and say so."""
    return f"test{unit} ({'chosen on it' if outcome.protocol == 'test-oracle' else 'not used to choose'})"


def _title(outcome: Outcome) -> str:
    words = [outcome.backbone, _draw_words(outcome)]
    words += [f"{outcome.classes} classes"] if outcome.classes != "all" else []
    words += [f"prompts {outcome.text_set}"] if outcome.text_set != DEFAULT else []
    return f"{outcome.adapter} on {outcome.dataset}, {', '.join(words)}"


def _draw_words(outcome: Outcome) -> str:
    run = outcome.runs[0]
    seeds = ", ".join(str(chosen.shot_seed) for chosen in outcome.chosen)
    return f"{run.shots} shots, seed{'s' if len(outcome.chosen) > 1 else ''} {seeds}"


def _times(row: GridRow, num_draws: int) -> str:
    if not row.times_chosen:
        return ""
    return "chosen" if num_draws == 1 else f"{row.times_chosen} of {num_draws} draws"


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _no_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_no_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

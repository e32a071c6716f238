"""One search, as it is shown when it is done."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import fmean

from featcache import console
from featcache.assessment import assess
from featcache.outcome import Outcome, mean_spread, plain, varying
from featcache.reporting.grid import MAX_ROWS, GridRow, grid_rows, shown_fields
from featcache.reporting.plots import curve
from featcache.reporting.words import no_nan, number, percent, title, words_of_test


def show(outcome: Outcome) -> None:
    """The search as a table, an alpha curve and the sentence that counts."""
    names, rows = shown_fields(outcome.runs), grid_rows(outcome.runs)
    shown = _best_rows(rows)
    best = max(range(len(shown)), key=lambda index: shown[index].times_chosen)
    selection_rows = outcome.chosen[0].selection.num_rows if outcome.chosen[0].selection else 0
    test = outcome.chosen[0].test
    assert test is not None
    console.table(
        [*names, f"{outcome.protocol} %", words_of_test(outcome, unit=" %"), "chosen"],
        [[*map(plain, row.values), percent(row.selection), percent(row.test), _times(row, outcome)] for row in shown],
        title=title(outcome) + (f": the best {len(shown)} of {len(rows)}" if len(shown) < len(rows) else ""),
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
        f"{test.num_rows} images{_balanced_words(outcome)}{gain}"
    )
    laps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in outcome.seconds.items())
    total = sum(outcome.seconds.values())
    epochs = f" x {outcome.recipe.epochs} epochs" if outcome.trained else ""
    console.say(f"{len(outcome.runs)} runs{epochs} in {console.seconds(total)} on {outcome.device} ({laps})")


def _chosen_words(outcome: Outcome, names: Sequence[str]) -> str:
    """`: alpha 0.3, 0.4, 0.3`, field by field."""
    fields = [f"{name} {', '.join(plain(run.config[name]) for run in outcome.chosen)}" for name in names]
    return f": {'; '.join(fields)}" if fields else ""


def _balanced_words(outcome: Outcome) -> str:
    """`, balanced 88.10 %`, where classes of unequal size make that another number."""
    if outcome.items is None:
        return ""
    balanced = number(assess(outcome.items, outcome.answers).balanced_accuracy)
    return "" if balanced == number(outcome.test_accuracy[0]) else f", balanced over classes {balanced} %"


def _best_rows(rows: list[GridRow]) -> list[GridRow]:
    """The rows themselves, or of many those that were chosen and the best, all in the grid's order."""
    if len(rows) <= MAX_ROWS:
        return rows

    def rank(row: GridRow) -> tuple[int, bool, float]:
        accuracy = (row.selection or row.test)[0]
        return -row.times_chosen, math.isnan(accuracy), -accuracy

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


def as_json(outcome: Outcome) -> str:
    """The whole outcome as JSON, with measures in place of each image's prediction; NaN becomes null."""
    measures = None if outcome.items is None else assess(outcome.items, outcome.answers)
    plain = asdict(replace(outcome, items=None, predictions=(), texts=()))
    del plain["items"], plain["predictions"], plain["texts"]
    return json.dumps(no_nan({**plain, "measures": None if measures is None else asdict(measures)}), indent=2)


def _times(row: GridRow, outcome: Outcome) -> str:
    if row.times_failed and not row.times_chosen:
        return "failed" if math.isnan(row.test[0]) else f"failed in {row.times_failed} runs"
    if not row.times_chosen:
        return ""
    several = len({run.draw for run in outcome.chosen}) < len(outcome.chosen)  # init seeds for a draw
    num_chosen = len(outcome.chosen)
    return "chosen" if num_chosen == 1 else f"{row.times_chosen} of {num_chosen} {'fits' if several else 'draws'}"

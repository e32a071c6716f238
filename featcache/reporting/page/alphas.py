"""Accuracy against the residual ratio: every alpha that was tried, and which was chosen (the paper's Table 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from featcache.fits import POST_HOC_ALPHA
from featcache.outcome import mean_spread
from featcache.reporting.page.gather import Found, Gathered, grouped, protocols_words, with_result
from featcache.reporting.page.marks import accuracy, colour, layer, level, number, only, spec, tooltip
from featcache.reporting.page.model import Blank, Chart, Panel, Rows, Spec, Table, Toggle, View
from featcache.reporting.page.words import listed, percent, plural, told, told_spread

KEY = "alpha"
_SELECTION = "selection"
"""The parameter that shows what was chosen on."""


class Point(NamedTuple):
    """One alpha over all draws: fractions, mean and spread."""

    alpha: float
    test: tuple[float, float]
    selection: tuple[float, float] | None
    times_chosen: int


def panel(gathered: Gathered) -> Panel:
    """Curves for every search over alpha alone, one line a number of shots."""
    curves = [one for one in gathered.found if _axis(one)]
    groups = grouped(curves, lambda one: (one.place, one.method, one.store_key, one.protocol, _axis(one)))
    return Panel(
        key=KEY,
        title="Which alpha?",
        lead="Test accuracy at every alpha that was tried, which is CLIP-Adapter's residual ratio, one line a number "
        "of shots. A filled mark is an alpha that the protocol chose, larger where more draws chose it; the choice "
        "never saw the test set unless the protocol says so.",
        views=tuple(_view(members) for members in sorted(groups.values(), key=lambda some: -some[0].num_test)),
        blanks=() if groups else (Blank("no result searched alpha alone", "featcache fit --alpha-grid 0:1:0.1"),),
    )


def points(one: Found) -> list[Point]:
    """The curve of one search, by alpha."""
    at: dict[float, list[Mapping[str, Any]]] = {}
    for run in one.runs:
        if not run["fault"] and run["test_accuracy"] is not None:
            at.setdefault(float(run["config"][_axis(one)]), []).append(run)
    return [
        Point(
            alpha,
            mean_spread([run["test_accuracy"] for run in runs]),
            mean_spread([run["selection_accuracy"] for run in runs])
            if all(run["selection_accuracy"] is not None for run in runs)
            else None,
            sum(run["chosen"] for run in runs),
        )
        for alpha, runs in sorted(at.items())
    ]


def _axis(one: Found) -> str:
    """The field that alone was searched, if it is an alpha."""
    return one.searched[0] if one.searched in (("alpha",), (POST_HOC_ALPHA,)) else ""


def _view(members: Sequence[Found]) -> View:
    members = sorted(members, key=lambda one: one.shots)
    first = members[0]
    names = with_result([plural(one.shots, "shot") for one in members], members)
    chosen = "; ".join(f"{name}: alpha {listed(one.alphas)}" for name, one in zip(names, members, strict=True))
    draws = plural(len({run["draw"] for run in members[-1].chosen}), "draw")
    return View(
        name=f"{first.place} · {first.method} · {first.protocol}",
        protocol=first.chosen_on,
        notes=(f"Chosen: {chosen}. Means over draws (of {names[-1]}: {draws}).",),
        toggles=(Toggle(_SELECTION, f"show accuracy on {first.protocol}, which chose", False),),
        charts=(
            Chart(
                title=f"{first.method} on {first.dataset}: test accuracy against alpha, {first.chosen_on}",
                says=f"Lines of test accuracy against alpha for {', '.join(names)}. {chosen}.",
                spec=_spec(members, names),
                series=names,
                palette="ordinal" if 1 < len(names) <= 5 else "category",
                table=_table(members, names),
                wide=True,
            ),
        ),
    )


def _spec(members: Sequence[Found], names: Sequence[str]) -> Spec:
    values: Rows = []
    for one, name in zip(members, names, strict=True):
        for point in points(one):
            row = {"series": name, "shots": name, "alpha": point.alpha, "protocol": one.chosen_on}
            mean, spread = point.test
            low, high = (percent(mean - spread), percent(mean + spread)) if spread == spread else (None, None)
            times = f"by {point.times_chosen} of {plural(len(one.chosen), 'fit')}" if point.times_chosen else "no"
            told_test = {"test %": told_spread(point.test), "chosen": times}
            values.append(
                row
                | {"on": "test", "accuracy": percent(mean), "low": low, "high": high, "times": point.times_chosen}
                | told_test
            )
            if point.selection and one.protocol != "test-oracle":
                values.append(row | {"on": _SELECTION, "accuracy": percent(point.selection[0])})
        if one.zero_shot is not None:
            values.append({"on": "zero-shot", "accuracy": percent(one.zero_shot)})
    tried = [row["alpha"] for row in values if "alpha" in row]
    logarithmic = min(tried, default=0) > 0 and max(tried) >= 100 * min(tried)
    x = number("alpha", _title(members[0]), scale={"type": "log"} if logarithmic else {"zero": True, "nice": False})
    y = accuracy()
    told_fields = tooltip("shots", "alpha", "test %", "chosen", "protocol")
    test = "datum.on == 'test'"
    return spec(
        values,
        [
            *level("accuracy", "zero-shot CLIP", only("datum.on == 'zero-shot'")),
            layer(
                {"type": "area", "opacity": 0.1, "line": False},
                {"x": x, "y": accuracy("low"), "y2": {"field": "high"}, "color": colour(names)},
                transform=only(f"{test} && datum.low != null"),
            ),
            layer(
                {"type": "line", "strokeDash": [4, 3], "opacity": 0.7, "strokeWidth": 1.2},
                {"x": x, "y": y, "color": colour(names)},
                transform=only(f"datum.on == '{_SELECTION}' && {_SELECTION}"),
            ),
            layer("line", {"x": x, "y": y, "color": colour(names)}, transform=only(test)),
            layer(
                {"type": "point", "filled": True, "opacity": 1},
                {
                    "x": x,
                    "y": y,
                    "color": colour(names),
                    "size": {"field": "times", "type": "quantitative", "legend": None, "scale": {"range": [70, 170]}},
                },
                transform=only(f"{test} && datum.times > 0"),
            ),
            layer(
                {"type": "point", "filled": True, "opacity": 0.01, "size": 160},
                {"x": x, "y": y, "tooltip": told_fields},
                transform=only(test),
            ),
        ],
        height=300,
        params=[{"name": _SELECTION, "value": False}],
    )


def _title(one: Found) -> str:
    if _axis(one) == POST_HOC_ALPHA:
        return "alpha, blended after one training (post hoc)"
    return "residual ratio alpha" if one.adapter == "clip_adapter" else f"alpha of {one.adapter}"


def _table(members: Sequence[Found], names: Sequence[str]) -> Table:
    rows = [
        (
            name,
            f"{point.alpha:g}",
            told_spread(point.selection) if point.selection else "–",
            told_spread(point.test),
            f"{point.times_chosen} of {len(one.chosen)}" if point.times_chosen else "",
            told(one.zero_shot),
        )
        for one, name in zip(members, names, strict=True)
        for point in points(one)
    ]
    protocol = members[0].protocol
    return Table(
        columns=("shots", "alpha", f"{protocol} %", "test %", "chosen", "zero-shot, test %"),
        rows=tuple(rows),
        caption=f"Accuracy by alpha, {protocols_words(members)}",
    )

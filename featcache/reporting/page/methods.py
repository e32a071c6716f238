"""Methods side by side with what they cost (the paper's Table 1)."""

from __future__ import annotations

from collections.abc import Sequence

from featcache.reporting.page.gather import Found, Gathered, grouped, protocols_words, with_result
from featcache.reporting.page.marks import accuracy, layer, only, spec, tooltip
from featcache.reporting.page.model import Blank, Chart, Panel, Rows, Table, View
from featcache.reporting.page.references import paper_table
from featcache.reporting.page.words import duration, gain, listed, percent, plural, told, told_spread

KEY = "methods"


def panel(gathered: Gathered) -> Panel:
    """One view for each store, prompt set, part of the classes and number of shots; the most shots first."""
    groups = grouped(gathered.found, lambda one: (one.store_key, one.text_set, one.classes, one.shots))
    ordered = sorted(groups.values(), key=lambda members: (-len(members), -members[0].shots))
    several = any(len(members) > 1 for members in ordered)
    return Panel(
        key=KEY,
        title="Which method, at what cost?",
        lead="Accuracy beside the numbers it is bought with. Training time is the whole search's, all of its runs "
        "stacked, divided by their number; time an image is the whole test pass divided by runs and images, on "
        "embeddings that are already there. Times are of the machine named in the last column and not comparable "
        "across machines.",
        views=tuple(_view(members) for members in ordered),
        blanks=() if several else (Blank("only one method was fitted", "featcache fit --adapter all"),),
    )


def _view(members: Sequence[Found]) -> View:
    first = members[0]
    ranked = sorted(members, key=lambda one: -(one.test[0] if one.test[0] == one.test[0] else -1.0))
    table = paper_table(first.dataset, first.num_test, first.model, first.shots)
    published = (
        ()
        if table is None
        else (
            Table(
                columns=tuple(table["columns"]),
                rows=tuple(tuple(row) for row in table["rows"]),
                caption=f"For comparison: {table['source']}",
            ),
        )
    )
    return View(
        name=f"{first.place}, {plural(first.shots, 'shot')}",
        protocol=protocols_words(members),
        tables=(_table(ranked), *published),
        charts=(_chart(ranked),) if len(ranked) > 1 else (),
    )


def params(one: Found) -> int | None:
    """Numbers that gradient steps can change, the most of any chosen run; None for a method that takes none."""
    return max((run["num_params"] for run in one.chosen if run["num_params"] is not None), default=None)


def training_s(one: Found) -> float:
    """Seconds of training a run, of a search whose runs were trained together."""
    return float(one.search["seconds"].get("train", 0.0)) / len(one.runs)


def _image_s(one: Found) -> float | None:
    """Seconds an image and run of the test pass."""
    whole, images = one.search["seconds"].get("test"), one.num_test * len(one.runs)
    return float(whole) / images if whole and images else None


def _table(ranked: Sequence[Found]) -> Table:
    rows = []
    for one in ranked:
        size, per_image = params(one), _image_s(one)
        rows.append(
            (
                str(one.id),
                one.method,
                one.protocol,
                told_spread(one.test),
                "–" if one.zero_shot is None else gain(one.test[0] - one.zero_shot),
                _chosen_words(one),
                "–" if size is None else f"{size:,}",
                duration(training_s(one)),
                "–" if per_image is None else duration(per_image),
                f"{len(one.runs)} in {duration(sum(one.search['seconds'].values()))}",
                one.search["device"],
            )
        )
    columns = ("result", "method", "chosen on", "test %", "over zero-shot", "chosen", "parameters", "training a run")
    zero = ranked[0].zero_shot
    under = "" if zero is None else f"; zero-shot CLIP {told(zero)} %"
    return Table(
        columns=(*columns, "time an image", "runs", "on"),
        rows=tuple(rows),
        caption=f"Methods by test accuracy, ± over draws{under}",
        is_open=True,
    )


def _chosen_words(one: Found) -> str:
    words = [f"{name} {listed([run['config'][name] for run in one.chosen])}" for name in one.searched]
    return "; ".join(words) or "–"


def _chart(ranked: Sequence[Found]) -> Chart:
    names = with_result([f"{one.method} · {one.protocol}" for one in ranked], ranked)
    values: Rows = [
        {
            "method": name,
            "chosen on": one.chosen_on,
            "parameters": "–" if params(one) is None else f"{params(one):,}",
            "training a run": duration(training_s(one)),
            "accuracy": percent(one.test[0]),
            "low": percent(one.test[0] - one.test[1]),
            "high": percent(one.test[0] + one.test[1]),
            "test %": told_spread(one.test),
        }
        for name, one in zip(names, ranked, strict=True)
    ]
    if ranked[0].zero_shot is not None:
        values.append({"zero": percent(ranked[0].zero_shot), "told": "zero-shot CLIP"})
    # Names stand over their rows, not beside the plot: on a phone they would leave it no room, or be cut.
    axis = {"grid": True, "labels": False, "ticks": False, "domain": False}
    y = {"field": "method", "type": "nominal", "sort": list(names), "title": None, "axis": axis}
    name = {"type": "text", "align": "left", "baseline": "bottom", "dy": -5, "limit": {"expr": "width"}}
    told_fields = tooltip("method", "test %", "chosen on", "parameters", "training a run")
    order = ", ".join(f"{name} {told(one.test[0])} %" for name, one in zip(names, ranked, strict=True))
    made = only("isValid(datum.method)")
    return Chart(
        title=f"Test accuracy of {plural(len(ranked), 'method')}, mean and spread over draws",
        says=f"Methods from the best down: {order}.",
        spec=spec(
            values,
            [
                layer(
                    {"type": "rule", "style": "reference", "strokeDash": [2, 3]},
                    {"x": accuracy("zero"), "tooltip": tooltip("told", "zero")},
                    transform=only("isValid(datum.zero)"),
                ),
                layer(
                    {**name, "style": "words"}, {"x": {"value": 0}, "y": y, "text": {"field": "method"}}, transform=made
                ),
                layer(
                    {"type": "rule", "style": "accent", "opacity": 0.5},
                    {"x": accuracy("low"), "x2": {"field": "high"}, "y": y},
                    transform=made,
                ),
                layer(
                    {"type": "point", "filled": True, "size": 75, "opacity": 1, "style": "accent"},
                    {"x": accuracy(), "y": y, "tooltip": told_fields},
                    transform=made,
                ),
            ],
            height=34 * len(ranked),
        ),
        wide=True,
    )

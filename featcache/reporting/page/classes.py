"""Class by class: what is taken for what, and which classes an adapter gains or loses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from featcache import measures
from featcache.assessment import class_accuracy
from featcache.predictions import Answers, Items
from featcache.reporting.page.closely import Seen, nothing_kept, places, zero_shot
from featcache.reporting.page.gather import Gathered
from featcache.reporting.page.marks import layer, number, only, spec, tooltip
from featcache.reporting.page.model import Blank, Chart, Panel, Rows, Spec, Table, View, told_apart
from featcache.reporting.page.words import gain, percent, plural, told

CONFUSION = "confusion"
GAINS = "classes"
_MOST = 30
"""Classes that a matrix or a chart shows, the most confused or the most moved ones."""
_MATRIX = 3000
"""Classes of which a matrix is made."""
_CELLS = 200
"""Confusions that a table names."""


def confusion_panel(gathered: Gathered) -> Panel:
    """A confusion matrix for each search that is looked at closely."""
    found = places(gathered)
    return Panel(
        key=CONFUSION,
        title="What is taken for what?",
        lead="Rows are true classes, columns what their test images are taken for, as a share of the class's images, "
        "mean over draws. A perfect method fills the diagonal alone.",
        views=tuple(_confusion(seen) for place in found for seen in place),
        blanks=() if found else (nothing_kept(),),
    )


def gains_panel(gathered: Gathered) -> Panel:
    """Per-class gains over zero-shot CLIP for each search that is looked at closely."""
    views, blanks = [], []
    for place in places(gathered):
        before = zero_shot(gathered, place[0])
        if isinstance(before, Blank):
            blanks.append(before)
        else:
            views += [_gains(seen, before) for seen in place if seen.one.adapter != "zero_shot"]
    return Panel(
        key=GAINS,
        title="Which classes gain, which lose?",
        lead="Test accuracy of each class over zero-shot CLIP's on the same images, in points, mean over draws. Losses "
        "are what an average hides.",
        views=tuple(views),
        blanks=tuple(blanks) or (() if views else (nothing_kept(),)),
    )


def name_of(seen: Seen) -> str:
    """What a search is called where one of several is shown."""
    one = seen.one
    return f"{one.place}, {plural(one.shots, 'shot')} · {one.method} · {one.protocol}, result {one.id}"


def _counts(items: Items, answers: Sequence[Answers]) -> measures.Floats:
    """(C, C) images of each class taken for each, the mean over runs."""
    size = len(items.classes)
    each = [measures.confusion(items.label, answer.predictions.predicted, size) for answer in answers]
    mean: measures.Floats = np.mean(each, axis=0)
    return mean


def _confusion(seen: Seen) -> View:
    names = seen.items.classes
    if len(names) > _MATRIX:  # the matrix itself would be large; the list of confusions never is
        return View(name=name_of(seen), protocol=seen.one.chosen_on, tables=(_confused(seen),))
    counts = _counts(seen.items, seen.answers)
    wrong = counts - np.diag(np.diag(counts))
    most = np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:_MOST]
    shown = np.sort(most).tolist()
    part = "" if len(shown) == len(names) else f", the {len(shown)} most confused of {len(names)} classes"
    right = told(float(np.trace(counts) / counts.sum()))
    chart = Chart(
        title=f"{seen.one.method}, {seen.one.protocol}: confusions on test{part}",
        says=f"A matrix of true against predicted classes; {right} % of test images lie on its diagonal.",
        spec=_matrix(counts, shown, told_apart([names[at] for at in shown]), seen.one.protocol),
        table=_confused(seen),
        wide=True,
    )
    return View(name=name_of(seen), protocol=seen.one.chosen_on, charts=(chart,))


def _matrix(counts: measures.Floats, shown: Sequence[int], names: Sequence[str], protocol: str) -> Spec:
    total = counts.sum(axis=1)
    values: Rows = [
        {
            "true": names[row],
            "taken for": names[column],
            "share": round(100 * float(counts[at, to] / total[at]), 2),
            "images": f"{counts[at, to]:.3g} of {total[at]:.0f}",
            "chosen on": protocol,
        }
        for row, at in enumerate(shown)
        for column, to in enumerate(shown)
        if counts[at, to] > 0
    ]
    axis = {"labelOverlap": False, "ticks": False, "domain": False}
    channel = {"type": "nominal", "scale": {"domain": list(names)}, "sort": list(names)}
    shade = {
        "field": "share",
        "type": "quantitative",
        "title": "% of the class",
        "scale": {"type": "sqrt", "domain": [0, 100], "range": "heatmap"},
        "legend": {"orient": "top", "gradientLength": 140, "gradientThickness": 8, "values": [0, 5, 25, 50, 100]},
    }
    encoding = {
        "y": {**channel, "field": "true", "title": "true", "axis": axis},
        "x": {
            **channel,
            "field": "taken for",
            "title": "taken for",
            "axis": {**axis, "labelAngle": -60, "labelLimit": 100},
        },
        "color": shade,
        "tooltip": tooltip("true", "taken for", "images", "share", "chosen on"),
    }
    return spec(values, [layer("rect", encoding)], height=(34 if len(shown) <= 12 else 18) * len(shown))


def _confused(seen: Seen) -> Table:
    label = np.tile(seen.items.label, len(seen.answers))
    predicted = np.concatenate([answer.predictions.predicted for answer in seen.answers])
    cells = measures.confused(label, predicted, len(seen.items.classes))
    names, runs = seen.items.classes, len(seen.answers)
    rows = [(names[cell.label], names[cell.predicted], f"{cell.images / runs:.3g}") for cell in cells[:_CELLS]]
    more = f", the first {_CELLS} of {len(cells):,}" if len(cells) > _CELLS else ""
    return Table(
        columns=("true", "taken for", "images a draw"),
        rows=tuple(rows),
        caption=f"Confusions{more}, {seen.one.chosen_on}",
    )


def _gains(seen: Seen, before: Answers) -> View:
    items = seen.items
    first, second = class_accuracy(items, [before]), class_accuracy(items, seen.answers)
    images = np.bincount(items.label, minlength=len(items.classes))
    order = [int(at) for at in np.argsort(first - second, kind="stable") if images[at]]
    moved = [at for at in order if first[at] != second[at]] or order
    shown = moved if len(moved) <= _MOST else moved[: _MOST // 2] + moved[-_MOST // 2 :]
    names = told_apart([items.classes[at] for at in shown])
    changes = {
        at: (str(images[at]), told(float(first[at])), told(float(second[at])), _points(first, second, at))
        for at in order
    }
    losses = sum(1 for at in order if second[at] < first[at])
    which = "that move most" if len(shown) < len(moved) else "that move"
    part = "" if len(shown) == len(order) else f": the {len(shown)} {which} of {len(order)}"
    values: Rows = [
        {
            "class": name,
            "gain": percent(float(second[at] - first[at])),
            "direction": "gain" if second[at] >= first[at] else "loss",
            "chosen on": seen.one.protocol,
            **dict(zip(("images", "zero-shot %", "test %", "points"), changes[at], strict=True)),
        }
        for at, name in zip(shown, names, strict=True)
    ]
    chart = Chart(
        title=f"{seen.one.method}, {seen.one.protocol}, against zero-shot, class by class{part}",
        says=f"Bars of points gained by class: {losses} of {len(order)} classes lose against zero-shot CLIP.",
        spec=_bars(values, names),
        table=Table(
            columns=("class", "test images", "zero-shot %", "test %", "gain"),
            rows=tuple((items.classes[at], *changes[at]) for at in order),
            caption=f"Test accuracy by class, {seen.one.chosen_on}",
        ),
        wide=True,
    )
    note = f"{losses} of {len(order)} classes lose; {_ties(first, second)} stay as they were."
    return View(name=name_of(seen), protocol=seen.one.chosen_on, charts=(chart,), notes=(note,))


def _bars(values: Rows, names: Sequence[str]) -> Spec:
    y = {"field": "class", "type": "nominal", "sort": list(names), "title": None}
    x = number("gain", "points over zero-shot CLIP", scale={"zero": True})
    told_fields = tooltip("class", "points", "zero-shot %", "test %", "images", "chosen on")
    bars = [
        layer(
            {"type": "bar", "style": style, "opacity": opacity, "height": {"band": 0.7}},
            {"x": x, "y": y, "tooltip": told_fields},
            transform=only(f"datum.direction == '{direction}'"),
        )
        for direction, style, opacity in (("gain", "accent", 0.9), ("loss", "quiet", 0.55))
    ]
    return spec(values, bars, height=17 * len(names))


def _points(first: measures.Floats, second: measures.Floats, at: int) -> str:
    return gain(float(second[at] - first[at]))


def _ties(first: measures.Floats, second: measures.Floats) -> int:
    return sum(1 for a, b in zip(first.tolist(), second.tolist(), strict=True) if not math.isnan(a) and a == b)

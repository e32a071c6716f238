"""Accuracy against shots for all methods, data set by data set and in the mean (the paper's Fig. 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from featcache.prompts import DEFAULT
from featcache.reporting.page.gather import Found, Gathered, grouped, protocols_words
from featcache.reporting.page.marks import accuracy, colour, dash, layer, level, only, spec, tooltip
from featcache.reporting.page.model import Blank, Chart, Panel, Rows, Spec, Table, View, unique
from featcache.reporting.page.references import Reference, fitting
from featcache.reporting.page.words import percent, told, told_spread

KEY = "shots"


class Line(NamedTuple):
    """One method on one data set, or in the mean."""

    series: str
    protocol: str
    at: Mapping[int, tuple[float, float]]
    """Shots -> mean and spread over draws of the test accuracy, fractions."""


def panel(gathered: Gathered) -> Panel:
    """One view for each backbone, preprocessing, prompt set and part of the classes."""
    groups = grouped(gathered.found, lambda one: (one.model, one.style, one.text_set, one.classes))
    several = any(len({one.shots for one in members}) > 1 for members in groups.values())
    blanks = () if several else (Blank("no method was fitted at several shots", "featcache fit --shots 1,2,4,8,16"),)
    return Panel(
        key=KEY,
        title="How many shots?",
        lead="Test accuracy of every method against labelled images a class, mean over draws. Dashed grey lines are "
        "published figures, drawn only where data set, test split, backbone and preprocessing are the same.",
        views=tuple(_view(members) for members in groups.values()),
        blanks=blanks,
    )


def series_of(one: Found) -> str:
    """What tells a method apart in a plot: never without its protocol."""
    return f"{one.method} · {one.protocol}"


def _view(members: Sequence[Found]) -> View:
    first = members[0]
    series = unique([series_of(one) for one in members])
    by_data = grouped(members, lambda one: (one.dataset, one.store))
    lines = {place: _lines(own) for place, own in by_data.items()}
    zero_shot = {place: own[0].zero_shot for place, own in by_data.items()}
    charts = [
        _chart(
            own[0].dataset if len({dataset for dataset, _ in by_data}) == len(by_data) else own[0].store,
            lines[place],
            zero_shot[place],
            series,
            fitting({own[0].dataset: own[0].num_test}, first.model, first.style) if first.text_set == DEFAULT else [],
        )
        for place, own in by_data.items()
    ]
    notes = []
    if len(by_data) > 1:
        mean, lacking = _mean(lines)
        sizes = {own[0].dataset: own[0].num_test for own in by_data.values()}
        known = [value for value in zero_shot.values() if value is not None]
        zero = fmean(known) if len(known) == len(by_data) else None
        references = fitting(sizes, first.model, first.style) if len(sizes) == len(by_data) else []
        if mean:
            charts.insert(0, _chart(f"mean over {len(by_data)} data sets", mean, zero, series, references))
        none = "Not in the mean" if mean else "No mean over data sets is drawn"
        notes += [f"{none}, for a data set lacks them: {', '.join(lacking)}."] if lacking else []
    words = [first.model, f"{first.style or 'unknown'} preprocessing", f"prompts {first.text_set}"]
    words += [f"{first.classes} classes"] if first.classes != "all" else []
    return View(name=", ".join(words), charts=tuple(charts), notes=tuple(notes), protocol=protocols_words(members))


def _lines(members: Sequence[Found]) -> list[Line]:
    return [
        Line(series, own[0].chosen_on, {one.shots: one.test for one in sorted(own, key=lambda one: one.shots)})
        for series, own in grouped(members, series_of).items()
    ]


def _mean(lines: Mapping[tuple[str, str], Sequence[Line]]) -> tuple[list[Line], list[str]]:
    """Each method's mean over all data sets, and what was left out because one lacks it."""
    found: dict[str, list[Line]] = {}
    for own in lines.values():
        for line in own:
            found.setdefault(line.series, []).append(line)
    kept, lacking = [], []
    for series, each in found.items():
        shots = [k for k in each[0].at if len(each) == len(lines) and all(k in line.at for line in each)]
        if shots:
            means = {k: (fmean(line.at[k][0] for line in each), math.nan) for k in shots}
            kept.append(Line(series, each[0].protocol, means))
        if len(shots) < len({k for line in each for k in line.at}):
            lacking.append(series)
    return kept, lacking


def _chart(
    place: str, lines: Sequence[Line], zero_shot: float | None, series: Sequence[str], references: Sequence[Reference]
) -> Chart:
    zero = "" if zero_shot is None else f" Zero-shot CLIP: {told(zero_shot)} %."
    published = f" Published lines: {'; '.join(one.name for one in references)}." if references else ""
    best = max(
        ((line.at[k][0], line.series, k) for line in lines for k in line.at if line.at[k][0] == line.at[k][0]),
        default=None,
    )
    top = "" if best is None else f" The highest is {best[1]} at {best[2]} shots, {told(best[0])} %."
    return Chart(
        title=f"{place}: test accuracy against shots",
        says=f"Test accuracy against shots for {len(lines)} methods on {place}.{top}{zero}{published}",
        spec=_spec(lines, zero_shot, series, references),
        series=tuple(series),
        table=_table(place, lines, zero_shot, references),
        wide=place.startswith("mean"),
    )


def _spec(
    lines: Sequence[Line], zero_shot: float | None, series: Sequence[str], references: Sequence[Reference]
) -> Spec:
    values: Rows = [
        {
            "series": line.series,
            "method": line.series,
            "shots": shots,
            "accuracy": percent(value[0]),
            "test %": told_spread(value),
            "chosen on": line.protocol,
        }
        for line in lines
        for shots, value in line.at.items()
    ]
    ticks = sorted({row["shots"] for row in values})
    for one in references:
        values += [
            {
                "published": one.name,
                "method": one.name,
                "shots": shots or ticks[0],
                "accuracy": value,
                "test %": f"{value:g}",
                "chosen on": one.protocol,
                "level": not shots,
            }
            for shots, value in one.points
        ]
    if zero_shot is not None:
        values.append({"zero": True, "accuracy": percent(zero_shot), "method": "zero-shot CLIP, here"})
    scale = {"type": "log", "base": 2, "nice": False, "padding": 12}
    x = {"field": "shots", "type": "quantitative", "title": "labelled images a class", "scale": scale}
    x["axis"] = {"values": sorted({*ticks, *(k for one in references for k, _ in one.points if k)}), "grid": False}
    y, told_fields = accuracy(), tooltip("method", "shots", "test %", "chosen on")
    at = {"x": x, "y": y, "tooltip": told_fields}
    dashed = {"type": "line", "style": "reference", "strokeDash": [5, 4], "strokeWidth": 1.1}
    return spec(
        values,
        [
            *level("accuracy", "zero-shot CLIP, here", only("datum.zero == true")),
            *level("accuracy", "zero-shot CLIP, published", only("datum.level == true")),
            layer(
                dashed,
                {**at, "detail": {"field": "published"}},
                transform=only("isValid(datum.published) && !datum.level"),
            ),
            layer(
                {"type": "point", "style": "quiet", "shape": "diamond", "size": 45},
                at,
                transform=only("isValid(datum.published) && !datum.level"),
            ),
            layer(
                "line",
                {"x": x, "y": y, "color": colour(series), "strokeDash": dash(series)},
                transform=only("isValid(datum.series)"),
            ),
            layer(
                {"type": "point", "filled": True, "size": 55, "opacity": 1},
                {**at, "color": colour(series)},
                transform=only("isValid(datum.series)"),
            ),
        ],
    )


def _table(place: str, lines: Sequence[Line], zero_shot: float | None, references: Sequence[Reference]) -> Table:
    shots = sorted({k for line in lines for k in line.at} | {k for one in references for k, _ in one.points if k})
    rows = [
        (line.series, line.protocol, *(told_spread(line.at[k]) if k in line.at else "–" for k in shots))
        for line in lines
    ]
    if zero_shot is not None:
        rows.append(("zero-shot CLIP", "nothing chosen", *(told(zero_shot) for _ in shots)))
    for one in references:
        at = dict(one.points)
        rows.append((f"published: {one.name}", one.protocol, *(f"{at.get(k, at.get(0, '–'))}" for k in shots)))
    heads = (f"{k} shot{'s' if k > 1 else ''}" for k in shots)
    return Table(columns=("method", "chosen on", *heads), rows=tuple(rows), caption=f"Test %, {place}; ± over draws")

"""Data set by data set: what is gained (Fig. 4), and whether a larger domain gap asks for a larger alpha."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch

from featcache.errors import FeatcacheError
from featcache.ops import normalise
from featcache.reporting.page.gather import Found, Gathered, grouped, protocols_words
from featcache.reporting.page.marks import accuracy, layer, number, only, spec, tooltip
from featcache.reporting.page.model import Blank, Chart, Panel, Rows, Spec, Table, View
from featcache.reporting.page.stores import frozen_of, test_rows
from featcache.reporting.page.words import gain, listed, percent, plural, told, told_spread
from featcache.text_sources import sources_of

GAIN = "gain"
GAP = "gap"


def gain_panel(gathered: Gathered) -> Panel:
    """One view for each method, backbone, prompt set, number of shots and protocol."""
    found = [one for one in gathered.found if one.zero_shot is not None and one.adapter != "zero_shot"]
    groups = grouped(found, lambda one: (one.method, one.model, one.style, one.text_set, one.classes, one.shots))
    ordered = sorted(groups.values(), key=lambda each: (-len(each), each[0].adapter != "clip_adapter", -each[0].shots))
    several = [members for members in ordered if len(members) > 1]
    blank = Blank("no method was fitted on two data sets with one backbone", "featcache fit --all")
    return Panel(
        key=GAIN,
        title="Where does it help?",
        lead="Points of test accuracy over zero-shot CLIP on each data set, largest first.",
        views=tuple(_gain(members) for members in (several or ordered[:1])),
        blanks=() if several else (blank,),
    )


def gap_panel(gathered: Gathered) -> Panel:
    """The chosen alpha against two measures of how far a data set lies from what CLIP has seen."""
    found = [one for one in gathered.found if _has_ratio(one)]
    groups = grouped(found, lambda one: (one.method, one.shots, one.protocol, one.classes))
    ordered = sorted(groups.values(), key=lambda members: (-len(members), -members[0].shots))
    kept = [members for members in ordered if len({one.store_key for one in members}) > 1] or ordered[:1]
    blanks = [] if kept else [Blank("no result searched alpha alone", "featcache fit --alpha-grid 0:1:0.1")]
    if kept and len({one.store_key for one in kept[0]}) == 1:
        blanks.append(Blank("one data set shows no relation", "featcache fit --all --alpha-grid 0:1:0.1"))
    views = []
    for members in kept:
        cosines = {one.store_key: _cosine(gathered, one) for one in members}
        gone = sorted({one.store for one in members if cosines[one.store_key] is None})
        blanks += (
            [Blank(f"the mean cosine on {', '.join(gone)}, whose store is gone or has no text", "")] if gone else []
        )
        views.append(_gap(members, cosines))
    return Panel(
        key=GAP,
        title="Does a larger gap ask for a larger alpha?",
        lead="The alpha that was chosen, mean over draws, against 1 - zero-shot accuracy and the mean cosine of "
        "a test image to its own class's text. The paper finds large ratios on fine-grained data far from CLIP's.",
        views=tuple(views),
        blanks=tuple(dict.fromkeys(blanks)),
    )


def _gain(members: Sequence[Found]) -> View:
    ranked = sorted(members, key=lambda one: -_over(one))
    told_protocol = len({one.protocol for one in ranked}) > 1  # else the view says it once
    names = [one.dataset + (f" · {one.protocol}" if told_protocol else "") for one in ranked]
    if len(set(names)) < len(names):
        names = [f"{one.store} · {one.protocol}" for one in ranked]
    first, mean = members[0], gain(fmean(_over(one) for one in members))
    chart = Chart(
        title=f"{first.method}: points over zero-shot, {plural(first.shots, 'shot')}",
        says=f"Bars of points gained on {plural(len(members), 'data set')}; {mean} in the mean.",
        spec=_bars(ranked, names),
        wide=True,
        table=Table(
            columns=("data set", "zero-shot %", "test %", "gain", "chosen on"),
            rows=tuple(
                (name, told(one.zero_shot), told_spread(one.test), gain(_over(one)), one.protocol)
                for name, one in zip(names, ranked, strict=True)
            ),
            caption=f"Gains over zero-shot, {mean} in the mean",
        ),
    )
    place = f"{first.method}, {first.model}, {first.style or 'unknown'} preprocessing, prompts {first.text_set}"
    return View(name=f"{place}, {plural(first.shots, 'shot')}", protocol=protocols_words(members), charts=(chart,))


def _bars(ranked: Sequence[Found], names: Sequence[str]) -> Spec:
    values: Rows = [
        {
            "data": name,
            "gain": percent(_over(one)),
            "points": gain(_over(one)),
            "zero-shot %": told(one.zero_shot),
            "test %": told_spread(one.test),
            "chosen on": one.protocol,
        }
        for name, one in zip(names, ranked, strict=True)
    ]
    most = 100 * max(_over(one) for one in ranked)
    room = {"domainMax": round(1.2 * most, 2)} if most > 0 else {}  # for the words at a bar's end
    y = {"field": "data", "type": "nominal", "sort": list(names), "title": None}
    at = {"x": number("gain", "points over zero-shot CLIP", scale={"zero": True, **room}), "y": y}
    told_fields = tooltip("data", "points", "zero-shot %", "test %", "chosen on")
    bar = {"type": "bar", "style": "accent", "height": {"band": 0.6}}
    label = {"type": "text", "align": "left", "dx": 5}
    layers = [layer(bar, {**at, "tooltip": told_fields}), layer(label, {**at, "text": {"field": "points"}})]
    return spec(values, layers, height=26 * len(ranked))


def _over(one: Found) -> float:
    return one.test[0] - (one.zero_shot or 0.0)


def _cosine(gathered: Gathered, one: Found) -> float | None:
    """The mean cosine of a test image to its own class's text; None where the store cannot tell."""
    try:
        with gathered.stores.open(one.store_key, one.store) as store:
            frozen, rows = (
                frozen_of(store, sources_of(one.text_set).written, one.classes),
                test_rows(store, one.classes),
            )
    except FeatcacheError:
        return None
    if not frozen.text.shape[1]:
        return None
    return float(torch.linalg.vecdot(normalise(rows.image), frozen.text[rows.label]).mean())


def _has_ratio(one: Found) -> bool:
    """Whether its residual ratio was chosen; the alpha of other methods is another quantity."""
    return one.adapter == "clip_adapter" and one.searched == ("alpha",) and one.zero_shot is not None


def _gap(members: Sequence[Found], cosines: dict[str, float | None]) -> View:
    rows, values = [], []
    for one in members:
        cosine = cosines[one.store_key]
        alpha = fmean(one.alphas)
        words = {
            "data": one.store,
            "alphas": listed(one.alphas),
            "test %": told_spread(one.test),
            "chosen on": one.protocol,
        }
        values.append(
            words
            | {"alpha": round(alpha, 4), "gap": percent(1 - (one.zero_shot or 0.0))}
            | {"cosine": None if cosine is None else round(cosine, 4)}
        )
        rows.append(
            (
                one.store,
                listed(one.alphas),
                told(1 - (one.zero_shot or 0.0)),
                "–" if cosine is None else f"{cosine:.4f}",
                told_spread(one.test),
                one.protocol,
            )
        )
    first = members[0]
    y = number("alpha", "chosen alpha", scale={"domain": [0, 1]})
    table = Table(
        columns=("store", "chosen alpha", "1 - zero-shot, %", "mean cosine", "test %", "chosen on"),
        rows=tuple(rows),
        caption=f"Chosen alpha and domain gap, {first.chosen_on}",
    )
    charts = [
        Chart(
            title=f"Chosen alpha against {title}, {first.protocol}",
            says=f"A mark a data set: the chosen alpha against {title}.",
            spec=_scatter(values, x, y, field),
            table=table if field == "gap" else None,
        )
        for field, title, x in (
            ("gap", "1 - zero-shot accuracy", accuracy("gap", "1 - zero-shot accuracy, %")),
            ("cosine", "mean cosine", number("cosine", "mean cosine of a test image to its class's text")),
        )
        if any(row[field] is not None for row in values)
    ]
    return View(
        name=f"{first.method}, {plural(first.shots, 'shot')} · {first.protocol}",
        protocol=first.chosen_on,
        charts=tuple(charts),
    )


def _scatter(values: Rows, x: Spec, y: Spec, field: str) -> Spec:
    at = {"x": x, "y": y}
    made = only(f"isValid(datum.{field})")
    return spec(
        values,
        [
            layer(
                {"type": "point", "filled": True, "size": 95, "opacity": 1, "style": "accent"},
                {**at, "tooltip": tooltip("data", "alphas", field, "test %", "chosen on")},
                transform=made,
            ),
            layer(
                {"type": "text", "dy": -11, "fontSize": 10, "limit": 130},
                {**at, "text": {"field": "data"}},
                transform=made,
            ),
        ],
    )

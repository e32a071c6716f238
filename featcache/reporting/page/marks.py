"""The parts that the plots' specifications share, in the grammar of Vega-Lite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from featcache.reporting.page.model import Rows, Spec

HIDDEN = "hidden"
"""The parameter that lists series not to draw."""
NUM_COLOURS = 10
"""Of the palette; beyond them lines are dashed."""
HEIGHT = 230
"""Pixels of a usual plot."""


def spec(values: Rows, layers: Sequence[Spec], *, height: int = HEIGHT, params: Sequence[Spec] = ()) -> Spec:
    """A plot of layers over the same values, as wide as its place; series named in HIDDEN are left out."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "params": [{"name": HIDDEN, "value": []}, *params],
        "data": {"name": "rows", "values": values},
        "transform": [{"filter": f"indexof({HIDDEN}, datum.series) < 0"}],
        "layer": list(layers),
    }


def number(field: str, title: str, **more: Any) -> Spec:
    """A channel of numbers whose axis need not hold zero."""
    axis = {"tickCount": 6, "format": "~r"}
    channel = {"field": field, "type": "quantitative", "title": title, "axis": axis}
    return {**channel, "scale": {"zero": False, "nice": True}, **more}


def accuracy(field: str = "accuracy", title: str = "test accuracy, %", **more: Any) -> Spec:
    """A channel of accuracies in per cent."""
    return number(field, title, **more)


def colour(names: Sequence[str]) -> Spec:
    """A channel that tells series apart; the page has a legend of its own."""
    return {"field": "series", "type": "nominal", "scale": {"domain": list(names)}, "legend": None}


def dash(names: Sequence[str]) -> Spec:
    """A channel that tells apart series whose colours are used a second time."""
    strokes = [[1, 0] if index < NUM_COLOURS else [5, 3] for index in range(len(names))]
    return {"field": "series", "type": "nominal", "scale": {"domain": list(names), "range": strokes}, "legend": None}


def tooltip(*fields: str) -> list[Spec]:
    """What is told of a mark under the pointer: fields that are named as they should read."""
    return [{"field": name, "type": "nominal"} for name in fields]


def layer(mark: str | Spec, encoding: Spec, **more: Any) -> Spec:
    """One layer."""
    return {"mark": mark, "encoding": encoding, **more}


def level(field: str, words: str, transform: list[Spec]) -> list[Spec]:
    """A dotted line right across at one accuracy, and the words for it at its left end."""
    y = {**accuracy(field), "aggregate": "max"}
    line = {"type": "rule", "style": "reference", "strokeDash": [2, 3]}
    label = {"type": "text", "align": "left", "dx": 4, "dy": 9, "fontSize": 10, "style": "words"}
    end = {"x": {"value": 0}, "y": y, "text": {"value": words}}
    return [layer(line, {"y": y}, transform=transform), layer(label, end, transform=transform)]


def only(expression: str) -> list[Spec]:
    """A transform that keeps the values an expression holds for."""
    return [{"filter": expression}]

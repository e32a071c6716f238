"""Published figures, each with its source and preprocessing: drawn only where data set, backbone and that fit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One published line."""

    method: str
    source: str
    """Where it stands, and how sure its reading is."""
    protocol: str
    """How its configuration was chosen, as far as it is known."""
    datasets: tuple[str, ...]
    """The data set, or those that it is a mean over."""
    backbone: str
    styles: tuple[str, ...]
    """Our names of the preprocessing it was made with; empty where the source does not state it for certain."""
    points: tuple[tuple[int, float], ...]
    """(shots, test accuracy in per cent); zero-shot stands at shots 0."""

    @property
    def name(self) -> str:
        """What a plot calls it."""
        return f"{self.method}, {self.source}"


@cache
def references() -> tuple[Reference, ...]:
    """All of them."""
    found = _file()
    return tuple(
        Reference(
            method=method,
            source=group["source"],
            protocol=group["protocol"].get(method, group["protocol"]["*"]),
            datasets=tuple(found["test_images"] if dataset == "mean" else [dataset]),
            backbone=group["backbone"],
            styles=tuple(group["styles"]),
            points=tuple((int(shots), float(value)) for shots, value in points.items()),
        )
        for group in found["groups"]
        for dataset, methods in group["datasets"].items()
        for method, points in methods.items()
    )


def fitting(test_images: Mapping[str, int], backbone: str, style: str) -> list[Reference]:
    """Those of exactly these data sets, this backbone and this preprocessing, which a source may leave unsaid.

    `test_images` gives the size of each data set's test split: a part of one, or another split, is not comparable.
    """
    published = _file()["test_images"]
    if any(published.get(name) != count for name, count in test_images.items()):
        return []
    return [
        one
        for one in references()
        if set(one.datasets) == set(test_images)
        and one.backbone == backbone
        and (not one.styles or style in one.styles)
    ]


def paper_table(dataset: str, num_test: int, backbone: str, shots: int) -> dict[str, Any] | None:
    """The paper's Table 1, where it is about the same: the whole test split, and the trained backbone."""
    table, whole = _file()["table_1"], _file()["test_images"].get(dataset)
    wanted = (table["dataset"], whole, table["backbone"], table["shots"])
    same = wanted == (dataset, num_test, backbone, shots)
    return table if same else None


@cache
def _file() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files(__package__) / "references.json").read_text(encoding="utf-8"))
    return found

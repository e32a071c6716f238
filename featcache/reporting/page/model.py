"""What a page is made of: panels of views of charts, tables and image cards. Plain values only, nothing drawn yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Rows = list[dict[str, Any]]
"""The values a chart draws: one mapping a mark, accuracies in per cent."""
Spec = dict[str, Any]
"""A Vega-Lite specification."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The same numbers for those who read rather than look."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    is_open: bool = False
    """Whether the table is what a view is about, and so stands open."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One plot."""

    title: str
    says: str
    """What it shows, in a sentence, for a reader who does not see it."""
    spec: Spec
    table: Table | None = None
    series: tuple[str, ...] = ()
    """Names that colours tell apart, in the palette's order; they can be shown and hidden."""
    palette: str = "category"
    """`category`, or `ordinal` for an order."""
    wide: bool = False
    """Whether it takes the whole width."""


class Toggle(NamedTuple):
    """A switch over all charts of a view: a Vega-Lite parameter that is true or false."""

    param: str
    label: str
    value: bool


class Card(NamedTuple):
    """An image and what is said of it."""

    image: str
    """A data URI; empty where the image is not at hand."""
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class View:
    """What stands together on the page; of a panel's views one is shown at a time."""

    name: str
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    cards: tuple[Card, ...] = ()
    notes: tuple[str, ...] = ()
    toggles: tuple[Toggle, ...] = ()
    protocol: str = ""
    """How its numbers were chosen, in words that stand beside them."""
    thumbnails: Mapping[int, str] = field(default_factory=dict)
    """Data URIs that the marks' field `row` names."""


class Blank(NamedTuple):
    """What a panel lacks, and the command that would make it; empty where none can."""

    why: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One question and its answers."""

    key: str
    title: str
    lead: str
    """What it answers and how to read it."""
    views: tuple[View, ...] = ()
    blanks: tuple[Blank, ...] = ()


def unique(values: Sequence[str]) -> tuple[str, ...]:
    """Each once, in order."""
    return tuple(dict.fromkeys(values))


def told_apart(names: Sequence[str]) -> list[str]:
    """The names, numbered where several are the same: an axis would lay them on each other."""
    seen: dict[str, int] = {}
    told_names = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        told_names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return told_names

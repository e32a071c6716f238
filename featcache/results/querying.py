"""Which searches a list shows: filters, the best of each group by what chose, and questions in SQL."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from featcache.errors import ConfigError, UnknownNameError
from featcache.results.reading import Summary, summaries
from featcache.results.schema import connect

GROUPABLE = (
    "dataset",
    "store",
    "backbone",
    "adapter",
    "text_set",
    "classes",
    "shots",
    "protocol",
    "choose",
    "preset",
    "device",
)
"""Fields of a summary that --by and --best-per may name."""
SORTABLE = (*GROUPABLE, "id", "created", "selection_accuracy", "test_accuracy", "gain", "num_params", "seconds")
_SHORT = {"test": "test_accuracy", "val": "selection_accuracy", "when": "created", "prompts": "text_set"}
_AGO = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which searches are wanted; several values of a field are alternatives, an empty field wants all."""

    dataset: tuple[str, ...] = ()
    store: tuple[str, ...] = ()
    backbone: tuple[str, ...] = ()
    adapter: tuple[str, ...] = ()
    text_set: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    since: str | None = None
    """A day or time as ISO writes it (UTC), or an age: 30m, 6h, 2d, 1w."""


def select(path: Path, wanted: Filters, *, now: datetime | None = None) -> list[Summary]:
    """The finished searches that fit, newest first. Raises ConfigError for a date that is none; UnknownNameError."""
    since = "" if wanted.since is None else _since(wanted.since, now or datetime.now(UTC))
    rows = summaries(path)
    asked = {
        field.name: getattr(wanted, field.name)
        for field in fields(wanted)
        if field.name != "since" and getattr(wanted, field.name)
    }
    for name, values in asked.items():
        there = {str(getattr(row, name)) for row in rows}
        for value in values:
            if str(value) not in there:
                raise UnknownNameError(f"{name.replace('_', ' ')} among the results", str(value), there)
    return [
        row
        for row in rows
        if row.created >= since and all(getattr(row, name) in values for name, values in asked.items())
    ]


def field_named(name: str, known: Sequence[str]) -> str:
    """The summary's field that a word of the command line means. Raises UnknownNameError."""
    name = name.strip().replace("-", "_")
    name = _SHORT.get(name, name)
    if name not in known:
        raise UnknownNameError("field", name, known)
    return name


def in_order(rows: Sequence[Summary], by: str) -> list[Summary]:
    """The searches by a field, `-` before it turning the order; those without a value last, ties newest first."""
    down = by.startswith("-")
    name = field_named(by.removeprefix("-"), SORTABLE)
    known = [row for row in rows if value_of(row, name) is not None]
    rest = [row for row in rows if value_of(row, name) is None]
    return [*sorted(known, key=lambda row: _key(value_of(row, name)), reverse=down), *rest]


def value_of(row: Summary, name: str) -> Any:
    """A field of a summary; `gain` is test over zero-shot."""
    if name == "gain":
        known = row.test_accuracy is not None and row.zero_shot_accuracy is not None
        return row.test_accuracy - row.zero_shot_accuracy if known else None  # type: ignore[operator]
    return getattr(row, name)


def best_per(rows: Sequence[Summary], names: Sequence[str]) -> list[Summary]:
    """Of the searches that agree in some fields, the one with the highest selection accuracy; ties: the older one.

    Never by test. Accuracies on different rows do not compare, so the protocol is always one of the fields. Raises
    ConfigError where searches of a group were chosen on nothing, so that only test could tell them apart.
    """
    groups = grouped(rows, tuple(dict.fromkeys((*names, "protocol"))))
    best = []
    for members in groups.values():
        blind = [row for row in members if row.selection_accuracy is None]
        if blind and len(members) > 1:
            named = ", ".join(str(row.id) for row in blind)
            raise ConfigError(
                f"results {named} were chosen on nothing (protocol {blind[0].protocol}), so only their test numbers "
                "could tell them apart; filter them out with --protocol, or name more fields in --best-per"
            )
        best.append(max(members, key=lambda row: (row.selection_accuracy or 0.0, -row.id)))
    return best


def grouped(rows: Sequence[Summary], names: Sequence[str]) -> dict[tuple[Any, ...], list[Summary]]:
    """The searches by the values of some fields, in the order of those."""
    groups: dict[tuple[Any, ...], list[Summary]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: tuple(_key(value) for value in item[0])))


class Answer(NamedTuple):
    """What SQL came back with."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def ask(path: Path, statement: str) -> Answer:
    """One SQL statement's answer, from a connection that can do nothing but read. Raises ConfigError."""
    with connect(path):
        pass  # made, or brought up to date, before it is opened for reading alone
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as database:
        # mode=ro guards this file alone; the authorizer also refuses ATTACH and VACUUM INTO, which write others.
        database.set_authorizer(_only_reading)
        try:
            cursor = database.execute(statement)
            columns = tuple(str(item[0]) for item in cursor.description or ())
            return Answer(columns, cursor.fetchall())
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise ConfigError(
                f"--sql: {error}; tables: {', '.join(_tables(path))}; nothing but SELECT is run"
            ) from error


def _only_reading(action: int, *_: str | None) -> int:
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY


def _tables(path: Path) -> list[str]:
    with connect(path) as database:
        found: Mapping[str, Callable[..., Any]] | Any = database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        )
        return [str(row[0]) for row in found]


def _since(text: str, now: datetime) -> str:
    """The moment as results note it."""
    age = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip())
    try:
        moment = now - timedelta(**{_AGO[age[2]]: int(age[1])}) if age else datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise ConfigError(f"--since {text}: a day or time such as 2026-01-31, or an age: 30m, 6h, 2d, 1w") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="seconds")


def _key(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value

"""Reads searches back: one a line, or one whole."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.assessment import by_draw
from featcache.errors import UnknownNameError
from featcache.measures import confidence_interval
from featcache.outcome import mean_spread
from featcache.results.schema import connect


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One search as a line of a list. Accuracies are fractions; spread is over draws, None for one draw."""

    id: int
    created: str
    store: str
    dataset: str
    backbone: str
    adapter: str
    text_set: str
    classes: str
    shots: int
    num_draws: int
    protocol: str
    zero_shot_accuracy: float | None
    alphas: tuple[float, ...]
    """The chosen alpha of each draw."""
    selection_accuracy: float | None
    test_accuracy: float | None
    test_spread: float | None
    test_interval: tuple[float, float] | None
    """Student's 95 % interval of the mean over draws; None for one draw."""
    by_seed: tuple[tuple[int, float], ...]
    """(shot seed, test accuracy) of each draw, the mean over its init seeds."""
    choose: str
    preset: str
    device: str
    untrained: bool
    """Whether the backbone's weights are random."""
    num_params: int | None
    """Numbers that gradient steps can change, the most of any chosen run; None for a method that takes none."""
    seconds: float


def summaries(path: Path, *, limit: int | None = None, ids: Sequence[int] | None = None) -> list[Summary]:
    """The finished searches, newest first, of `ids` only where given; none where nothing was ever recorded."""
    if not path.exists():
        return []
    with connect(path) as database:
        rows = database.execute(
            "SELECT * FROM search WHERE state = 'done' ORDER BY id DESC LIMIT ?", (-1 if limit is None else limit,)
        ).fetchall()
        return [_summary(database, row) for row in rows if ids is None or row["id"] in ids]


def fetch(path: Path, search_id: int) -> dict[str, Any]:
    """One search with all its runs, as plain values; raises UnknownNameError."""
    if not path.exists() or not 0 < search_id < 2**63:
        raise UnknownNameError("result", str(search_id), [str(row.id) for row in summaries(path, limit=20)])
    with connect(path) as database:
        row = database.execute("SELECT * FROM search WHERE id = ?", (search_id,)).fetchone()
        if row is None:
            known = [str(item[0]) for item in database.execute("SELECT id FROM search ORDER BY id DESC LIMIT 20")]
            count = database.execute("SELECT COUNT(*) FROM search").fetchone()[0]
            hint = f"those are the newest {len(known)} of {count}" if count > len(known) else ""
            raise UnknownNameError("result", str(search_id), known, hint=hint)
        runs = database.execute("SELECT * FROM run WHERE search = ? ORDER BY id", (search_id,)).fetchall()
        shifted = database.execute("SELECT * FROM shifted WHERE search = ? ORDER BY id", (search_id,)).fetchall()
    return {**_decoded(row), "runs": [_decoded(run) for run in runs], "also": [_decoded(item) for item in shifted]}


def done_job(path: Path, job: str) -> int | None:
    """The id of the newest finished search of a plan's job; None where there is none."""
    if not path.exists():
        return None
    with connect(path) as database:
        row = database.execute(
            "SELECT id FROM search WHERE state = 'done' AND job = ? ORDER BY id DESC LIMIT 1", (job,)
        ).fetchone()
    return None if row is None else int(row["id"])


def _decoded(row: sqlite3.Row) -> dict[str, Any]:
    return {name: _decode(name, row[name]) for name in row.keys()}  # noqa: SIM118 (a sqlite3.Row has no items)


_JSON = ("settings", "method", "machine")


def _decode(name: str, value: Any) -> Any:
    return (
        json.loads(value) if name in ("recipe", "command", "versions", "notes", "seconds", "config", *_JSON) else value
    )


def _summary(database: sqlite3.Connection, row: sqlite3.Row) -> Summary:
    chosen = database.execute(
        "SELECT * FROM run WHERE search = ? AND chosen ORDER BY shot_seed", (row["id"],)
    ).fetchall()
    mean, spread = mean_spread([run["test_accuracy"] for run in chosen])
    low, high = confidence_interval(by_draw([run["test_accuracy"] for run in chosen], [run["draw"] for run in chosen]))
    selected = [run["selection_accuracy"] for run in chosen if run["selection_accuracy"] is not None]
    return Summary(
        id=row["id"],
        created=row["created"],
        store=row["store"],
        dataset=row["dataset"],
        backbone=row["backbone"],
        adapter=row["adapter"],
        text_set=row["text_set"],
        classes=row["classes"],
        zero_shot_accuracy=row["zero_shot_accuracy"],
        shots=chosen[0]["shots"],
        num_draws=len({run["draw"] for run in chosen}),
        protocol=row["protocol"],
        alphas=tuple(run["alpha"] for run in chosen if run["alpha"] is not None),
        selection_accuracy=sum(selected) / len(selected) if selected else None,
        test_accuracy=mean,
        test_spread=None if spread != spread else spread,
        test_interval=None if low != low else (low, high),
        by_seed=_by_seed(chosen),
        choose=row["choose"],
        preset=json.loads(row["recipe"])["preset"],
        device=row["device"],
        untrained=bool(row["untrained"]),
        num_params=max((run["num_params"] for run in chosen if run["num_params"] is not None), default=None),
        seconds=sum(json.loads(row["seconds"]).values()),
    )


def _by_seed(chosen: Sequence[sqlite3.Row]) -> tuple[tuple[int, float], ...]:
    found: dict[int, list[float]] = {}
    for run in chosen:
        if run["test_accuracy"] is not None:
            found.setdefault(run["shot_seed"], []).append(run["test_accuracy"])
    return tuple((seed, sum(values) / len(values)) for seed, values in sorted(found.items()))

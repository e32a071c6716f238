"""The SQLite record of searches: every row holds what is needed to run it again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featcache.errors import InputError, UnknownNameError
from featcache.search import Outcome, RunRecord, mean_spread
from featcache.selection import Score
from featcache.shift import Shifted
from featcache.store.places import make_folder
from featcache.store.writing import versions

_SCHEMA = """
CREATE TABLE IF NOT EXISTS search (
  id INTEGER PRIMARY KEY,
  created TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('chosen', 'done')),
  store TEXT NOT NULL, store_key TEXT NOT NULL, content TEXT NOT NULL,
  dataset TEXT NOT NULL, backbone TEXT NOT NULL, untrained INTEGER NOT NULL,
  adapter TEXT NOT NULL, text_set TEXT NOT NULL, protocol TEXT NOT NULL,
  recipe TEXT NOT NULL, device TEXT NOT NULL, command TEXT NOT NULL,
  versions TEXT NOT NULL, notes TEXT NOT NULL, seconds TEXT NOT NULL,
  zero_shot_accuracy REAL, zero_shot_loss REAL, zero_shot_rows INTEGER
);
CREATE TABLE IF NOT EXISTS run (
  id INTEGER PRIMARY KEY,
  search INTEGER NOT NULL REFERENCES search (id) ON DELETE CASCADE,
  config TEXT NOT NULL, alpha REAL,
  shots INTEGER NOT NULL, shot_seed INTEGER NOT NULL, init_seed INTEGER NOT NULL, draw TEXT NOT NULL,
  chosen INTEGER NOT NULL,
  selection_accuracy REAL, selection_loss REAL, selection_rows INTEGER,
  test_accuracy REAL, test_loss REAL, test_rows INTEGER
);
CREATE INDEX IF NOT EXISTS run_search ON run (search);
CREATE TABLE IF NOT EXISTS shifted (
  id INTEGER PRIMARY KEY,
  search INTEGER NOT NULL REFERENCES search (id) ON DELETE CASCADE,
  run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
  store TEXT NOT NULL, store_key TEXT NOT NULL, content TEXT NOT NULL,
  dataset TEXT NOT NULL, style TEXT NOT NULL, classes TEXT NOT NULL, num_classes INTEGER NOT NULL,
  trained_on INTEGER NOT NULL,
  test_accuracy REAL, test_loss REAL, test_rows INTEGER, zero_shot_accuracy REAL
);
CREATE INDEX IF NOT EXISTS shifted_search ON shifted (search);
"""
_ADDED = {
    "classes": "TEXT NOT NULL DEFAULT 'all'",
    "job": "TEXT NOT NULL DEFAULT ''",
    "choose": "TEXT NOT NULL DEFAULT 'per-draw'",
    "views": "TEXT NOT NULL DEFAULT 'turn'",
}
"""Columns of `search` that files made before them get on opening."""


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
    seconds: float


class Recorder:
    """Writes one search: its choice before test is read, its test numbers afterwards."""

    def __init__(self, path: Path, command: Sequence[str], job: str = "") -> None:
        self.path = path
        self.command = list(command)
        self.job = job
        """What a plan knows the search by; empty outside a plan."""
        self.search_id: int | None = None
        with _connect(path):
            pass  # a file that cannot be written is better found before the training than after it

    def __call__(self, outcome: Outcome) -> None:
        """Insert on the first call, fill in on the second."""
        with _connect(self.path) as database:
            if self.search_id is None:
                self.search_id = _insert(database, outcome, self.command, self.job)
            else:
                _finish(database, outcome, self.search_id)


def summaries(path: Path, *, limit: int | None = None, ids: Sequence[int] | None = None) -> list[Summary]:
    """The finished searches, newest first, of `ids` only where given; none where nothing was ever recorded."""
    if not path.exists():
        return []
    with _connect(path) as database:
        rows = database.execute(
            "SELECT * FROM search WHERE state = 'done' ORDER BY id DESC LIMIT ?", (-1 if limit is None else limit,)
        ).fetchall()
        return [_summary(database, row) for row in rows if ids is None or row["id"] in ids]


def fetch(path: Path, search_id: int) -> dict[str, Any]:
    """One search with all its runs, as plain values; raises UnknownNameError."""
    if not path.exists() or not 0 < search_id < 2**63:
        raise UnknownNameError("result", str(search_id), [str(row.id) for row in summaries(path, limit=20)])
    with _connect(path) as database:
        row = database.execute("SELECT * FROM search WHERE id = ?", (search_id,)).fetchone()
        if row is None:
            known = [str(item[0]) for item in database.execute("SELECT id FROM search ORDER BY id DESC LIMIT 20")]
            raise UnknownNameError("result", str(search_id), known)
        runs = database.execute("SELECT * FROM run WHERE search = ? ORDER BY id", (search_id,)).fetchall()
        shifted = database.execute("SELECT * FROM shifted WHERE search = ? ORDER BY id", (search_id,)).fetchall()
    return {**_decoded(row), "runs": [_decoded(run) for run in runs], "also": [_decoded(item) for item in shifted]}


def done_job(path: Path, job: str) -> int | None:
    """The id of the newest finished search of a plan's job; None where there is none."""
    if not path.exists():
        return None
    with _connect(path) as database:
        row = database.execute(
            "SELECT id FROM search WHERE state = 'done' AND job = ? ORDER BY id DESC LIMIT 1", (job,)
        ).fetchone()
    return None if row is None else int(row["id"])


def _decoded(row: sqlite3.Row) -> dict[str, Any]:
    return {name: _decode(name, row[name]) for name in row.keys()}  # noqa: SIM118 (a sqlite3.Row has no items)


def _decode(name: str, value: Any) -> Any:
    return json.loads(value) if name in ("recipe", "command", "versions", "notes", "seconds", "config") else value


@contextmanager
def _connect(path: Path) -> Iterator[sqlite3.Connection]:
    make_folder(path.parent)
    try:
        with closing(sqlite3.connect(path, timeout=60)) as database:
            database.row_factory = sqlite3.Row
            # WAL lets readers and writers work side by side; file systems without it keep SQLite's default.
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA foreign_keys = ON")
            database.executescript(_SCHEMA)
            _add_columns(database)
            with database:
                yield database
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"the results file {path} cannot be used ({error}); move it away to begin a new one"
        ) from error


def _add_columns(database: sqlite3.Connection) -> None:
    present = {row["name"] for row in database.execute("PRAGMA table_info(search)")}
    for name, kind in _ADDED.items():
        if name not in present:
            try:
                database.execute(f"ALTER TABLE search ADD COLUMN {name} {kind}")
            except sqlite3.OperationalError as error:
                if "duplicate column" not in str(error):  # another process was quicker
                    raise


def _insert(database: sqlite3.Connection, outcome: Outcome, command: list[str], job: str) -> int:
    values = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "state": "chosen",
        "store": outcome.store,
        "store_key": outcome.store_key,
        "content": outcome.content,
        "dataset": outcome.dataset,
        "backbone": outcome.backbone,
        "untrained": int(outcome.untrained),
        "adapter": outcome.adapter,
        "text_set": outcome.text_set,
        "classes": outcome.classes,
        "choose": outcome.choose,
        "views": outcome.views,
        "job": job,
        "protocol": outcome.protocol,
        "recipe": json.dumps(asdict(outcome.recipe)),
        "device": outcome.device,
        "command": json.dumps(command),
        "versions": json.dumps(versions()),
        "notes": json.dumps(outcome.notes),
        "seconds": json.dumps(outcome.seconds),
    }
    search_id = _add(database, "search", values)
    for run in outcome.runs:
        _add(database, "run", {"search": search_id, **_run_values(run)})
    return search_id


def _finish(database: sqlite3.Connection, outcome: Outcome, search_id: int) -> None:
    zero_shot = outcome.zero_shot
    database.execute(
        "UPDATE search SET state = 'done', seconds = ?,"
        " zero_shot_accuracy = ?, zero_shot_loss = ?, zero_shot_rows = ? WHERE id = ?",
        (json.dumps(outcome.seconds), zero_shot.accuracy, zero_shot.loss, zero_shot.num_rows, search_id),
    )
    ids = [row[0] for row in database.execute("SELECT id FROM run WHERE search = ? ORDER BY id", (search_id,))]
    for run_id, run in zip(ids, outcome.runs, strict=True):
        assert run.test is not None
        database.execute(
            "UPDATE run SET test_accuracy = ?, test_loss = ?, test_rows = ? WHERE id = ?",
            (run.test.accuracy, run.test.loss, run.test.num_rows, run_id),
        )
    chosen = [run_id for run_id, run in zip(ids, outcome.runs, strict=True) if run.chosen]
    for place in outcome.also:
        for run_id, score in zip(chosen, place.scores, strict=True):
            _add(database, "shifted", {"search": search_id, "run": run_id, **_shifted_values(place, score)})


def _run_values(run: RunRecord) -> dict[str, Any]:
    selection = run.selection or Score(accuracy=float("nan"), loss=float("nan"), num_rows=0)
    return {
        "config": json.dumps(run.config, sort_keys=True),
        "alpha": run.alpha,
        "shots": run.shots,
        "shot_seed": run.shot_seed,
        "init_seed": run.init_seed,
        "draw": run.draw,
        "chosen": int(run.chosen),
        "selection_accuracy": selection.accuracy,
        "selection_loss": selection.loss,
        "selection_rows": selection.num_rows,
    }


def _shifted_values(place: Shifted, score: Score) -> dict[str, Any]:
    return {
        "store": place.store,
        "store_key": place.store_key,
        "content": place.content,
        "dataset": place.dataset,
        "style": place.style,
        "classes": place.classes,
        "num_classes": place.num_classes,
        "trained_on": int(place.trained_on),
        "test_accuracy": score.accuracy,
        "test_loss": score.loss,
        "test_rows": score.num_rows,
        "zero_shot_accuracy": place.zero_shot.accuracy,
    }


def _add(database: sqlite3.Connection, table: str, values: dict[str, Any]) -> int:
    marks = ", ".join("?" for _ in values)
    cursor = database.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", list(values.values()))
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _summary(database: sqlite3.Connection, row: sqlite3.Row) -> Summary:
    chosen = database.execute(
        "SELECT * FROM run WHERE search = ? AND chosen ORDER BY shot_seed", (row["id"],)
    ).fetchall()
    mean, spread = mean_spread([run["test_accuracy"] for run in chosen])
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
        num_draws=len(chosen),
        protocol=row["protocol"],
        alphas=tuple(run["alpha"] for run in chosen if run["alpha"] is not None),
        selection_accuracy=sum(selected) / len(selected) if selected else None,
        test_accuracy=mean,
        test_spread=None if spread != spread else spread,
        seconds=sum(json.loads(row["seconds"]).values()),
    )

"""Writes a search: its choice before test is read, its test numbers and predictions afterwards."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from featcache import registry
from featcache.devices import machine
from featcache.outcome import Outcome, RunRecord
from featcache.predictions import Items, Predictions
from featcache.results.schema import CONFIDENCE, ROW, TEXT, class_dtype, connect
from featcache.selection import Score
from featcache.shift import Shifted
from featcache.store.writing import versions


class Recorder:
    """Writes one search: its choice before test is read, its test numbers afterwards."""

    def __init__(self, path: Path, command: Sequence[str], job: str = "") -> None:
        self.path = path
        self.command = list(command)
        self.job = job
        """What a plan knows the search by; empty outside a plan."""
        self.search_id: int | None = None
        with connect(path):
            pass  # a file that cannot be written is better found before the training than after it

    def __call__(self, outcome: Outcome) -> None:
        """Insert on the first call, fill in on the second."""
        with connect(self.path) as database:
            if self.search_id is None:
                self.search_id = _insert(database, outcome, self.command, self.job)
            else:
                _finish(database, outcome, self.search_id)


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
        "settings": json.dumps(asdict(outcome.settings)),
        "method": json.dumps(registry.origin(outcome.adapter)),
        "machine": json.dumps(machine(outcome.device)),
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
        "UPDATE search SET state = 'done', seconds = ?, notes = ?,"
        " zero_shot_accuracy = ?, zero_shot_loss = ?, zero_shot_rows = ? WHERE id = ?",
        (
            json.dumps(outcome.seconds),
            json.dumps(outcome.notes),
            zero_shot.accuracy,
            zero_shot.loss,
            zero_shot.num_rows,
            search_id,
        ),
    )
    ids = [row[0] for row in database.execute("SELECT id FROM run WHERE search = ? ORDER BY id", (search_id,))]
    for run_id, run in zip(ids, outcome.runs, strict=True):
        assert run.test is not None
        database.execute(
            "UPDATE run SET test_accuracy = ?, test_loss = ?, test_rows = ?, fault = ? WHERE id = ?",
            (run.test.accuracy, run.test.loss, run.test.num_rows, run.fault, run_id),
        )
    chosen = [run_id for run_id, run in zip(ids, outcome.runs, strict=True) if run.chosen]
    if outcome.items is not None:
        _put_predictions(database, outcome.items, dict(zip(chosen, outcome.predictions, strict=True)))
    for run_id, text in zip(chosen, outcome.texts, strict=bool(outcome.texts)):
        values = {"run": run_id, "num_classes": len(text), "weights": _blob(text, TEXT)}
        _add(database, "learnt_text", values)
    for place in outcome.also:
        for run_id, score in zip(chosen, place.scores, strict=True):
            _add(database, "shifted", {"search": search_id, "run": run_id, **_shifted_values(place, score)})


def _put_predictions(database: sqlite3.Connection, items: Items, made: Mapping[int, Predictions]) -> None:
    """Keep what each chosen run says of each test image; the images themselves are there once for all searches."""
    width = class_dtype(len(items.classes))
    database.execute(
        "INSERT OR IGNORE INTO items (digest, label, row, classes) VALUES (?, ?, ?, ?)",
        (items.digest, _blob(items.label, width), _blob(items.row, ROW), json.dumps(items.classes)),
    )
    for run_id, run in made.items():
        blobs = {"predicted": _blob(run.predicted, width), "confidence": _blob(run.confidence, CONFIDENCE)}
        _add(database, "prediction", {"run": run_id, "items": items.digest, **blobs})


def _blob(values: NDArray[Any], dtype: str) -> bytes:
    return values.astype(dtype).tobytes()


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
        "num_params": run.num_params,
        "fault": run.fault,
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

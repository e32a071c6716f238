"""The SQLite file of results: its tables, and how it is opened.

Of the chosen runs it keeps every test image's predicted class and confidence, as little-endian fixed-width numbers:
`items.label` and `prediction.predicted` 2 bytes an image up to 65,536 classes and 4 beyond, `items.row` 4,
`prediction.confidence` a float32. Test images are kept once, not once a search. On ImageNet, 50,000 images and 3 draws,
that is 0.9 MB a search, and 0.3 MB once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from featcache.errors import InputError
from featcache.store.claims import turn
from featcache.store.disks import is_network_disk
from featcache.store.places import make_folder

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
CREATE TABLE IF NOT EXISTS items (
  digest TEXT PRIMARY KEY,
  label BLOB NOT NULL, row BLOB NOT NULL, classes TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS prediction (
  run INTEGER PRIMARY KEY REFERENCES run (id) ON DELETE CASCADE,
  items TEXT NOT NULL REFERENCES items (digest),
  predicted BLOB NOT NULL, confidence BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS prediction_items ON prediction (items);
CREATE TABLE IF NOT EXISTS learnt_text (
  run INTEGER PRIMARY KEY REFERENCES run (id) ON DELETE CASCADE,
  num_classes INTEGER NOT NULL, weights BLOB NOT NULL
);
"""
_ADDED = {
    "search": {
        "classes": "TEXT NOT NULL DEFAULT 'all'",
        "job": "TEXT NOT NULL DEFAULT ''",
        "choose": "TEXT NOT NULL DEFAULT 'per-draw'",
        "views": "TEXT NOT NULL DEFAULT 'turn'",
        "settings": "TEXT NOT NULL DEFAULT '{}'",
        "method": "TEXT NOT NULL DEFAULT '{}'",
        "machine": "TEXT NOT NULL DEFAULT '{}'",
    },
    "run": {"fault": "TEXT NOT NULL DEFAULT ''", "num_params": "INTEGER"},
}
"""Columns of each table that files made before them get on opening.

`settings` is all that the search was asked for, with its draws and protocol as they came out; `method` the file of the
method and its digest; `machine` what decides the last bits of a number beside the versions.
"""
ROW = "<u4"
"""How a manifest row is kept in a BLOB."""
CONFIDENCE = "<f4"
"""How a confidence is kept in a BLOB."""
TEXT = "<f4"
"""How learnt text weights (C, D) are kept in a BLOB."""


def class_dtype(num_classes: int) -> str:
    """How a class is kept in a BLOB."""
    return "<u2" if num_classes <= 2**16 else "<u4"


@contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """The open file, made or brought up to date first; what is done inside is kept whole or not at all.

    On a network disk, whose locks SQLite cannot rely on, processes take turns instead.
    """
    shared = is_network_disk(make_folder(path.parent))
    try:
        with turn(path) if shared else nullcontext(), closing(_opened(path, shared=shared)) as database:
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA foreign_keys = ON")
            database.executescript(_SCHEMA)
            _add_columns(database)
            with database:
                yield database
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"the results file {path} cannot be used ({error}); move it away to begin a new one"
        ) from error


def _opened(path: Path, *, shared: bool) -> sqlite3.Connection:
    if not shared:
        database = sqlite3.connect(path, timeout=60)
        # WAL lets readers and writers work side by side; file systems without it keep SQLite's default.
        if database.execute("PRAGMA journal_mode").fetchall() != [("wal",)]:
            with turn(path):  # two that change the mode together are refused at once, however long they would wait
                database.execute("PRAGMA journal_mode = WAL")
        return database
    if path.exists():
        with closing(sqlite3.connect(path, timeout=60)) as database:  # in WAL mode, perhaps, from a disk of its own
            database.execute("PRAGMA journal_mode = DELETE")
    return sqlite3.connect(f"{path.resolve().as_uri()}?nolock=1", uri=True)


def _add_columns(database: sqlite3.Connection) -> None:
    for table, columns in _ADDED.items():
        present = {row["name"] for row in database.execute(f"PRAGMA table_info({table})")}
        for name, kind in columns.items():
            if name not in present:
                try:
                    database.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
                except sqlite3.OperationalError as error:
                    if "duplicate column" not in str(error):  # another process was quicker
                        raise

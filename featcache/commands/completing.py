"""What the shell offers after TAB: names of stores, methods, data sets and results, read off the disk at once.

Neither torch nor h5py is imported: the shell waits at every press of a key.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from featcache.locations import adapters_folder, results_path, stores_folder

_OWN = ("folder:", "csv:", "hf:")
PROTOCOLS = ("fewshot-val", "train-holdout", "kshot-val", "full-val", "cross-validation", "fixed", "test-oracle")
PLOTS = (
    *("alpha", "shots", "methods", "sides", "preprocessing", "gain", "gap", "embeddings", "confusion", "classes"),
    "reliability",
)
FORMATS = ("table", "csv", "json", "markdown", "latex")
PRESETS = ("coop", "adamw", "paper", "tip-adapter-f", "ape-t", "taskres")


def stores(incomplete: str) -> list[str]:
    """Stores in the cache, newest first."""
    found = [path for path in stores_folder().glob("*.h5") if not path.name.startswith(".")]
    return _fitting((path.stem for path in sorted(found, key=_age)), incomplete)


def adapters(incomplete: str) -> list[str]:
    """Methods: ours and those in FEATCACHE_ADAPTERS; `all`."""
    folders = [adapters_folder()]
    if os.environ.get("FEATCACHE_ADAPTERS"):
        folders.append(Path(os.environ["FEATCACHE_ADAPTERS"]))
    names = {path.stem for folder in folders for path in folder.glob("[!_]*.py")}
    return _listed([*sorted(names), "all"], incomplete)


def datasets(incomplete: str) -> list[str]:
    """Data sets of the catalogue, and what the user's own begin with."""
    from featcache.datasets.catalogue import CATALOGUE

    return _listed([*sorted(CATALOGUE), *_OWN], incomplete)


def backbones(incomplete: str) -> list[str]:
    """The short names of backbones."""
    from featcache.backbones.names import OPENAI

    return _listed(["tiny", *OPENAI], incomplete)


def protocols(incomplete: str) -> list[str]:
    """Ways to choose a configuration."""
    return _fitting(PROTOCOLS, incomplete)


def plots(incomplete: str) -> list[str]:
    """Kinds of plots."""
    return _fitting(PLOTS, incomplete)


def formats(incomplete: str) -> list[str]:
    """How a list of results is written."""
    return _fitting(FORMATS, incomplete)


def presets(incomplete: str) -> list[str]:
    """Training recipes."""
    return _fitting(PRESETS, incomplete)


def results(incomplete: str) -> list[tuple[str, str]]:
    """Ids of the newest results, each with what it is."""
    import sqlite3

    try:
        with closing(sqlite3.connect(f"{results_path().absolute().as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT id, adapter, store FROM search WHERE state = 'done' ORDER BY id DESC LIMIT 50"
            ).fetchall()
    except sqlite3.Error:
        return []  # no file yet: there is nothing to offer, and a shell has no place for a message
    return [(str(row[0]), f"{row[1]} on {row[2]}") for row in rows if str(row[0]).startswith(incomplete)]


def _listed(names: Iterable[str], incomplete: str) -> list[str]:
    """The last word of a list by commas, with what stands before it."""
    before, comma, last = incomplete.rpartition(",")
    taken = set(before.split(","))
    return [before + comma + name for name in _fitting(names, last) if name not in taken]


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:  # removed just now
        return 0.0

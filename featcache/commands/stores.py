"""Which stores a command is about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featcache import console
from featcache.errors import FeatcacheError, InputError
from featcache.store import Store
from featcache.store.places import list_stores, resolve


def stores_named(names: Sequence[str]) -> list[Path]:
    """The stores that names, key prefixes or paths mean; without any, the newest that can be fitted on."""
    if names:
        return list(dict.fromkeys(resolve(name) for name in names))
    for path in list_stores():
        if _can_train(path):
            console.note(f"store: {path.stem} (the newest with training rows)")
            return [path]
    return [resolve(None)]


def every_store() -> list[Path]:
    """Every store that can be fitted on, by name."""
    found = sorted(path for path in list_stores() if _can_train(path))
    if not found:
        raise InputError("--all: no store in the cache has training rows; make one with `featcache extract`")
    return found


def _can_train(path: Path) -> bool:
    try:
        with Store(path) as store:
            return "train" in store.splits and store.num_rows("train") > 0
    except (FeatcacheError, OSError):
        return False

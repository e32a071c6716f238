"""The stores that results were made on, found by key and opened when a panel asks; those that are gone say so."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.errors import FeatcacheError, MissingRowsError
from featcache.loading import Rows, class_range, load_frozen, load_rows
from featcache.store import Store
from featcache.store.places import with_key
from featcache.task import Frozen


class Stores:
    """The cache's stores by key, and by name where several share one."""

    @cached_property
    def _paths(self) -> dict[tuple[str, str], Path | None]:
        return {}

    @cached_property
    def _styles(self) -> dict[str, str]:
        return {}

    def open(self, key: str, name: str) -> Store:
        """The store of a key, for reading; use as a context manager. Raises MissingRowsError where it is gone."""
        if (key, name) not in self._paths:
            self._paths[key, name] = with_key(key, name)
        path = self._paths[key, name]
        if path is None:
            raise MissingRowsError(f"the store {name} is gone from the cache")
        return Store(path)

    def style(self, key: str) -> str:
        """A store's preprocessing; empty where the store is gone or does not read."""
        if key not in self._styles:
            self._styles[key] = self._read_style(key)
        return self._styles[key]

    def _read_style(self, key: str) -> str:
        try:
            with self.open(key, "") as store:
                return str(store.spec.transform.get("style", ""))
        except FeatcacheError:
            return ""

    def facts(self, key: str, name: str) -> dict[str, str]:
        """What a store says of itself, for the record; nothing where it is gone."""
        try:
            with self.open(key, name) as store:
                tower, transform = store.spec.tower, dict(store.spec.transform)
                return {
                    "checkpoint": f"{tower.architecture}, {tower.activation}, {tower.precision}, {tower.checkpoint}",
                    "transform": json.dumps(transform),
                    "text": "; ".join(f"{name}: {_templates(store, name)}" for name in store.text_sets) or "none",
                    "command": str(store.provenance.get("command", store.provenance.get("source", "not known"))),
                }
        except FeatcacheError:
            return {}


def _templates(store: Store, name: str) -> str:
    templates = store.text(name).templates
    return ", ".join(templates[:8]) + (f" and {len(templates) - 8} more" if len(templates) > 8 else "")


def test_rows(store: Store, classes: str) -> Rows:
    """The test rows that a search of some classes was tested on, in their order."""
    return load_rows(store, "test", torch.device("cpu"), classes=class_range(store, classes))


def frozen_of(store: Store, text_set: str, classes: str) -> Frozen:
    """The store's text and logit scale for some classes."""
    return load_frozen(store, text_set, torch.device("cpu"), class_range(store, classes))


def sample(num_rows: int, most: int) -> NDArray[np.int64]:
    """At most so many row numbers, ascending, the same ones every time."""
    if num_rows <= most:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(0).permutation(num_rows)[:most])

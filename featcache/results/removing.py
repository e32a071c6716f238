"""Removes searches with all that belongs to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featcache.results.reading import fetch
from featcache.results.schema import connect


def remove(path: Path, ids: Sequence[int]) -> None:
    """Remove searches, their runs and predictions, all or none. Raises UnknownNameError for an id that is not there."""
    for search_id in ids:
        fetch(path, search_id)
    with connect(path) as database:
        database.executemany("DELETE FROM search WHERE id = ?", [(search_id,) for search_id in ids])
        # Test images are kept once for all searches: they go with the last one that was tested on them.
        database.execute("DELETE FROM items WHERE digest NOT IN (SELECT items FROM prediction)")

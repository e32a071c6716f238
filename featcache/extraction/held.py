"""What an extraction finds of a split: in the store, in parts, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.datasets import Manifest
from featcache.datasets.manifest import Status, Watched, source_info
from featcache.errors import StoreError
from featcache.extraction.parts import Part
from featcache.spilled import Spill, spans, spilled, zeros
from featcache.store import Store
from featcache.store.damage import Damage
from featcache.store.reading import BLOCK_ROWS

MAX_VIEWS = 2**20
"""More than any image has."""


class Missing(NamedTuple):
    """Rows x views of one split that must be encoded, in manifest order."""

    row: NDArray[np.int64]
    view: NDArray[np.int64]

    def begins(self) -> Iterator[NDArray[np.int64]]:
        """Where each image begins among the pairs, block by block."""
        before = -1
        for at in spans(len(self.row)):
            rows = self.row[at]
            yield at.start + np.flatnonzero(np.diff(rows, prepend=before))
            before = int(rows[-1])


class Held:
    """What is at hand of one split: rows in the store, rows in parts, rows whose image could not be read."""

    def __init__(self, manifest: Manifest, split: str) -> None:
        self.changed: list[str] = []
        """Paths of images that differ from those that were encoded."""
        self._manifest = manifest
        self._split = split
        self._num_views = zeros(len(manifest.splits[split].path), np.int32)  # in the store, by row
        self._parts: list[Part] = []
        self._unreadable: dict[int, str] = {}

    def add_store(self, store: Store, damage: Damage) -> None:
        """Take in the store's rows, save those that are damaged or whose image has changed.

        Raises StoreError for a store made from other images of the same names in another folder: most bytes differ.
        """
        moved = store.provenance.get("place", "") != self._manifest.reader.place
        written = 0 if moved else store.path.stat().st_mtime_ns  # 0: the images are newer, so their bytes are compared
        rows = store.rows(self._split)
        found = [np.zeros(0, dtype=np.int64)]
        for at in spans(len(rows), BLOCK_ROWS):
            sound = ~np.isin(rows[at], damage.rows.get(self._split, ()))
            self._num_views[rows[at][sound]] = store.num_views(self._split)
            if isinstance(self._manifest.reader, Watched):
                positions = at.start + np.flatnonzero(sound)
                found.append(self._stale(rows[positions], store.gather(self._split, "source", positions), written))
        stale = np.concatenate(found)
        if moved and 2 * len(stale) > len(rows):  # where most are the same, it was moved, and some changed since
            raise StoreError(
                f"the store {store.name} was made from files of the same names in another folder, and {len(stale)} of "
                f"{len(rows)} {self._split} images differ, first {self._path(int(stale[0]))}; give the store of these "
                f"ones a --name of its own, or remove the other with `featcache cache rm {store.name}`"
            )
        self._num_views[stale] = 0
        if self._split not in damage.lists:
            self._add_unreadable(store.missing(self._split), written)

    def is_spent(self, part: Part) -> bool:
        """Whether a part has nothing that the store lacks, or rows of an image that has changed."""
        rows, first = np.unique(part.row, return_index=True)
        if len(self._stale(rows, part.load("source")[first], part.written_ns)):
            return True
        told = all(row in self._unreadable or self._num_views[row] for row in part.unreadable)
        return told and bool((part.view < self._num_views[part.row]).all())

    def add_part(self, part: Part) -> None:
        """Take in a part's rows."""
        self._parts.append(part)
        self._add_unreadable(part.unreadable, part.written_ns)

    def adds(self, part: Part, rows: NDArray[np.int64], num_views: int) -> bool:
        """Whether a part has something for a store of these rows and views that is not in it yet."""
        inside = part.among(rows, num_views)
        return bool((part.view[inside] >= self._num_views[part.row[inside]]).any())

    def unreadable_among(self, rows: NDArray[np.int64]) -> dict[int, str]:
        """Which of the rows are known to have no readable image, with the reason."""
        if not self._unreadable:
            return {}
        known = np.intersect1d(rows, np.array(list(self._unreadable), dtype=np.int64))
        held = self._num_views[known] > 0
        for part in self._parts:
            held |= np.isin(known, part.row)
        return {row: self._unreadable[row] for row in known[~held].tolist()}

    def missing(self, rows: NDArray[np.int64], num_views: int) -> Missing:
        """The rows' views that are neither in the store nor in a part."""
        with Spill(np.int64) as missing_row, Spill(np.int64) as missing_view:
            for at in spans(len(rows), BLOCK_ROWS):
                wanted = rows[at]
                lacking = self._num_views[wanted][:, None] <= np.arange(num_views)
                for part in self._parts:
                    inside = part.among(wanted, num_views)
                    lacking[np.searchsorted(wanted, part.row[inside]), part.view[inside]] = False
                row, view = np.nonzero(lacking)
                missing_row.add(wanted[row])
                missing_view.add(view)
            return Missing(missing_row.done(), missing_view.done())

    def _add_unreadable(self, reasons: Mapping[int, str], written_ns: int) -> None:
        """Note images that could not be read, save those that have been touched since: they may be mended."""
        if isinstance(self._manifest.reader, Watched):
            reasons = {row: why for row, why in reasons.items() if self._status(row).mtime_ns < written_ns}
        self._unreadable.update(reasons)

    def _stale(self, rows: NDArray[np.int64], source: NDArray[np.uint64], written_ns: int) -> NDArray[np.int64]:
        """The rows whose image file has another size, or is newer than what was written and has other bytes."""
        stale: list[int] = []
        if not isinstance(self._manifest.reader, Watched):
            return np.array(stale, dtype=np.int64)
        for row, (size, content) in zip(rows.tolist(), source.tolist(), strict=True):
            status = self._status(row)
            same = status.size_bytes == size
            if same and status.mtime_ns >= written_ns:
                same = source_info(self._manifest.reader.read_bytes(self._path(row))).content_hash == content
            if not same:
                stale.append(row)
        self.changed += [self._path(row) for row in stale if self._path(row) not in self.changed]
        return np.array(stale, dtype=np.int64)

    def _status(self, row: int) -> Status:
        assert isinstance(self._manifest.reader, Watched)
        return self._manifest.reader.status(self._path(row))

    def _path(self, row: int) -> str:
        return self._manifest.splits[self._split].path[row]


def without(rows: NDArray[np.int64], left_out: Iterable[int]) -> NDArray[np.int64]:
    """The rows that are not left out."""
    gone = np.array(list(left_out), dtype=np.int64)
    return rows[~np.isin(rows, gone)] if len(gone) else rows


def both(rows: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of two ascending lists, ascending."""
    same = len(rows) == len(others) and all(np.array_equal(rows[at], others[at]) for at in spans(len(rows)))
    return rows if same else spilled([np.union1d(rows, others)], np.int64)

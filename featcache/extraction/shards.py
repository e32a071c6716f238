"""Shards: the units of work. Each is some images of one split with what is missing of their views."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.datasets import Manifest
from featcache.extraction.held import Missing
from featcache.spilled import spans, spilled

SHARD_VIEWS = 2048
"""Embeddings a shard, about: what a crash can lose."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image and its missing views."""

    split: str
    row: int
    path: str
    views: tuple[int, ...]
    shard: int


class Items(Protocol):
    """Images to encode, by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...


class Shards:
    """Every image with something missing, in manifest order, cut into shards of about SHARD_VIEWS embeddings.

    Kept as arrays on disk, and items made when asked for: a data set may have a million of them. Whole shards that are
    done leave the others as they were, so processes that planned at different moments cut them alike.
    """

    def __init__(self, missing: Mapping[str, Missing], manifest: Manifest) -> None:
        self._paths = {split: content.path for split, content in manifest.splits.items()}
        self._missing = {split: part for split, part in missing.items() if len(part.row)}
        # (K + 1,) where each image begins among the split's missing pairs, and where the last one ends
        self._begin: dict[str, NDArray[np.int64]] = {
            split: spilled(chain(part.begins(), [np.array([len(part.row)])]), np.int64)
            for split, part in self._missing.items()
        }
        self._shard: dict[str, NDArray[np.int64]] = {}  # (K,) the shard of each image
        first = 0
        for split, begin in self._begin.items():
            self._shard[split] = spilled(_shards(begin, first), np.int64)
            first = int(self._shard[split][-1]) + 1
        self.count = first
        """How many shards there are."""

    def __len__(self) -> int:
        return sum(map(len, self._shard.values()))

    def __getitem__(self, index: int) -> Item:
        for split, shard in self._shard.items():
            if index < len(shard):
                start, stop = self._begin[split][index], self._begin[split][index + 1]
                row = int(self._missing[split].row[start])
                views = tuple(self._missing[split].view[start:stop].tolist())
                return Item(split=split, row=row, path=self._paths[split][row], views=views, shard=int(shard[index]))
            index -= len(shard)
        raise IndexError(index)

    def images(self, shard: int) -> range:
        """The indices of a shard's images."""
        first = 0
        for numbers in self._shard.values():
            if shard <= numbers[-1]:
                start, stop = np.searchsorted(numbers, [shard, shard + 1]).tolist()
                return range(first + start, first + stop)
            first += len(numbers)
        raise IndexError(shard)

    def missing(self, shard: int) -> tuple[str, Missing]:
        """A shard's split, and its rows and views."""
        first = 0
        for split, numbers in self._shard.items():
            if shard <= numbers[-1]:
                images = self.images(shard)
                start, stop = (int(self._begin[split][index - first]) for index in (images.start, images.stop))
                return split, Missing(self._missing[split].row[start:stop], self._missing[split].view[start:stop])
            first += len(numbers)
        raise IndexError(shard)


def shard_digest(place: str, split: str, missing: Missing) -> str:
    """What a shard is known by wherever it is worked on, and its part afterwards."""
    lists = [place.encode(), split.encode(), missing.row.tobytes(), missing.view.tobytes()]
    return hashlib.sha256(b"/".join(lists)).hexdigest()[:32]


def _shards(begin: NDArray[np.int64], first: int) -> Iterator[NDArray[np.int64]]:
    """The shard of each image, from `first`, block by block: a shard is full once it has SHARD_VIEWS embeddings."""
    shard, held = first, 0
    for at in spans(len(begin) - 1):
        shards = np.empty(at.stop - at.start, dtype=np.int64)
        for index, views in enumerate(np.diff(begin[at.start : at.stop + 1]).tolist()):
            if held >= SHARD_VIEWS:
                shard, held = shard + 1, 0
            held += views
            shards[index] = shard
        yield shards

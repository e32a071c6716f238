"""Shards: decode each image once, draw all its missing views, encode them in batches of one fixed shape."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from featcache.backbones import Backbone
from featcache.datasets import Manifest, Reader
from featcache.errors import DataError
from featcache.extraction.batches import BatchEncoder
from featcache.extraction.parts import PartContents, write_part
from featcache.extraction.plan import Missing, Plan
from featcache.store.writing import check_resolution, to_stored
from featcache.views import Transform, view

SHARD_VIEWS = 2048
"""Embeddings a shard, about: what a crash can lose."""

_NO_PIXELS = np.zeros((0, 0, 0, 3), dtype=np.uint8)
Progress = Callable[[int], None]
"""Told how many embeddings have just been encoded."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how widely an extraction runs; nothing here changes what is stored on one device type."""

    device: torch.device
    batch_size: int
    workers: int
    """Decoding processes; 0 decodes in this one."""


@dataclass(frozen=True, kw_only=True)
class _Item:
    """One image and its missing views."""

    split: str
    row: int
    views: tuple[int, ...]
    shard: int


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    """One image's views, or why there are none."""

    item: _Item
    pixels: NDArray[np.uint8]
    """(v, size, size, 3)."""
    crop: NDArray[np.int32]
    """(v, 5)."""
    source: tuple[int, int]
    error: str = ""


def encode_missing(plan: Plan, backbone: Backbone, machine: Machine, *, progress: Progress) -> None:
    """Write the parts of every missing row and view as they are done. Raises DataError for an unreadable image."""
    encoder = _Encoder(plan, backbone, machine, progress)
    shard = 0
    for decoded in _decode(plan, machine):
        if decoded.error and not plan.request.skip_unreadable:
            raise DataError(decoded.error)
        if decoded.item.shard != shard:
            encoder.write()
            shard = decoded.item.shard
        encoder.add(decoded)
    encoder.write()


class _Encoder:
    """Turns decoded views into a shard's part, batch by batch while further images are decoded."""

    def __init__(self, plan: Plan, backbone: Backbone, machine: Machine, progress: Progress) -> None:
        self.plan = plan
        self.backbone = backbone
        self.machine = machine
        self.progress = progress
        self._encode_batch = BatchEncoder(backbone, plan.transform, machine.device, machine.batch_size)
        self._begin()

    def _begin(self) -> None:
        """A new shard."""
        self._images: list[_Decoded] = []  # without their pixels
        self._waiting: list[NDArray[np.uint8]] = []  # (size, size, 3) each, until they make a batch
        self._encoded = [torch.empty(0, self.plan.identity.dim, device=self.machine.device)]  # (b, D) each

    def add(self, decoded: _Decoded) -> None:
        """Take an image into the shard; whatever makes a full batch is encoded."""
        self._images.append(replace(decoded, pixels=_NO_PIXELS))
        self._waiting.extend(decoded.pixels)
        while len(self._waiting) >= self.machine.batch_size:
            self._encode()

    def write(self) -> None:
        """Put the shard's part on disk and begin a new one; without images, nothing."""
        if not self._images:
            return
        if self._waiting:
            self._encode()
        embedding: NDArray[np.float32] = torch.cat(self._encoded).cpu().numpy()
        stored = to_stored(embedding, self.plan.spec.dtype)
        check_resolution(embedding, stored)
        readable = [decoded for decoded in self._images if not decoded.error]
        counts = [len(decoded.item.views) for decoded in readable]
        contents = PartContents(
            split=self._images[0].item.split,
            row=np.repeat(np.array([decoded.item.row for decoded in readable], dtype=np.int64), counts),
            view=np.array([number for decoded in readable for number in decoded.item.views], dtype=np.int64),
            image=stored,
            crop=np.concatenate([np.empty((0, 5), np.int32), *(decoded.crop for decoded in readable)]),
            source=np.repeat(
                np.array([decoded.source for decoded in readable], dtype=np.uint64).reshape(-1, 2), counts, axis=0
            ),
            unreadable={decoded.item.row: decoded.error for decoded in self._images if decoded.error},
            place=self.plan.manifest.reader.place,
        )
        write_part(self.plan.spec.key, contents)
        self._begin()

    def _encode(self) -> None:
        """Encode the first batch of what waits."""
        batch = self._waiting[: self.machine.batch_size]
        del self._waiting[: self.machine.batch_size]
        self._encoded.append(self._encode_batch(batch))
        self.progress(len(batch))


def _decode(plan: Plan, machine: Machine) -> Iterator[_Decoded]:
    """Every item's decoded views, in the plan's order, whatever the number of workers."""
    images = _Images(plan.manifest, plan.transform, plan.request.view_seed, _Items(plan.missing))
    if machine.workers == 0 or len(images) < 64:
        yield from (images[index] for index in range(len(images)))
        return
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_size=8,
        collate_fn=list,
        num_workers=min(machine.workers, len(images) // 8),
        prefetch_factor=4,
        worker_init_fn=_one_thread,
    )
    with _interrupts_ignored():
        batches = iter(loader)  # starts the workers
    for decoded in batches:
        yield from decoded


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C, which a terminal sends to all: this one stops and ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it is interrupted
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Items:
    """Whole images in manifest order, cut into shards of about SHARD_VIEWS embeddings within a split.

    Kept as arrays, and made when asked for: a data set may have a million of them.
    """

    def __init__(self, missing: dict[str, Missing]) -> None:
        self._missing = {split: part for split, part in missing.items() if len(part.row)}
        # (K + 1,) where each image begins among the split's missing pairs, and where the last one ends
        self._begin = {
            split: np.append(np.flatnonzero(np.diff(part.row, prepend=-1)), len(part.row))
            for split, part in self._missing.items()
        }
        self._shard = {}
        first = 0
        for split, begin in self._begin.items():
            self._shard[split] = first + _shards(np.diff(begin))
            first = int(self._shard[split][-1]) + 1

    def __len__(self) -> int:
        return sum(map(len, self._shard.values()))

    def __getitem__(self, index: int) -> _Item:
        for split, shard in self._shard.items():
            if index < len(shard):
                start, stop = self._begin[split][index], self._begin[split][index + 1]
                row, number = self._missing[split].row, self._missing[split].view
                views = tuple(number[start:stop].tolist())
                return _Item(split=split, row=int(row[start]), views=views, shard=int(shard[index]))
            index -= len(shard)
        raise IndexError(index)


def _shards(num_views: NDArray[np.int64]) -> NDArray[np.int64]:
    """(K,) the shard of each image, from 0: a shard is full once it has SHARD_VIEWS embeddings or more."""
    shards = np.empty(len(num_views), dtype=np.int64)
    shard = held = 0
    for index, views in enumerate(num_views.tolist()):
        if held >= SHARD_VIEWS:
            shard, held = shard + 1, 0
        held += views
        shards[index] = shard
    return shards


class _Images(Dataset[_Decoded]):
    """Images by index, for loader processes."""

    def __init__(self, manifest: Manifest, transform: Transform, view_seed: int, items: _Items) -> None:
        self.reader: Reader = manifest.reader
        self.paths = {split: content.path for split, content in manifest.splits.items()}
        self.transform = transform
        self.view_seed = view_seed
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> _Decoded:
        item = self.items[index]
        path = self.paths[item.split][item.row]
        try:
            image, source = self.reader.read(path)
            drawn = [
                view(image, self.transform, number=number, path=path, seed=self.view_seed) for number in item.views
            ]
        except DataError as error:
            return _Decoded(
                item=item, pixels=_NO_PIXELS, crop=np.zeros((0, 5), np.int32), source=(0, 0), error=str(error)
            )
        pixels = np.stack([pixels for pixels, _ in drawn])
        return _Decoded(
            item=item,
            pixels=pixels,
            crop=np.stack([crop for _, crop in drawn]),
            source=(source.size_bytes, source.content_hash),
        )


def _one_thread(worker: int) -> None:  # noqa: ARG001
    torch.set_num_threads(1)

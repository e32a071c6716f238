"""Shards: decode each image once, draw all its missing views, encode them in batches of one fixed shape."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from featcache.backbones import Backbone
from featcache.datasets import Reader
from featcache.errors import DataError
from featcache.extraction.batches import BatchEncoder
from featcache.extraction.on_device import TOGETHER, Laid, drawn, laid
from featcache.extraction.parts import PartContents
from featcache.extraction.plan import Plan
from featcache.extraction.shards import Item, Items
from featcache.kept_memory import kept_memory, not_kept_here
from featcache.store.writing import check_resolution, to_stored
from featcache.views import Transform, view

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
class Decoded:
    """One image's views, or why there are none."""

    item: Item
    pixels: NDArray[np.uint8] | Tensor
    """(v, size, size, 3); empty until a device has drawn what is `laid`."""
    crop: NDArray[np.int32]
    """(v, 5)."""
    source: tuple[int, int]
    error: str = ""
    laid: Laid | None = None
    """What the device is to draw, under `--pixels device`."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that encoding takes of a plan besides the images' list: small, so that another machine can be sent it."""

    dim: int
    dtype: str
    transform: Transform
    view_seed: int
    skip_unreadable: bool
    reader: Reader

    @classmethod
    def of(cls, plan: Plan) -> Work:
        """What a plan asks of every image."""
        return cls(
            dim=plan.identity.dim,
            dtype=plan.spec.dtype,
            transform=plan.transform,
            view_seed=plan.request.view_seed,
            skip_unreadable=plan.request.skip_unreadable,
            reader=plan.manifest.reader,
        )


def encode(
    work: Work,
    items: Items,
    order: Iterable[int],
    backbone: Backbone,
    machine: Machine,
    *,
    progress: Progress,
) -> Iterator[tuple[int, PartContents]]:
    """Each shard and its part, as they are done; `order` gives the items' indices, those of a shard together.

    Raises DataError for an unreadable image.
    """
    encoder = _Encoder(work, backbone, machine, progress)
    with kept_memory(machine.device):
        for decoded in pixels_of(work, items, order, machine):
            if decoded.error and not work.skip_unreadable:
                raise DataError(f"{decoded.error}; mend or replace it, or leave such images out: --on-bad-image skip")
            if encoder.shard not in (None, decoded.item.shard):
                yield encoder.finish()
            encoder.add(decoded)
        if encoder.shard is not None:
            yield encoder.finish()


class _Encoder:
    """Turns decoded views into a shard's part, batch by batch while further images are decoded."""

    def __init__(self, work: Work, backbone: Backbone, machine: Machine, progress: Progress) -> None:
        self.work = work
        self.backbone = backbone
        self.machine = machine
        self.progress = progress
        self._encode_batch = BatchEncoder(backbone, work.transform, machine.device, machine.batch_size)
        self._begin()

    def _begin(self) -> None:
        """A new shard."""
        self._images: list[Decoded] = []  # without their pixels
        self._waiting: list[Any] = []  # (size, size, 3) each, arrays or tensors, until they make a batch
        self._encoded = [torch.empty(0, self.work.dim, device=self.machine.device)]  # (b, D) each

    @property
    def shard(self) -> int | None:
        """The shard at hand; None before its first image."""
        return self._images[0].item.shard if self._images else None

    def add(self, decoded: Decoded) -> None:
        """Take an image into the shard; whatever makes a full batch is encoded."""
        self._images.append(replace(decoded, pixels=_NO_PIXELS, laid=None))
        self._waiting.extend(decoded.pixels)
        while len(self._waiting) >= self.machine.batch_size:
            self._encode()

    def finish(self) -> tuple[int, PartContents]:
        """The shard at hand and its part; a new shard begins."""
        if self._waiting:
            self._encode()
        embedding: NDArray[np.float32] = torch.cat(self._encoded).cpu().numpy()
        stored = to_stored(embedding, self.work.dtype)
        check_resolution(embedding, stored)
        readable = [decoded for decoded in self._images if not decoded.error]
        counts = [len(decoded.item.views) for decoded in readable]
        first = self._images[0].item
        contents = PartContents(
            split=first.split,
            row=np.repeat(np.array([decoded.item.row for decoded in readable], dtype=np.int64), counts),
            view=np.array([number for decoded in readable for number in decoded.item.views], dtype=np.int64),
            image=stored,
            crop=np.concatenate([np.empty((0, 5), np.int32), *(decoded.crop for decoded in readable)]),
            source=np.repeat(
                np.array([decoded.source for decoded in readable], dtype=np.uint64).reshape(-1, 2), counts, axis=0
            ),
            unreadable={decoded.item.row: decoded.error for decoded in self._images if decoded.error},
            place=self.work.reader.place,
        )
        self._begin()
        return first.shard, contents

    def _encode(self) -> None:
        """Encode the first batch of what waits."""
        batch = self._waiting[: self.machine.batch_size]
        del self._waiting[: self.machine.batch_size]
        self._encoded.append(self._encode_batch(batch))
        self.progress(len(batch))


def pixels_of(work: Work, items: Items, order: Iterable[int], machine: Machine) -> Iterator[Decoded]:
    """The items' views as pixels, in the given order, be they drawn by the loading stage or by the device."""
    loaded = decode(work, items, order, machine)
    if work.transform.pixels != "device":
        yield from loaded
        return
    while some := list(itertools.islice(loaded, TOGETHER)):
        laid_out = [decoded.laid for decoded in some if decoded.laid is not None]
        made = iter(drawn(laid_out, work.transform, machine.device))
        yield from (decoded if decoded.laid is None else _with_pixels(decoded, next(made)) for decoded in some)


def _with_pixels(decoded: Decoded, made: Tensor | DataError) -> Decoded:
    if isinstance(made, DataError):
        return _unread(decoded.item, f"image {decoded.item.path} does not decode: {made}")
    return replace(decoded, pixels=made, laid=None)


def decode(work: Work, items: Items, order: Iterable[int], machine: Machine) -> Iterator[Decoded]:
    """The loading stage: the items' decoded views, in the given order, whatever the number of workers."""
    images = _Images(work, items)
    if machine.workers == 0 or len(images) < 64:
        yield from map(images.__getitem__, order)
        return
    loader: DataLoader[Any] = DataLoader(
        images,
        batch_size=8,
        sampler=order,
        collate_fn=list,
        num_workers=min(machine.workers, len(images) // 8),
        prefetch_factor=4,
        worker_init_fn=_begin_worker,
    )
    with _interrupts_ignored():
        batches = iter(loader)  # starts the workers
    for decoded in batches:
        yield from decoded


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C and SIGTERM, which come to all: this one stops and ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers, and only it is interrupted
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Images(Dataset[Decoded]):
    """Images by index, for loader processes."""

    def __init__(self, work: Work, items: Items) -> None:
        self.work = work
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Decoded:
        item, work = self.items[index], self.work
        try:
            if work.transform.pixels == "device":
                return self._laid(item)
            image, source = work.reader.read(item.path)
            drawn = [
                view(image, work.transform, number=number, path=item.path, seed=work.view_seed) for number in item.views
            ]
        except DataError as error:
            return _unread(item, str(error))
        pixels = np.stack([pixels for pixels, _ in drawn])
        return Decoded(
            item=item,
            pixels=pixels,
            crop=np.stack([crop for _, crop in drawn]),
            source=(source.size_bytes, source.content_hash),
        )

    def _laid(self, item: Item) -> Decoded:
        work = self.work
        image, source = laid(work.reader, item.path, item.views, work.transform, work.view_seed)
        return Decoded(
            item=item,
            pixels=_NO_PIXELS,
            crop=np.stack([layout.crop for layout in image.layouts]),
            source=(source.size_bytes, source.content_hash),
            laid=image,
        )


def _unread(item: Item, error: str) -> Decoded:
    return Decoded(item=item, pixels=_NO_PIXELS, crop=np.zeros((0, 5), np.int32), source=(0, 0), error=error)


def _begin_worker(worker: int) -> None:  # noqa: ARG001
    torch.set_num_threads(1)
    not_kept_here()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # for which torch has just set a handler of its own

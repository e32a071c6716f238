"""Parts: what a shard leaves on disk until it is assembled into the store. Idempotent, found by content."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreError
from featcache.spilled import Spill
from featcache.store.claims import Claims
from featcache.store.disk import new_hdf5
from featcache.store.places import parts_folder
from featcache.store.reading import SPLITS
from featcache.store.replacing import replacing, sweep
from featcache.store.sealing import append_sum, sound_bytes
from featcache.store.writing import row_digest

_FORMAT = "featcache-part/3"
_CHUNK_BYTES = 256 * 1024
_NONE = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A part's index, without its embeddings."""

    path: Path
    split: str
    row: NDArray[np.int64]
    """(K,) manifest rows, ascending."""
    view: NDArray[np.int64]
    """(K,) view numbers."""
    unreadable: Mapping[int, str]
    """Manifest rows whose image could not be read, with the reason."""
    written_ns: int
    """When it was written."""
    place: str
    """The reader's `place` of the images it was made from."""

    def among(self, rows: NDArray[np.int64], num_views: int) -> NDArray[np.int64]:
        """Which of its embeddings are of these rows, which ascend, and of the first views."""
        if not (len(rows) and len(self.row)):
            return _NONE
        begin, end = np.searchsorted(self.row, [rows[0], rows[-1] + 1]).tolist()
        near = slice(*np.searchsorted(rows, [self.row[0], self.row[-1] + 1]).tolist())
        same = np.isin(self.row[begin:end], rows[near]) & (self.view[begin:end] < num_views)
        inside: NDArray[np.int64] = begin + np.flatnonzero(same)
        return inside

    def load(self, name: str) -> NDArray[Any]:
        """One of the part's arrays: image (K, D), crop (K, 5), source (K, 2), digest (K,).

        Raises StoreError where it is gone.
        """
        return self.load_all(name)[0]

    def load_all(self, *names: str) -> list[NDArray[Any]]:
        """Several of them, as `load` gives them."""
        content = _content(self.path)
        if content is None:
            raise StoreError(
                f"{self.path} is not what it was a moment ago; run the same command again, it goes on there"
            )
        with _opened(content) as file:
            return [file[name][:] for name in names]


@dataclass(frozen=True, kw_only=True)
class PartContents:
    """A part on its way to disk."""

    split: str
    row: NDArray[np.int64]
    view: NDArray[np.int64]
    image: NDArray[Any]
    crop: NDArray[np.int32]
    source: NDArray[np.uint64]
    unreadable: Mapping[int, str]
    place: str


def part_path(key: str, name: str) -> Path:
    """Where the part of a shard lies; `name` is the digest of the shard's row and view lists."""
    return parts_folder(key) / f"{name}.part"


def write_part(key: str, name: str, contents: PartContents) -> None:
    """Put a part on disk, whole or not at all."""
    with replacing(part_path(key, name)) as temporary:
        with new_hdf5(temporary) as file:
            _write(file, key, contents)
        append_sum(temporary)


def _write(file: h5py.File, key: str, contents: PartContents) -> None:
    file.attrs["format"], file.attrs["key"], file.attrs["split"] = _FORMAT, key, contents.split
    file.attrs["place"] = contents.place
    for name in ("row", "view", "image", "crop", "source"):
        _put(file, name, getattr(contents, name))
    _put(file, "digest", row_digest(contents.image))
    unreadable = sorted(contents.unreadable.items())
    file["unreadable/row"] = np.array([row for row, _ in unreadable], dtype=np.int64)
    # Cut between characters: half a character would make the whole part unreadable.
    reasons = [reason.encode()[:2000].decode(errors="ignore").encode() for _, reason in unreadable]
    file["unreadable/reason"] = np.array(reasons, dtype=h5py.string_dtype("utf-8", max(map(len, reasons), default=1)))


def _put(file: h5py.File, name: str, values: NDArray[Any]) -> None:
    """An array with a checksum on each chunk: its file may come to lie behind a store."""
    if not values.size:
        file[name] = values
        return
    rows = max(1, min(len(values), _CHUNK_BYTES * len(values) // values.nbytes))
    file.create_dataset(name, data=values, chunks=(rows, *values.shape[1:]), fletcher32=True)


def read_parts(key: str) -> list[Part]:
    """Every sound part of a key; a damaged one is removed, since its rows are made anew anyway.

    Raises StoreError where the disk does not give one's bytes: it may be sound.
    """
    found: list[Part] = []
    ends = [0]
    with Spill(np.int64) as indices:
        for path in sorted(parts_folder(key).glob("*.part")):
            if path.name.startswith("."):
                continue
            part = _read_index(path, key)
            if part is None:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                continue
            for numbers in (part.row, part.view):
                indices.add(numbers)
                ends.append(ends[-1] + len(numbers))
            found.append(replace(part, row=_NONE, view=_NONE))
        kept = indices.done()
    lists = [kept[begin:end] for begin, end in pairwise(ends)]
    return [replace(part, row=row, view=view) for part, row, view in zip(found, lists[::2], lists[1::2], strict=True)]


def remove_parts(key: str, parts: tuple[Part, ...]) -> None:
    """Delete parts whose rows are in the renamed store, and their folder when it is empty."""
    for part in parts:
        with suppress(OSError):  # a part too many does no harm, and the next extraction removes it
            part.path.unlink(missing_ok=True)
    folder = parts_folder(key)
    sweep(folder)
    with Claims(folder) as claims:
        claims.sweep()
    with suppress(OSError):  # not empty, or removed by another process
        folder.rmdir()


def _read_index(path: Path, key: str) -> Part | None:
    """The part at `path`; None where it is damaged, gone, or of another format or key."""
    try:
        written_ns = path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    content = _content(path)
    if content is None:
        return None
    with _opened(content) as file:
        if file.attrs["format"] != _FORMAT or file.attrs["key"] != key or file.attrs["split"] not in SPLITS:
            return None
        reasons = [reason.decode(errors="replace") for reason in file["unreadable/reason"][:].tolist()]
        return Part(
            path=path,
            split=file.attrs["split"],
            row=file["row"][:],
            view=file["view"][:],
            unreadable=dict(zip(file["unreadable/row"][:].tolist(), reasons, strict=True)),
            written_ns=written_ns,
            place=str(file.attrs["place"]),
        )


def _content(path: Path) -> bytes | None:
    """A part's bytes; None where they are not as they were written, or gone."""
    try:
        return sound_bytes(path)
    except FileNotFoundError:
        return None  # assembled and removed by another process
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror}; run the same command again, or remove that file: its rows are then "
            "encoded anew"
        ) from error


def _opened(content: bytes) -> h5py.File:
    return h5py.File(h5py.h5f.open_file_image(content))

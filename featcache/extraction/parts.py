"""Parts: what a shard leaves on disk until it is assembled into the store. Idempotent, found by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.store.places import parts_folder
from featcache.store.reading import SPLITS
from featcache.store.writing import replacing, row_digest

_FORMAT = "featcache-part/1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A part's index, without its embeddings."""

    path: Path
    split: str
    row: NDArray[np.int64]
    """(K,) manifest rows."""
    view: NDArray[np.int64]
    """(K,) view numbers."""
    unreadable: Mapping[int, str]
    """Manifest rows whose image could not be read, with the reason."""
    written_ns: int
    """When it was written."""
    place: str
    """The reader's `place` of the images it was made from."""

    def load(self, name: str) -> NDArray[Any]:
        """One of the part's arrays: image (K, D), crop (K, 5), source (K, 2)."""
        with h5py.File(self.path, "r", locking=False) as file:
            values: NDArray[Any] = file[name][:]
        return values


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


def write_part(key: str, contents: PartContents) -> None:
    """Put a part on disk, whole or not at all; its name is the digest of its row and view lists."""
    lists = [
        contents.place.encode(),
        contents.split.encode(),
        contents.row.tobytes(),
        contents.view.tobytes(),
        repr(sorted(contents.unreadable)).encode(),
    ]
    path = parts_folder(key) / f"{hashlib.sha256(b'/'.join(lists)).hexdigest()[:32]}.part"
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="latest") as file:
        file.attrs["format"], file.attrs["key"], file.attrs["split"] = _FORMAT, key, contents.split
        file.attrs["place"] = contents.place
        for name in ("row", "view", "image", "crop", "source"):
            values = getattr(contents, name)
            file.create_dataset(name, data=values, chunks=True if values.size else None, fletcher32=bool(values.size))
        file["digest"] = row_digest(contents.image)
        unreadable = sorted(contents.unreadable.items())
        file["unreadable/row"] = np.array([row for row, _ in unreadable], dtype=np.int64)
        # Cut between characters: half a character would make the whole part unreadable.
        reasons = [reason.encode()[:2000].decode(errors="ignore").encode() for _, reason in unreadable]
        file["unreadable/reason"] = np.array(
            reasons, dtype=h5py.string_dtype("utf-8", max(map(len, reasons), default=1))
        )


def read_parts(key: str) -> Iterator[Part]:
    """Every sound part of a key; a damaged one is removed, since its rows are made anew anyway."""
    for path in sorted(parts_folder(key).glob("*.part")):
        if path.name.startswith("."):
            continue
        try:
            yield _read_index(path, key)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError):
            path.unlink(missing_ok=True)


def remove_parts(key: str, parts: tuple[Part, ...]) -> None:
    """Delete parts whose rows are in the renamed store, and their folder when it is empty."""
    for part in parts:
        part.path.unlink(missing_ok=True)
    folder = parts_folder(key)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _read_index(path: Path, key: str) -> Part:
    with h5py.File(path, "r", locking=False) as file:
        split = file.attrs["split"]
        if file.attrs["format"] != _FORMAT or file.attrs["key"] != key or split not in SPLITS:
            raise ValueError(f"{path} is not a part of {key}")
        crop, source = file["crop"][:], file["source"][:]  # read for their checksums
        if not np.array_equal(row_digest(file["image"][:]), file["digest"][:]) or len(crop) != len(source):
            raise ValueError(f"{path} is damaged")
        reasons = [reason.decode(errors="replace") for reason in file["unreadable/reason"][:].tolist()]
        return Part(
            path=path,
            split=split,
            row=file["row"][:],
            view=file["view"][:],
            unreadable=dict(zip(file["unreadable/row"][:].tolist(), reasons, strict=True)),
            written_ns=path.stat().st_mtime_ns,
            place=str(file.attrs["place"]),
        )

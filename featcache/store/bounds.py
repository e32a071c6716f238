"""What an array of a store may be, looked at before a byte of it is read or memory is taken for it.

A file of a few bytes can claim an array of terabytes, or point to other files of the machine. HDF5 believes it.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreError
from featcache.store.virtual import runs_of

SMALL_BYTES = 64 << 20
"""What an array may always take."""
GROWTH = 20
"""How many times a file's own size one of its arrays may take: lists of paths shrink up to about that."""
HARMLESS = (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError)
"""What h5py makes of damaged bytes."""
_KINDS = "iufS"
_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)


def array_of(file: h5py.File, name: str, folder: Path) -> h5py.Dataset:
    """An array by its path in a store's file, which lies in `folder`.

    A store's arrays are plain numbers or strings of fixed length, lie in the file itself, are packed by no filter but
    gzip, and take no more than GROWTH times the file; embeddings may lie in the files beside it that a store may have.
    Raises StoreError for an array that no store has, KeyError for none.
    """
    check_links(file, name)
    stored = file[name]
    if not isinstance(stored, h5py.Dataset) or stored.shape is None:
        raise StoreError(f"{name} is no array")
    if stored.dtype.kind not in _KINDS or stored.dtype.subdtype is not None:
        raise StoreError(f"{name} holds {stored.dtype}, which is neither numbers nor text of a fixed length")
    if stored.external or (stored.is_virtual and not name.endswith("/image")):
        raise StoreError(f"{name} lies in other files than the store")
    file_bytes = int(file.id.get_filesize())
    if stored.is_virtual:
        file_bytes += sum(_size(folder / beside) for beside in {run.file for run in runs_of(stored)})
    settings = stored.id.get_create_plist()
    filters = [settings.get_filter(at)[0] for at in range(settings.get_nfilters())]
    if foreign := [number for number in filters if number not in _FILTERS]:
        raise StoreError(f"{name} is packed in a way that no store is (HDF5 filter {foreign[0]})")
    limit = SMALL_BYTES + GROWTH * file_bytes
    claims = [stored.shape] if stored.chunks is None else [stored.shape, stored.chunks]
    taken = max(math.prod(map(int, claimed)) for claimed in claims) * stored.dtype.itemsize
    if taken > limit:
        raise StoreError(f"{name} claims {taken:,} bytes, in a file of {file_bytes:,}")
    return stored


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def check_links(file: h5py.File, name: str) -> None:
    """Raises StoreError where the path leads by way of a link, which may end in another file; KeyError for none."""
    path = PurePosixPath(name)
    for part in (*reversed(path.parents[:-1]), path):
        if file.id.links.get_info(str(part).encode()).type != h5py.h5l.TYPE_HARD:
            raise StoreError(f"{part} is a link, which no store has")


def check_numbers(values: NDArray[np.generic], what: str, *, below: int) -> None:
    """Raises StoreError unless these are whole numbers, (N,), from 0 and below a limit."""
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise StoreError(f"{what} are {values.dtype} {values.shape}, not one whole number each")
    if values.size and (values.min() < 0 or values.max() >= below):
        raise StoreError(f"{what} run from {values.min()} to {values.max()}, and must lie in 0 to {below - 1}")

"""Embeddings that stay in the files of parts, behind an HDF5 virtual data set in the store.

HDF5 gives a fill value, and no error, where a file of a virtual data set is gone. The fill value here is NaN, which no
embedding is, so whoever reads one knows. Damage within a file is told by its own checksums, as in any store.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreError
from featcache.store.replacing import replacing

MOST_RUNS = 20_000
"""In more pieces than this a split is written whole: HDF5 looks through all of them whenever it opens the store."""
_FILE = re.compile(r"[^/\\]+\.parts/[0-9a-f-]+\.part")
_FOLDER = ".parts"


class Run(NamedTuple):
    """Consecutive embeddings of one file that are consecutive in a split too."""

    file: str
    """Relative to the store's folder: NAME.parts/DIGEST.part."""
    begin: int
    """The first of the file's that is here."""
    at: int
    """Where it lies in the split: row x views + view."""
    size: int
    """How many they are."""


def create(group: h5py.Group, shape: tuple[int, int, int], dtype: str, runs: Sequence[Run]) -> None:
    """The array `image` (N, V, D) of a group, made of `runs` that cover it."""
    assert sum(run.size for run in runs) == shape[0] * shape[1], "the runs of a split hold exactly its embeddings"
    layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
    for run in runs:
        # The file may hold more: HDF5 looks at its true size when it opens it.
        source = h5py.VirtualSource(run.file, "image", shape=(run.begin + run.size, shape[2]), dtype=dtype)
        begin = run.begin
        for rows, views in _boxes(run.at, run.size, shape[1]):
            count = (rows.stop - rows.start) * (views.stop - views.start)
            layout[rows, views] = source[begin : begin + count]
            begin += count
    group.create_virtual_dataset("image", layout, fillvalue=np.nan)


def runs_of(image: h5py.Dataset) -> list[Run]:
    """What `create` was given, perhaps in smaller pieces, in order. Raises StoreError for files that no store has."""
    num_views, found = int(image.shape[1]), []
    for piece in image.virtual_sources():
        (row, view, _), (last_row, last_view, _) = piece.vspace.get_select_bounds()
        begin = piece.src_space.get_select_bounds()[0][0]
        if not _FILE.fullmatch(piece.file_name) or piece.dset_name != "image":
            raise StoreError(f"{image.name} lies in {piece.file_name}, where no store has its embeddings")
        count = (last_row - row + 1) * (last_view - view + 1)
        found.append(Run(piece.file_name, begin, row * num_views + view, count))
    return sorted(found, key=lambda run: run.at)


def merged(pieces: Iterable[Run]) -> Iterator[Run]:
    """The runs in order, with those that continue one another made one."""
    held: Run | None = None
    for run in pieces:
        if held and (held.file, held.begin + held.size, held.at + held.size) == (run.file, run.begin, run.at):
            held = held._replace(size=held.size + run.size)
            continue
        if held:
            yield held
        held = run
    if held:
        yield held


def check_there(values: NDArray[Any]) -> None:
    """Raises StoreError where embeddings that were read are none, since their file is gone."""
    if np.isnan(values).any():
        raise StoreError("a file of embeddings beside it is gone or does not open")


def parts_beside(store: Path) -> Path:
    """The folder of a store's files of embeddings."""
    return store.with_name(store.stem + _FOLDER)


def adopt(store: Path, part: Path) -> str:
    """Make a part one of a store's files of embeddings; its name relative to the store's folder.

    The part itself stays: it is another name of the same bytes, or a copy where a disk knows no such names.
    """
    folder = parts_beside(store)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / part.name
    if target.exists() and not target.samefile(part):  # older bytes, which the store that is there may need
        target = folder / f"{part.stem}-{secrets.token_hex(4)}.part"
    if not target.exists():
        try:
            os.link(part, target)
        except OSError:
            with replacing(target) as temporary:
                shutil.copyfile(part, temporary)
    return f"{folder.name}/{target.name}"


def forget(store: Path, needed: Iterable[str]) -> None:
    """Remove the files of embeddings beside a store that it does not need; all of them where none is needed."""
    folder = parts_beside(store)
    kept = {Path(name).name for name in needed}
    for path in folder.glob("*"):
        if path.name not in kept:
            with suppress(OSError):
                path.unlink()
    with suppress(OSError):  # not empty, or not there
        folder.rmdir()


def _boxes(at: int, count: int, num_views: int) -> Iterator[tuple[slice, slice]]:
    """Rows and views that a run fills, in order: the rest of a row, whole rows, the beginning of one."""
    while count:
        row, view = divmod(at, num_views)
        if view or count < num_views:
            taken = min(count, num_views - view)
            yield slice(row, row + 1), slice(view, view + taken)
        else:
            taken = count - count % num_views
            yield slice(row, row + taken // num_views), slice(0, num_views)
        at, count = at + taken, count - taken

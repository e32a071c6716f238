"""An open store: one HDF5 file read as arrays.

Layout (N rows, V views, C classes, D embedding, T sentences, M images of a split in the data set):

    attrs                   format, key, spec, content, logit_scale, logit_bias, norm, provenance, created, versions,
                            seal: a checksum of the others
    /classes/               name (C,) UTF-8; id (C,), the names again where a data set has no ids
    /text/<set>/            embedding (T, D) float32 raw; class (T,); sentence (T,); template (T,); templates (P,);
                            attrs origin
    /manifest/<split>/      path (M,) UTF-8; label (M,)
    /<split>/row (N,)       the manifest row of each stored row, ascending
    /<split>/image (N, V, D) float16 or float32, raw; view 0 is the test transform
    /<split>/crop (N, V, 5) top left height width flip
    /<split>/source (N, 2)  bytes and content hash of each image file
    /<split>/digest (N, V)  a checksum of every row
    /<split>/missing/       row (K,), reason (K,): images that could not be read and were skipped
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreError, UnknownNameError
from featcache.prompts import TextSet
from featcache.spilled import BLOCK, spilled
from featcache.store import virtual
from featcache.store.bounds import HARMLESS, array_of, check_links, check_numbers
from featcache.store.disk import CHUNK_CACHE_BYTES
from featcache.store.gate import admit
from featcache.store.sealing import SEAL, seal_of
from featcache.store.spec import FORMAT, Spec
from featcache.store.virtual import Run

SPLITS = ("train", "val", "test")
BLOCK_ROWS = 4096
"""Rows read or written at once: bounds memory whatever a store's size."""
_VIRTUAL_ROWS = 128
"""Rows that count as one chunk where they lie in other files."""


class Store:
    """A consistent snapshot of one store, open for reading; use as a context manager or close it.

    Raises StoreError where the file is not a store, is damaged, or was made by another format. One that this
    installation did not make is first read by a process apart (featcache/store/gate.py).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._runs: dict[str, list[Run]] = {}
        self._arrays: dict[str, h5py.Dataset] = {}
        self._mend = f"`featcache cache rm {path.stem}` followed by the same extract or import makes it anew"
        self._file = open_file(path)
        try:
            with self._reading():
                self._read_header()
            self._mend = f"`featcache cache repair {path.stem}` mends what can be mended, and says what else to do"
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> None:
        attrs = self._file.attrs
        found = _text(attrs, "format") if "format" in attrs else "none"
        if found != FORMAT:
            raise StoreError(f"{self.path} is not a featcache store of format {FORMAT} (its format: {found})")
        if SEAL in attrs and _text(attrs, SEAL) != seal_of(attrs):  # older stores have none
            raise StoreError(f"{self.path} is damaged: its attributes differ from their checksum; {self._mend}")
        self.spec = Spec.from_json(_text(attrs, "spec"))
        self.key = _text(attrs, "key")
        if self.spec.key != self.key:
            raise StoreError(f"{self.path} is damaged: its key does not belong to its spec; {self._mend}")
        self.content = _text(attrs, "content")
        self.logit_scale, self.logit_bias = _number(attrs, "logit_scale"), _number(attrs, "logit_bias")
        self.norm = _text(attrs, "norm")
        self.created = _text(attrs, "created")
        self.versions: dict[str, str] = _json(attrs, "versions")
        self.provenance: dict[str, Any] = _json(attrs, "provenance")
        _check_draws(self.provenance)
        self.classes = tuple(_strings(self._stored("classes/name")))
        self.class_ids = tuple(_strings(self._stored("classes/id")))
        if len(self.classes) != len(self.class_ids):
            raise StoreError(f"{self.path} is damaged: not every class has a name and an id; {self._mend}")

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """The splits the data set has, in the order train, val, test."""
        with self._reading():
            check_links(self._file, "manifest")
            return tuple(split for split in SPLITS if split in self._file["manifest"])

    @cached_property
    def text_sets(self) -> tuple[str, ...]:
        """The names of the stored text sets."""
        with self._reading():
            return tuple(sorted(self._file["text"]))

    @cached_property
    def dim(self) -> int:
        """D, the width of an embedding."""
        with self._reading():
            return int(self._image(self.splits[0]).shape[2])

    def num_rows(self, split: str) -> int:
        """N, the stored rows of a split."""
        with self._reading():
            return int(self._image(split).shape[0])

    def num_views(self, split: str) -> int:
        """V, the stored views of each row of a split, view 0 included."""
        with self._reading():
            return int(self._image(split).shape[1])

    def label(self, split: str) -> NDArray[np.int64]:
        """(M,) the class of every image of the split in the data set, stored or not."""
        with self._reading():
            label: NDArray[np.int64] = self._stored(f"manifest/{split}/label")[:].astype(np.int64)
            check_numbers(label, f"the labels of {split}", below=len(self.classes))
            if len(label) != self._num_images(split):
                raise StoreError(f"{split} has {len(label)} labels for {self._num_images(split)} images")
        return label

    def path_at(self, split: str, row: int) -> str:
        """The path of one image of the split in the data set."""
        with self._reading():
            return str(self._stored(f"manifest/{split}/path")[row].decode("utf-8"))

    def paths(self, split: str) -> list[str]:
        """(M,) the path of every image of the split in the data set, stored or not."""
        with self._reading():
            return _strings(self._stored(f"manifest/{split}/path"))

    def rows(self, split: str) -> NDArray[np.int64]:
        """(N,) the manifest row of each stored row, ascending."""
        rows = spilled(self._checked_rows(split), np.int64)
        with self._reading():
            if len(rows) != self._image(split).shape[0]:
                raise StoreError(f"the stored rows of {split} are not one number for each embedding")
        return rows

    def _checked_rows(self, split: str) -> Iterator[NDArray[np.int64]]:
        """The stored rows, block by block. Raises StoreError where they are no ascending rows of the manifest."""
        last = -1
        for rows in self.blocks(f"{split}/row", BLOCK):
            with self._reading():
                check_numbers(rows, f"the stored rows of {split}", below=self._num_images(split))
                if (np.diff(rows.astype(np.int64), prepend=last) <= 0).any():
                    raise StoreError(f"the stored rows of {split} do not ascend")
            yield rows
            last = int(rows[-1])

    def missing(self, split: str) -> dict[int, str]:
        """The manifest rows whose image could not be read, with the reason."""
        with self._reading():
            row = self._stored(f"{split}/missing/row")[:]
            check_numbers(row, f"the unreadable images of {split}", below=self._num_images(split))
            return dict(zip(row.tolist(), _strings(self._stored(f"{split}/missing/reason")), strict=True))

    def runs(self, split: str) -> list[Run]:
        """Where the split's embeddings lie in files beside the store; none where they lie in it."""
        if split not in self._runs:
            with self._reading():
                stored = self._image(split)
                self._runs[split] = virtual.runs_of(stored) if stored.is_virtual else []
        return self._runs[split]

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The files beside the store that it needs, relative to its folder."""
        return tuple(dict.fromkeys(run.file for split in self.splits for run in self.runs(split)))

    @property
    def layout(self) -> str:
        """`virtual` where embeddings lie in files beside the store, else `whole`."""
        return "virtual" if self.files else "whole"

    def array(self, split: str, name: str, at: slice) -> NDArray[Any]:
        """Rows `at` of one of the split's arrays, as stored: image, crop, source, digest or row."""
        with self._reading():
            stored = self._stored(f"{split}/{name}")
            beside = name == "image" and bool(self.runs(split))  # of files that a store may have, or it raises
            values: NDArray[Any] = stored[at]
            if beside:
                virtual.check_there(values)
        return values

    def length(self, name: str) -> int:
        """How many entries an array has, by its path in the file."""
        with self._reading():
            return int(self._stored(name).shape[0])

    def blocks(self, name: str, size: int) -> Iterator[NDArray[Any]]:
        """An array by its path in the file, `size` entries at a time."""
        for start in range(0, self.length(name), size):
            with self._reading():
                values: NDArray[Any] = self._stored(name)[start : start + size]
            yield values

    def chunk_rows(self, split: str, name: str) -> int:
        """How many rows of an array lie in one chunk, under one checksum."""
        with self._reading():
            stored = self._stored(f"{split}/{name}")
            if stored.is_virtual:
                return min(_VIRTUAL_ROWS, int(stored.shape[0]))
            return int(stored.chunks[0]) if stored.chunks else max(1, int(stored.shape[0]))

    def gather(self, split: str, name: str, positions: NDArray[np.int64]) -> NDArray[Any]:
        """The stored rows at `positions` (ascending or not) of one array; damage to others does not matter."""
        with self._reading():
            stored = self._stored(f"{split}/{name}")
            beside = name == "image" and bool(self.runs(split))
            if len(positions) and int(positions.max()) >= stored.shape[0]:
                raise StoreError(f"{split}/{name} has {stored.shape[0]} rows, and row {positions.max()} is asked for")
            out = np.empty((len(positions), *stored.shape[1:]), dtype=stored.dtype)
            for start in range(0, stored.shape[0], BLOCK_ROWS):
                inside = np.flatnonzero((positions >= start) & (positions < start + BLOCK_ROWS))
                if len(inside):
                    low, high = int(positions[inside].min()), int(positions[inside].max()) + 1
                    try:
                        out[inside] = stored[low:high][positions[inside] - low]
                    except OSError:  # of rows in between, perhaps
                        for index in inside:
                            out[index] = stored[positions[index]]
            if beside:
                virtual.check_there(out)
        return out

    def text(self, name: str) -> TextSet:
        """A stored text set; raises UnknownNameError when the store has no such set."""
        if name not in self.text_sets:
            hint = f"`featcache prompts add {self.name} SET` adds one without the images"
            raise UnknownNameError(f"text set of {self.name}", name, self.text_sets, hint=hint)
        with self._reading():
            found = TextSet(
                embedding=self._stored(f"text/{name}/embedding")[:],
                label=self._stored(f"text/{name}/class")[:],
                template=self._stored(f"text/{name}/template")[:],
                templates=tuple(_strings(self._stored(f"text/{name}/templates"))),
                origin=_text(self._file["text"][name].attrs, "origin"),
                sentences=tuple(_strings(self._stored(f"text/{name}/sentence"))),
            )
            check_numbers(found.label, f"the classes of the text set {name}", below=len(self.classes))
            if found.embedding.shape != (len(found.label), self.dim) or found.embedding.dtype != np.float32:
                raise StoreError(f"the text set {name} holds {found.embedding.dtype} {found.embedding.shape}")
            return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stored(self, name: str) -> h5py.Dataset:
        """An array by its path in the file, found fit to be read."""
        if name not in self._arrays:
            self._arrays[name] = array_of(self._file, name, self.path.parent)
        return self._arrays[name]

    def _image(self, split: str) -> h5py.Dataset:
        stored = self._stored(f"{split}/image")
        if len(stored.shape) != 3 or stored.dtype.kind != "f" or 0 in stored.shape[1:]:
            raise StoreError(f"the embeddings of {split} are {stored.dtype} {stored.shape}, not (rows, views, width)")
        return stored

    def _num_images(self, split: str) -> int:
        return int(self._stored(f"manifest/{split}/path").shape[0])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Anything HDF5 or the schema trips over inside becomes one StoreError."""
        try:
            yield
        except StoreError as error:
            if str(self.path) in str(error):
                raise
            raise StoreError(f"{self.path} is damaged: {error}; {self._mend}") from error
        except HARMLESS as error:
            raise StoreError(
                f"{self.path} is damaged or incomplete, or made by an older featcache ({error}); {self._mend}"
            ) from error


def open_file(path: Path) -> h5py.File:
    """The HDF5 file at a path, open for reading. Raises StoreError where there is none."""
    admit(path)
    try:
        return h5py.File(path, "r", locking=False, rdcc_nbytes=CHUNK_CACHE_BYTES)
    except FileNotFoundError as error:
        raise StoreError(f"there is no store at {path}; `featcache cache ls` lists the stores") from error
    except PermissionError as error:
        raise StoreError(f"cannot read {path}: permission denied") from error
    except OSError as error:
        raise StoreError(
            f"{path} is not a readable HDF5 file (truncated, or not a store at all): {error}; remove it with "
            "`featcache cache rm`, then extract or import it anew"
        ) from error


def _strings(stored: h5py.Dataset) -> list[str]:
    return [item.decode("utf-8") for item in stored[:].tolist()]


def _text(attrs: h5py.AttributeManager, name: str) -> str:
    return bytes(attrs[name]).decode("utf-8")


def _number(attrs: h5py.AttributeManager, name: str) -> float:
    value = float(attrs[name])
    if not math.isfinite(value):
        raise ValueError(f"its {name} is {value}")
    return value


def _json(attrs: h5py.AttributeManager, name: str) -> dict[str, Any]:
    value = json.loads(_text(attrs, name))
    if not isinstance(value, dict):
        raise TypeError(f"its {name} is no mapping")
    return value


def _check_draws(provenance: Mapping[str, Any]) -> None:
    """Raises ValueError or TypeError unless the draws that a store names are pairs of whole numbers."""
    for shots, seed in provenance.get("draws", []):
        if type(shots) is not int or type(seed) is not int or shots < 1:
            raise ValueError(f"one of its draws is {shots!r}, {seed!r}")
    if not isinstance(provenance.get("command", ""), str):
        raise ValueError("the command that made it is no text")

"""Stores are written whole under a temporary name, fsynced, and renamed into place: never changed afterwards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from featcache import __version__
from featcache.errors import ConfigError, DataError
from featcache.interrupts import check
from featcache.prompts import TextSet
from featcache.spilled import spans
from featcache.store import virtual
from featcache.store.disk import new_hdf5
from featcache.store.gate import vouch
from featcache.store.replacing import replacing
from featcache.store.sealing import SEAL, seal_of
from featcache.store.spec import FORMAT, Spec, canonical_json
from featcache.store.virtual import Run

DTYPES = ("float16", "float32")
_CHUNK_BYTES = 256 * 1024
_NOT_IN_CONTENT = ("created", "versions", "content", "provenance", SEAL)


class Block(NamedTuple):
    """Some consecutive rows of a split."""

    image: NDArray[Any] | None
    """(n, V, D) in the store's dtype; None where the split's embeddings stay in files beside the store."""
    crop: NDArray[np.int32]
    """(n, V, 5)."""
    source: NDArray[np.uint64]
    """(n, 2)."""
    digest: NDArray[np.uint64] | None = None
    """(n, V) the checksum of each embedding; made of `image` where there is one."""


@dataclass(frozen=True, kw_only=True)
class SplitContents:
    """One split on its way into a store: its manifest whole, its rows block by block."""

    path: Sequence[str]
    label: NDArray[np.int64]
    row: NDArray[np.int64]
    """(N,) ascending manifest rows."""
    num_views: int
    blocks: Iterable[Block]
    """The N rows in order, any number at a time."""
    missing: Mapping[int, str] = field(default_factory=dict)
    runs: Sequence[Run] | None = None
    """Where its embeddings lie in files beside the store; None: the blocks bring them."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A whole store on its way to disk."""

    spec: Spec
    classes: tuple[str, ...]
    dim: int
    logit_scale: float
    logit_bias: float = 0.0
    norm: str = "raw"
    provenance: Mapping[str, Any]
    splits: Mapping[str, SplitContents]
    text: Mapping[str, TextSet]
    class_ids: tuple[str, ...] = ()
    """What a class is called across data sets; empty: its name."""
    written_ns: int | None = None
    """The file's time: images touched since may have changed. None: now."""


def write_store(path: Path, contents: Contents, *, unless: Callable[[], bool] = lambda: False) -> None:
    """Write the store at `path`, replacing what is there only once the new file is safe on disk.

    Raises OvertakenError where `unless` says, just before that, that what is there has changed.
    """
    with replacing(path, unless=unless) as temporary, new_hdf5(temporary) as file:
        _write_attrs(file, contents)
        _put(file, "classes/name", _fixed(contents.classes))
        _put(file, "classes/id", _fixed(contents.class_ids or contents.classes))
        file.create_group("text")
        for name, text in contents.text.items():
            _write_text(file.create_group(f"text/{name}"), text)
        for name, split in contents.splits.items():
            _write_split(file, name, split, contents)
        _put_text(file, "content", content_digest(file))
        _put_text(file, SEAL, seal_of(file.attrs))
    if contents.written_ns is not None:
        os.utime(path, ns=(contents.written_ns, contents.written_ns))
    vouch(path)


def to_stored(image: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """`image` (..., D) in the store's dtype.

    Raises DataError for a row that is not finite, and for one that float16 would lose more than 1e-3 of.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype} is not known; use one of {', '.join(DTYPES)}")
    if not np.isfinite(image).all():
        raise DataError("the encoder gave an embedding that is not finite (NaN or infinite); is the checkpoint sound?")
    with np.errstate(over="ignore"):
        stored = image.astype(dtype)
    error = np.linalg.norm(stored.astype(np.float32) - image, axis=-1)
    if not (error <= 1e-3 * np.linalg.norm(image, axis=-1)).all():
        raise DataError("an embedding does not fit float16 (its size is beyond half precision); use --dtype float32")
    return stored


def check_resolution(image: NDArray[np.float32], stored: NDArray[Any]) -> None:
    """Raise DataError where rounding (n, D) embeddings to `stored` moved them by over 1 % of their mutual distances.

    Embeddings that nearly coincide, as an untrained tower's do, can survive float16 one by one and still be blurred.
    """
    image, first = np.unique(image, axis=0, return_index=True)  # a blank image's views are all one embedding
    stored = stored[first]
    if len(image) < 16:
        return  # too few rows to tell near-equal embeddings from near-equal images
    spread = np.linalg.norm(image - image.mean(axis=0), axis=1)
    error = np.linalg.norm(stored.astype(np.float32) - image, axis=1)
    if np.sqrt((error**2).mean()) > 1e-2 * np.sqrt((spread**2).mean()):
        raise DataError("the embeddings lie so close together that float16 would blur them; use --dtype float32")


def row_digest(image: NDArray[Any]) -> NDArray[np.uint64]:
    """A 64-bit BLAKE2b checksum of each row: (n, V, D) -> (n, V)."""
    rows = np.ascontiguousarray(image).reshape(-1, image.shape[-1])
    sums = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(sums), dtype="<u8").reshape(image.shape[:-1])


def content_digest(file: h5py.File) -> str:
    """SHA-256 over the spec, every attribute and every array; embeddings enter through their row digests.

    `created`, `versions` and `provenance` stay out: two machines that stored the same things agree.
    """
    digest = hashlib.sha256()
    for name in sorted(set(file.attrs) - set(_NOT_IN_CONTENT)):
        digest.update(f"@{name}={canonical_json(_plain(file.attrs[name]))}\n".encode())
    for name in sorted(dataset_names(file)):
        stored = file[name]
        digest.update(f"/{name} {stored.dtype.str} {stored.shape}\n".encode())
        for key in sorted(stored.parent.attrs):
            digest.update(f"@{key}={canonical_json(_plain(stored.parent.attrs[key]))}\n".encode())
        if name.split("/")[-1] != "image":
            for at in spans(stored.shape[0]):
                digest.update(np.ascontiguousarray(stored[at]).tobytes())
    return digest.hexdigest()


def dataset_names(file: h5py.File) -> list[str]:
    """The paths of all arrays in a file."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return plain.decode() if isinstance(plain, bytes) else plain


def _write_attrs(file: h5py.File, contents: Contents) -> None:
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    _put_text(file, "format", FORMAT)
    _put_text(file, "key", contents.spec.key)
    _put_text(file, "spec", contents.spec.to_json())
    file.attrs["logit_scale"] = float(contents.logit_scale)
    file.attrs["logit_bias"] = float(contents.logit_bias)
    _put_text(file, "norm", contents.norm)
    _put_text(file, "provenance", json.dumps(dict(contents.provenance), sort_keys=True))
    _put_text(file, "created", now)
    _put_text(file, "versions", json.dumps(versions(), sort_keys=True))


def _put_text(group: h5py.Group, name: str, text: str) -> None:
    """An attribute of fixed length, which lies in the object header and under its checksum."""
    group.attrs.create(name, _fixed([text])[0], dtype=h5py.string_dtype("utf-8", len(text.encode()) or 1))


def versions() -> dict[str, str]:
    """The versions of everything that can change a number."""
    names = ("torch", "torchvision", "open_clip_torch", "numpy", "h5py", "pillow")
    return {"featcache": __version__, **{name: version(name) for name in names}}


def _write_text(group: h5py.Group, text: TextSet) -> None:
    _put_text(group, "origin", text.origin)
    _put(group, "embedding", text.embedding.astype(np.float32))
    _put(group, "class", text.label.astype(np.int32))
    _put(group, "template", text.template.astype(np.int32))
    _put(group, "templates", _fixed(text.templates))
    _put(group, "sentence", _fixed(text.sentences), compress=True)


def _write_split(file: h5py.File, name: str, split: SplitContents, contents: Contents) -> None:
    manifest = file.create_group(f"manifest/{name}")
    _put_paths(manifest, split.path)
    _put(manifest, "label", split.label, "int32", compress=True)
    group = file.create_group(name)
    _put(group, "row", split.row)
    _put(group, "missing/row", np.array(sorted(split.missing), dtype=np.int64))
    _put(group, "missing/reason", _fixed([split.missing[row] for row in sorted(split.missing)]))
    shape = (len(split.row), split.num_views)
    image = None
    if split.runs is None:
        image = _empty(group, "image", (*shape, contents.dim), contents.spec.dtype)
    else:
        virtual.create(group, (*shape, contents.dim), contents.spec.dtype, split.runs)
    crop = _empty(group, "crop", (*shape, 5), "int32")
    source = _empty(group, "source", (len(split.row), 2), "uint64")
    digest = _empty(group, "digest", shape, "uint64")
    done = 0
    for block in split.blocks:
        at = slice(done, done + len(block.source))
        crop[at], source[at] = block.crop, block.source
        digest[at] = block.digest if block.image is None else row_digest(block.image)
        if image is not None:
            image[at] = block.image
        done = at.stop
        check()  # between two blocks a signal may be raised
    assert done == len(split.row), "the blocks of a split hold exactly its rows"


def _empty(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: str) -> h5py.Dataset:
    row_bytes = max(1, int(np.prod(shape[1:]))) * np.dtype(dtype).itemsize
    if 0 in shape:
        return group.create_dataset(name, shape=shape, dtype=dtype)  # no byte to chunk or to protect
    chunk = (max(1, min(shape[0], _CHUNK_BYTES // row_bytes)), *shape[1:])
    return group.create_dataset(name, shape=shape, dtype=dtype, chunks=chunk, maxshape=shape, fletcher32=True)


def _put(
    group: h5py.Group, name: str, values: NDArray[Any], dtype: str | None = None, *, compress: bool = False
) -> None:
    """An array, a block at a time: a list of images may have a million."""
    blocks = (values[at] for at in spans(len(values)))
    _put_blocks(group, name, blocks, values.shape, dtype or values.dtype, compress=compress)


def _put_paths(group: h5py.Group, paths: Sequence[str]) -> None:
    longest = max((len(path.encode()) for path in paths), default=1) or 1
    dtype = h5py.string_dtype("utf-8", longest)
    blocks = (np.array([path.encode() for path in paths[at]], dtype=dtype) for at in spans(len(paths)))
    _put_blocks(group, "path", blocks, (len(paths),), dtype, compress=True)


def _put_blocks(
    group: h5py.Group,
    name: str,
    blocks: Iterable[NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any] | str,
    *,
    compress: bool,
) -> None:
    # An empty array cannot be chunked; it has no bytes to protect either.
    options: dict[str, Any] = {} if 0 in shape else {"fletcher32": True, "chunks": True}
    if compress and options:
        options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    stored = group.create_dataset(name, shape=shape, dtype=dtype, **options)
    done = 0
    for block in blocks:
        stored[done : done + len(block)] = block
        done += len(block)


def _fixed(strings: Iterable[str]) -> NDArray[np.bytes_]:
    """Fixed-length UTF-8: variable-length strings would sit in HDF5's unchecked global heap."""
    encoded = [text.encode("utf-8") for text in strings]
    length = max((len(item) for item in encoded), default=1) or 1
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", length))

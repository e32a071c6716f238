"""What an extraction has to do: which rows in which views, what is there already, what is missing."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.backbones import Identity
from featcache.datasets import FileReader, Manifest
from featcache.errors import ConfigError, StoreError
from featcache.extraction.parts import Part, read_parts
from featcache.fewshot import draw
from featcache.prompts import sentences
from featcache.store import Spec, Store
from featcache.store.places import key_of, list_stores, store_path
from featcache.store.spec import canonical_json
from featcache.store.writing import DTYPES
from featcache.views import Transform


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks of a data set and a backbone."""

    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Draws to hold, images a class."""
    shot_seeds: tuple[int, ...] = (1, 2, 3)
    num_views: int = 10
    """Augmented views of each training image, beside view 0."""
    all_train: bool = False
    """Every training image rather than the draws' ones."""
    style: str = "coop"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    view_seed: int = 0
    dtype: str = "float16"
    name: str | None = None
    """The store's name; `<data set>-<backbone>-<style>` when None."""
    skip_unreadable: bool = False
    """Store an image that does not decode as missing, instead of stopping."""

    def __post_init__(self) -> None:
        if self.num_views < 0:
            raise ConfigError(f"--views counts augmented views and is 0 or more; got {self.num_views}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"--dtype {self.dtype} is not known; use one of {', '.join(DTYPES)}")


class Missing(NamedTuple):
    """Rows x views of one split that must be encoded, in manifest order."""

    row: NDArray[np.int64]
    view: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An extraction before it begins."""

    manifest: Manifest
    request: Request
    transform: Transform
    spec: Spec
    identity: Identity
    store: Path
    draws: tuple[tuple[int, int], ...]
    """(shots, seed) of every draw the finished store holds."""
    rows: dict[str, NDArray[np.int64]]
    """Manifest rows of each split that the finished store holds."""
    num_views: dict[str, int]
    """Views of each split that the finished store holds, view 0 included."""
    missing: dict[str, Missing]
    parts: tuple[Part, ...]
    """Parts of an earlier, unfinished extraction that this one takes over."""
    changed: tuple[str, ...]
    """Images whose bytes differ from those that were encoded."""
    text_origin: str
    """Digest of the text tower and every sentence."""
    text_present: bool
    stored: bool
    """Whether the store exists already."""

    @property
    def num_missing(self) -> int:
        """Embeddings to encode."""
        return sum(len(part.row) for part in self.missing.values())

    @property
    def num_images(self) -> int:
        """Images to decode."""
        return sum(len(np.unique(part.row)) for part in self.missing.values())

    @property
    def num_embeddings(self) -> int:
        """Embeddings of the finished store."""
        return sum(len(rows) * self.num_views[split] for split, rows in self.rows.items())

    @property
    def num_bytes(self) -> int:
        """Bytes of the finished store's embeddings."""
        return self.num_embeddings * self.identity.dim * np.dtype(self.spec.dtype).itemsize

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do."""
        return not self.num_missing and not self.parts and self.text_present and self.stored


def make_plan(manifest: Manifest, identity: Identity, request: Request) -> Plan:
    """The plan of an extraction; reads no image and builds no model. Raises InputError's kin."""
    transform = Transform(
        style=request.style,
        size=identity.size,
        mean=identity.mean,
        std=identity.std,
        interpolation=identity.interpolation,
        crop_scale=request.crop_scale,
    )
    spec = Spec(
        tower=identity.tower,
        transform=asdict(transform)
        | {"crop_scale": list(transform.crop_scale), "mean": list(transform.mean), "std": list(transform.std)},
        view_seed=request.view_seed,
        dtype=request.dtype,
        manifest=manifest.digest,
    )
    path = _place(
        spec,
        request.name or f"{manifest.slug}-{identity.tower.architecture.removesuffix('-quickgelu')}-{request.style}",
        request.name,
    )
    rows, draws = _wanted(manifest, request)
    num_views = {split: 1 + (request.num_views if split == "train" else 0) for split in rows}
    parts = tuple(read_parts(spec.key))
    present = {split: _Present(len(manifest.splits[split].path)) for split in rows}
    origin, text_present, stored, changed = _text_origin(manifest, identity), False, False, []
    if key_of(path) == spec.key:
        stored = True
        with Store(path) as store:
            draws = tuple(sorted({*draws, *((int(k), int(s)) for k, s in store.provenance.get("draws", []))}))
            text_present = store.classes == manifest.classes and any(
                store.text(name).origin == origin for name in store.text_sets
            )
            for split in rows:
                stale = _changed_rows(manifest, split, store)
                changed += [manifest.splits[split].path[row] for row in stale]
                held = np.setdiff1d(store.rows(split), stale)
                present[split].add(held, store.num_views(split))
                unreadable = list(store.missing(split)) if request.skip_unreadable else []
                present[split].unreadable[np.array(unreadable, dtype=np.int64)] = True
                rows[split] = np.union1d(rows[split], store.rows(split))
                num_views[split] = max(num_views[split], store.num_views(split))
    for part in parts:
        present[part.split].add_part(part)
        num_views[part.split] = max(num_views[part.split], int(part.view.max(initial=0)) + 1)
        if request.skip_unreadable:
            present[part.split].unreadable[np.array(list(part.unreadable), dtype=np.int64)] = True
    return Plan(
        manifest=manifest,
        request=request,
        transform=transform,
        spec=spec,
        identity=identity,
        store=path,
        draws=draws,
        rows=rows,
        num_views=num_views,
        missing={split: present[split].missing(rows[split], num_views[split]) for split in rows},
        parts=parts,
        changed=tuple(changed),
        text_origin=origin,
        text_present=text_present,
        stored=stored,
    )


def _place(spec: Spec, name: str, asked: str | None) -> Path:
    """The store of this key wherever it is, unless the user names another place."""
    if asked is None:
        for path in list_stores():
            if key_of(path) == spec.key:
                return path
    path = store_path(name, spec.key)
    if asked is not None and path.stem != asked:
        other = key_of(path.with_name(f"{asked}.h5")) or "none"
        raise StoreError(
            f"the store {asked} exists and means something else (its key is {other[:8]}, this one's would be "
            f"{spec.key[:8]}); choose another --name, or remove it with `featcache cache rm {asked}`"
        )
    return path


def _wanted(manifest: Manifest, request: Request) -> tuple[dict[str, NDArray[np.int64]], tuple[tuple[int, int], ...]]:
    """The union of the draws' rows, all of val and all of test."""
    rows = {split: np.arange(len(content.path)) for split, content in manifest.splits.items()}
    if "train" not in rows:
        return rows, ()
    val = manifest.splits["val"].label if "val" in manifest.splits else None
    drawn = [np.zeros(0, dtype=np.int64)]
    pairs = tuple((shots, seed) for shots in request.shots for seed in request.shot_seeds)
    for shots, seed in pairs:
        made = draw(manifest.splits["train"].label, val, shots=shots, shot_seed=seed)
        drawn += [made.train, made.val] if made.val_split == "train" else [made.train]
    if not request.all_train:
        rows["train"] = np.unique(np.concatenate(drawn))
    return rows, pairs


def _changed_rows(manifest: Manifest, split: str, store: Store) -> NDArray[np.int64]:
    """Stored rows whose image file has another size, or is newer than the store and has other bytes."""
    if not isinstance(manifest.reader, FileReader):
        return np.zeros(0, dtype=np.int64)
    written = store.path.stat().st_mtime_ns
    source = store.array(split, "source", slice(None))
    stale = []
    for row, (size, content) in zip(store.rows(split).tolist(), source.tolist(), strict=True):
        path = manifest.splits[split].path[row]
        status = (manifest.reader.root / path).stat()
        if status.st_size != size:
            stale.append(row)
        elif status.st_mtime_ns > written:
            digest = hashlib.sha256(manifest.reader.read_bytes(path)).digest()[:8]
            if int.from_bytes(digest, "big") != content:
                stale.append(row)
    return np.array(stale, dtype=np.int64)


def _text_origin(manifest: Manifest, identity: Identity) -> str:
    texts = [sentence for _, _, sentence in sentences(manifest.classes, (manifest.template,))]
    return hashlib.sha256(canonical_json([asdict(identity.tower), texts]).encode()).hexdigest()


class _Present:
    """How many of each row's views are at hand, by row of one split's manifest."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.unreadable = np.zeros(num_rows, dtype=bool)
        self._stored = np.zeros(num_rows, dtype=np.int64)
        self._extra: set[tuple[int, int]] = set()

    def add(self, rows: NDArray[np.int64], num_views: int) -> None:
        self._stored[rows] = num_views

    def add_part(self, part: Part) -> None:
        self._extra.update(zip(part.row.tolist(), part.view.tolist(), strict=True))

    def missing(self, rows: NDArray[np.int64], num_views: int) -> Missing:
        rows = rows[~self.unreadable[rows]]
        row, view = np.repeat(rows, num_views), np.tile(np.arange(num_views), len(rows))
        lacking = view >= self._stored[row]
        row, view = row[lacking], view[lacking]
        if self._extra:
            fresh = np.array(
                [pair not in self._extra for pair in zip(row.tolist(), view.tolist(), strict=True)], dtype=bool
            )
            row, view = row[fresh], view[fresh]
        return Missing(row, view)

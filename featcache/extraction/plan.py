"""What an extraction has to do: which rows in which views, what is there already, what is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.backbones import Identity
from featcache.datasets import FileReader, Manifest
from featcache.datasets.manifest import source_info
from featcache.errors import ConfigError, StoreError
from featcache.extraction.parts import Part, read_parts
from featcache.fewshot import draw
from featcache.prompts import DEFAULT, SHIPPED, PromptSet, prompt_set, remade
from featcache.store import Spec, Store
from featcache.store.damage import NO_DAMAGE, Damage
from featcache.store.places import key_of, list_stores, store_path
from featcache.store.writing import DTYPES
from featcache.views import STYLES, Transform

_MAX_VIEWS = 2**20


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
    """Preprocessing of view 0: one of `views.STYLES`."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the image that an augmented view shows."""
    view_seed: int = 0
    """Seed of the augmented views."""
    prompts: tuple[str, ...] = (DEFAULT,)
    """Text sets to hold; those that the store has already stay."""
    dtype: str = "auto"
    """`float16`, `float32`, or `auto`: float16, but float32 for random weights, whose embeddings lie so close together
    that half precision would blur them."""
    name: str | None = None
    """The store's name; `<data set>-<backbone>-<style>` when None."""
    skip_unreadable: bool = False
    """Store an image that does not decode as missing, instead of stopping."""
    damage: Damage = NO_DAMAGE
    """What of the store is not to be trusted, so made anew."""

    def __post_init__(self) -> None:
        if not 0 <= self.num_views < _MAX_VIEWS:
            raise ConfigError(f"--views counts augmented views, from 0 to {_MAX_VIEWS - 1}; got {self.num_views}")
        if self.style not in STYLES:
            raise ConfigError(f"--style {self.style} is not known; use one of {', '.join(STYLES)}")
        if self.dtype not in ("auto", *DTYPES):
            raise ConfigError(f"--dtype {self.dtype} is not known; use one of auto, {', '.join(DTYPES)}")


class Missing(NamedTuple):
    """Rows x views of one split that must be encoded, in manifest order."""

    row: NDArray[np.int64]
    view: NDArray[np.int64]


class Texts(NamedTuple):
    """The text sets of the finished store."""

    kept: tuple[str, ...]
    """Sets that are in the store already."""
    missing: tuple[PromptSet, ...]
    """Sets to encode."""
    dropped: tuple[str, ...]
    """Sets in the store that were written for other class names and cannot be made anew: descriptions."""


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
    """Parts, of an unfinished extraction or of a process at work now, that the store will take in."""
    spent: tuple[Part, ...]
    """Parts that nobody needs any more: their rows are in the store, or an image of theirs has changed since."""
    unreadable: dict[str, dict[int, str]]
    """Of each split, the rows that are left out because their image cannot be read, with the reason."""
    changed: tuple[str, ...]
    """Images whose bytes differ from those that were encoded."""
    texts: Texts
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
        return sum(
            (len(rows) - len(self.unreadable[split])) * self.num_views[split] for split, rows in self.rows.items()
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of the finished store's embeddings."""
        return self.num_embeddings * self.identity.dim * np.dtype(self.spec.dtype).itemsize

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do."""
        texts_done = not (self.texts.missing or self.texts.dropped)
        return not self.num_missing and not self.parts and texts_done and self.stored


def make_plan(manifest: Manifest, identity: Identity, request: Request) -> Plan:
    """The plan of an extraction; decodes no image and builds no model. Raises InputError's kin."""
    transform = _transform(identity, request)
    spec = _spec(manifest, identity, request, transform)
    architecture = identity.tower.architecture.removesuffix("-quickgelu")
    usual = f"{manifest.slug}-{architecture}-{request.style}"
    path = _named(spec, request.name) if request.name else _usual_store(spec, usual, manifest.reader.place)
    rows, draws = _wanted(manifest, request)
    num_views = {split: 1 + (request.num_views if split == "train" else 0) for split in rows}
    held = {split: _Held(manifest, split) for split in rows}
    texts = _texts(manifest, identity, request, None)
    stored = key_of(path) == spec.key
    if stored:
        with Store(path) as store:
            draws = tuple(sorted({*draws, *((int(k), int(s)) for k, s in store.provenance.get("draws", []))}))
            texts = _texts(manifest, identity, request, store)
            for split in rows:
                held[split].add_store(store, request.damage)
                rows[split] = np.union1d(rows[split], store.rows(split))
                num_views[split] = max(num_views[split], store.num_views(split))
    found = [part for part in read_parts(spec.key) if part.place == manifest.reader.place]
    spent = [part for part in found if held[part.split].is_spent(part)]
    parts = [part for part in found if part not in spent]
    for part in parts:
        held[part.split].add_part(part)
    unreadable = {split: held[split].unreadable_among(rows[split]) if request.skip_unreadable else {} for split in rows}
    readable = {split: np.setdiff1d(rows[split], list(unreadable[split])).astype(np.int64) for split in rows}
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
        missing={split: held[split].missing(readable[split], num_views[split]) for split in rows},
        parts=tuple(part for part in parts if held[part.split].adds(part, rows[part.split], num_views[part.split])),
        spent=tuple(spent),
        unreadable=unreadable,
        changed=tuple(path for split in rows for path in held[split].changed),
        texts=texts,
        stored=stored,
    )


def _transform(identity: Identity, request: Request) -> Transform:
    return Transform(
        style=request.style,
        size=identity.size,
        mean=identity.mean,
        std=identity.std,
        interpolation=identity.interpolation,
        crop_scale=request.crop_scale,
    )


def _spec(manifest: Manifest, identity: Identity, request: Request, transform: Transform) -> Spec:
    # Lists, as JSON gives them back: a spec read from a file must equal the one that was written.
    lists = {name: list(getattr(transform, name)) for name in ("crop_scale", "mean", "std")}
    turned = {"upright": True} if manifest.reader.upright else {}
    return Spec(
        tower=identity.tower,
        transform=asdict(transform) | lists | turned,
        view_seed=request.view_seed,
        dtype=_dtype(identity, request),
        manifest=manifest.digest,
    )


def _dtype(identity: Identity, request: Request) -> str:
    if request.dtype != "auto":
        return request.dtype
    return "float32" if identity.tower.untrained else "float16"


def _usual_store(spec: Spec, name: str, place: str) -> Path:
    """The store of this key, whatever its name: one made from this folder before one made from another."""
    found = [path for path in list_stores() if key_of(path) == spec.key]
    for path in found if len(found) > 1 else ():
        with Store(path) as store:
            if store.provenance.get("place", "") == place:
                return path
    return found[0] if found else store_path(name, spec.key)


def _named(spec: Spec, name: str) -> Path:
    """The store that the user named. Raises StoreError where that name means something else."""
    path = store_path(name, spec.key)
    if path.stem != name:
        other = key_of(path.with_name(f"{name}.h5")) or "none"
        raise StoreError(
            f"the store {name} exists and means something else (its key is {other[:8]}, this one's would be "
            f"{spec.key[:8]}); choose another --name, or remove it with `featcache cache rm {name}`"
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


def _texts(manifest: Manifest, identity: Identity, request: Request, store: Store | None) -> Texts:
    """What is there of the asked text sets, and of those the store has beside them."""
    asked: dict[str, PromptSet] = {}
    for asked_name in dict.fromkeys((DEFAULT, *request.prompts)):
        prompts = prompt_set(asked_name, manifest.classes, manifest.class_ids, template=manifest.template)
        if prompts.name in asked:
            raise ConfigError(f"two of the prompt sets asked for are called {prompts.name}; rename one of the files")
        asked[prompts.name] = prompts
    wanted, kept, dropped = dict(asked), [], []
    for name in store.text_sets if store else ():
        assert store is not None
        if name in request.damage.texts:
            again = asked.get(name) or _shipped(name, manifest)
            if again is None:
                dropped.append(name)
            else:
                wanted[name] = again
            continue
        text = store.text(name)
        now = asked.get(name) or remade(name, text, manifest.classes)
        if now is not None:
            wanted[name] = now
            kept += [name] if now.origin(identity.tower) == text.origin else []
        elif (store.classes, store.class_ids) == (manifest.classes, manifest.class_ids):
            kept.append(name)
        else:
            dropped.append(name)
    missing = tuple(prompts for name, prompts in wanted.items() if name not in kept)
    return Texts(tuple(kept), missing, tuple(dropped))


def _shipped(name: str, manifest: Manifest) -> PromptSet | None:
    """A set that needs no file of the user's."""
    if name not in SHIPPED:
        return None
    return prompt_set(name, manifest.classes, manifest.class_ids, template=manifest.template)


class _Held:
    """What is at hand of one split: rows in the store, rows in parts, rows whose image could not be read."""

    def __init__(self, manifest: Manifest, split: str) -> None:
        self.changed: list[str] = []
        """Paths of images that differ from those that were encoded."""
        self._manifest = manifest
        self._split = split
        self._num_views = np.zeros(len(manifest.splits[split].path), dtype=np.int64)  # in the store, by row
        self._in_parts = np.zeros(0, dtype=np.int64)  # pairs, sorted
        self._unreadable: dict[int, str] = {}

    def add_store(self, store: Store, damage: Damage) -> None:
        """Take in the store's rows, save those that are damaged or whose image has changed.

        Raises StoreError for a store made from other images of the same names in another folder: most bytes differ.
        """
        moved = store.provenance.get("place", "") != self._manifest.reader.place
        written = 0 if moved else store.path.stat().st_mtime_ns  # 0: the images are newer, so their bytes are compared
        rows = store.rows(self._split)
        if self._split in damage.rows:
            positions = np.flatnonzero(~np.isin(rows, damage.rows[self._split]))
            rows, source = rows[positions], store.gather(self._split, "source", positions)
        else:
            source = store.array(self._split, "source", slice(None))
        stale = self._stale(rows, source, written)
        if moved and 2 * len(stale) > len(rows):  # where most are the same, it was moved, and some changed since
            raise StoreError(
                f"the store {store.name} was made from files of the same names in another folder, and {len(stale)} of "
                f"{len(rows)} {self._split} images differ, first {self._path(int(stale[0]))}; give the store of these "
                f"ones a --name of its own, or remove the other with `featcache cache rm {store.name}`"
            )
        self._num_views[np.setdiff1d(rows, stale)] = store.num_views(self._split)
        if self._split not in damage.lists:
            self._add_unreadable(store.missing(self._split), written)

    def is_spent(self, part: Part) -> bool:
        """Whether a part has nothing that the store lacks, or rows of an image that has changed."""
        rows, first = np.unique(part.row, return_index=True)
        if len(self._stale(rows, part.load("source")[first], part.written_ns)):
            return True
        told = all(row in self._unreadable or self._num_views[row] for row in part.unreadable)
        return told and bool((part.view < self._num_views[part.row]).all())

    def add_part(self, part: Part) -> None:
        """Take in a part's rows."""
        self._in_parts = np.union1d(self._in_parts, _pairs(part.row, part.view))
        self._add_unreadable(part.unreadable, part.written_ns)

    def adds(self, part: Part, rows: NDArray[np.int64], num_views: int) -> bool:
        """Whether a part has something for a store of these rows and views that is not in it yet."""
        wanted = np.isin(part.row, rows) & (part.view < num_views) & (part.view >= self._num_views[part.row])
        return bool(wanted.any())

    def unreadable_among(self, rows: NDArray[np.int64]) -> dict[int, str]:
        """Which of the rows are known to have no readable image, with the reason."""
        held = {*np.flatnonzero(self._num_views).tolist(), *(self._in_parts // _MAX_VIEWS).tolist()}
        return {row: self._unreadable[row] for row in rows.tolist() if row in self._unreadable and row not in held}

    def missing(self, rows: NDArray[np.int64], num_views: int) -> Missing:
        """The rows' views that are neither in the store nor in a part."""
        row, view = np.repeat(rows, num_views), np.tile(np.arange(num_views), len(rows))
        lacking = (view >= self._num_views[row]) & ~np.isin(_pairs(row, view), self._in_parts)
        return Missing(row[lacking], view[lacking])

    def _add_unreadable(self, reasons: Mapping[int, str], written_ns: int) -> None:
        """Note images that could not be read, save those that have been touched since: they may be mended."""
        if isinstance(self._manifest.reader, FileReader):
            reasons = {row: why for row, why in reasons.items() if self._status(row).st_mtime_ns < written_ns}
        self._unreadable.update(reasons)

    def _stale(self, rows: NDArray[np.int64], source: NDArray[np.uint64], written_ns: int) -> NDArray[np.int64]:
        """The rows whose image file has another size, or is newer than what was written and has other bytes."""
        if not isinstance(self._manifest.reader, FileReader):
            return np.zeros(0, dtype=np.int64)
        stale = []
        for row, (size, content) in zip(rows.tolist(), source.tolist(), strict=True):
            status = self._status(row)
            same = status.st_size == size
            if same and status.st_mtime_ns >= written_ns:
                same = source_info(self._manifest.reader.read_bytes(self._path(row))).content_hash == content
            if not same:
                stale.append(row)
        self.changed += [self._path(row) for row in stale if self._path(row) not in self.changed]
        return np.array(stale, dtype=np.int64)

    def _status(self, row: int) -> os.stat_result:
        assert isinstance(self._manifest.reader, FileReader)
        return self._manifest.reader.status(self._path(row))

    def _path(self, row: int) -> str:
        return self._manifest.splits[self._split].path[row]


def _pairs(row: NDArray[np.int64], view: NDArray[np.int64]) -> NDArray[np.int64]:
    """(row, view) as one number."""
    return row * _MAX_VIEWS + view

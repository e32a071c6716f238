"""What an extraction has to do: which rows in which views, what is there already, what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.backbones import Identity
from featcache.datasets import Manifest
from featcache.errors import ConfigError, StoreError
from featcache.extraction.held import MAX_VIEWS, Held, Missing, both, without
from featcache.extraction.parts import Part, read_parts
from featcache.fewshot import draw
from featcache.prompts import DEFAULT, SHIPPED, PromptSet, prompt_set, remade
from featcache.spilled import ascending
from featcache.store import Spec, Store
from featcache.store.damage import NO_DAMAGE, Damage
from featcache.store.places import key_of, list_stores, store_path
from featcache.store.replacing import State, state_of
from featcache.store.writing import DTYPES
from featcache.views import PIXELS, STYLES, Transform

LAYOUTS = ("whole", "virtual")


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
    pixels: str = "pil"
    """Who resizes: one of `views.PIXELS`."""
    view_seed: int = 0
    """Seed of the augmented views."""
    prompts: tuple[str, ...] = (DEFAULT,)
    """Text sets to hold; those that the store has already stay."""
    dtype: str = "auto"
    """`float16`, `float32`, or `auto`: float16, but float32 for random weights, whose embeddings lie so close together
    that half precision would blur them."""
    layout: str | None = None
    """`whole`, one file, or `virtual`, a file that shows the parts' files as one; what the store has, or whole, when
    None."""
    name: str | None = None
    """The store's name; `<data set>-<backbone>-<style>` when None."""
    skip_unreadable: bool = False
    """Store an image that does not decode as missing, instead of stopping."""
    damage: Damage = NO_DAMAGE
    """What of the store is not to be trusted, so made anew."""

    def __post_init__(self) -> None:
        if not 0 <= self.num_views < MAX_VIEWS:
            raise ConfigError(f"--views counts augmented views, from 0 to {MAX_VIEWS - 1}; got {self.num_views}")
        if self.style not in STYLES:
            raise ConfigError(f"--style {self.style} is not known; use one of {', '.join(STYLES)}")
        if self.layout not in (None, *LAYOUTS):
            raise ConfigError(f"--layout {self.layout} is not known; use one of {', '.join(LAYOUTS)}")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ConfigError(f"--crop-scale {low:g}:{high:g}: shares of the image, LOW:HIGH with 0 < LOW <= HIGH <= 1")
        if self.pixels not in PIXELS:
            raise ConfigError(f"--pixels {self.pixels} is not known; use one of {', '.join(PIXELS)}")
        if self.dtype not in ("auto", *DTYPES):
            raise ConfigError(f"--dtype {self.dtype} is not known; use one of auto, {', '.join(DTYPES)}")


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
    state: State
    """Of the store's file when the plan was made."""
    seen: Mapping[Path, int]
    """Every part that was there then, and when it was written: not all of them keep their rows from being missing."""
    layout: str
    """`whole` or `virtual`: how the finished store keeps its embeddings."""
    stored_layout: str
    """How the store that is there does."""

    @property
    def num_missing(self) -> int:
        """Embeddings to encode."""
        return sum(len(part.row) for part in self.missing.values())

    @property
    def num_images(self) -> int:
        """Images to decode."""
        return sum(len(begins) for part in self.missing.values() for begins in part.begins())

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
        as_asked = self.stored and self.layout == self.stored_layout
        return not self.num_missing and not self.parts and texts_done and as_asked


def make_plan(manifest: Manifest, identity: Identity, request: Request) -> Plan:
    """The plan of an extraction; decodes no image and builds no model. Raises InputError's kin."""
    transform = _transform(identity, request)
    spec = _spec(manifest, identity, request, transform)
    architecture = identity.tower.architecture.removesuffix("-quickgelu")
    usual = f"{manifest.slug}-{architecture}-{request.style}"
    path = _named(spec, request.name) if request.name else _usual_store(spec, usual, manifest.reader.place)
    rows, draws = _wanted(manifest, request)
    num_views = {split: 1 + (request.num_views if split == "train" else 0) for split in rows}
    held = {split: Held(manifest, split) for split in rows}
    texts = _texts(manifest, identity, request, None)
    state = state_of(path)
    stored = key_of(path) == spec.key
    stored_layout = request.layout or "whole"
    if stored:
        with Store(path) as store:
            stored_layout = store.layout
            draws = tuple(sorted({*draws, *((int(k), int(s)) for k, s in store.provenance.get("draws", []))}))
            texts = _texts(manifest, identity, request, store)
            for split in rows:
                held[split].add_store(store, request.damage)
                rows[split] = both(rows[split], store.rows(split))
                num_views[split] = max(num_views[split], store.num_views(split))
    if (stored_layout, request.layout) == ("whole", "virtual") and stored:
        raise ConfigError(
            f"the store {path.stem} is one file already, so --layout virtual would do nothing; leave it out, or remove "
            f"the store with `featcache cache rm {path.stem}` to extract it anew"
        )
    there = read_parts(spec.key)
    found = [part for part in there if part.place == manifest.reader.place]
    spent = [part for part in found if held[part.split].is_spent(part)]
    parts = [part for part in found if part not in spent]
    for part in parts:
        held[part.split].add_part(part)
    unreadable = {split: held[split].unreadable_among(rows[split]) if request.skip_unreadable else {} for split in rows}
    readable = {split: without(rows[split], unreadable[split]) for split in rows}
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
        state=state,
        seen={part.path: part.written_ns for part in there},
        layout=request.layout or stored_layout,
        stored_layout=stored_layout,
    )


def _transform(identity: Identity, request: Request) -> Transform:
    return Transform(
        style=request.style,
        size=identity.size,
        mean=identity.mean,
        std=identity.std,
        interpolation=identity.interpolation,
        crop_scale=request.crop_scale,
        pixels=request.pixels,
    )


def _spec(manifest: Manifest, identity: Identity, request: Request, transform: Transform) -> Spec:
    # Lists, as JSON gives them back: a spec read from a file must equal the one that was written.
    lists = {name: list(getattr(transform, name)) for name in ("crop_scale", "mean", "std")}
    turned = {"upright": True} if manifest.reader.upright else {}
    described = asdict(transform)
    if transform.pixels == "pil":
        del described["pixels"]  # so that stores made before there was a choice keep their keys
    return Spec(
        tower=identity.tower,
        transform=described | lists | turned,
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
    rows = {split: ascending(len(content.path)) for split, content in manifest.splits.items()}
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

"""`featcache cache verify --images` and `featcache cache repair`: a store against the images it was made of."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache import console
from featcache.commands.running import stoppable
from featcache.datasets import Manifest
from featcache.datasets.manifest import source_info
from featcache.engines import engine_named
from featcache.errors import DataError, InputError, StoreError
from featcache.extraction import Request, carry_out, make_plan
from featcache.extraction.asked import MachineOptions, Source, backbone_of, machine_of
from featcache.store import Store
from featcache.store.damage import NO_DAMAGE, Damage, find_damage
from featcache.store.reading import BLOCK_ROWS, open_file


@dataclass(frozen=True, kw_only=True)
class Images:
    """Where the images are, where that is no longer what the store's own command says."""

    dataset: str | None = None
    data: Path | None = None


class Differing(NamedTuple):
    """A stored image that is not what was encoded."""

    split: str
    row: int
    path: str
    reason: str
    gone: bool


def check(path: Path) -> int:
    """The number of sound embeddings of a store. Raises StoreError that names what is damaged."""
    with _opened(path) as store:
        damage = _looked_through(store)
        if damage.problems:
            raise StoreError(f"{store.path} is damaged: {'; '.join(damage.problems)}; {_what_to_do(store, damage)}")
        return sum(store.num_rows(split) * store.num_views(split) for split in store.splits)


def _looked_through(store: Store) -> Damage:
    with console.progress("reading", "images", rate="images") as progress:
        return find_damage(store, progress)


def check_images(path: Path, images: Images) -> int:
    """The number of images that are what was encoded. Names each other one, then raises DataError."""
    with _opened(path) as store:
        manifest = _source(store, images).manifest()
        _check_same(store, manifest)
        differing = 0
        total = sum(store.num_rows(split) for split in store.splits)
        with console.progress("comparing", "images", rate="images") as progress:
            for found in _differing(store, manifest, NO_DAMAGE, lambda: progress(1, total)):
                console.warn(f"{found.split} {found.path}: {found.reason}")
                differing += 1
        if differing:
            raise DataError(
                f"{differing} of {total} images of {store.name} are not those that were encoded; restore the files, or "
                f"encode them as they are with `featcache cache repair {store.name}`"
            )
        return total


def repair(path: Path, images: Images, options: MachineOptions) -> None:
    """Make what is damaged, and the rows of images that changed, anew from the images; say what was done.

    Raises StoreError where that cannot mend the store, with what is left to do.
    """
    with _opened(path) as store:
        before, command, name = store.content, str(store.provenance.get("command")), store.name
        damage = _looked_through(store)
        for problem in damage.problems:
            console.warn(problem)
        if damage.beyond or store.provenance.get("kind") != "extract":
            if not damage.problems:
                console.say(f"{name} is sound; it was imported, so there are no images to compare")
                return
            raise StoreError(f"{path} cannot be mended from images: {_anew(store)}")
        source = _source(store, images)
        manifest = source.manifest()
        _check_same(store, manifest)
        damage = _with_changed(damage, _differing(store, manifest, damage))
        if not damage.problems:
            console.say(f"{name} is sound, and its images are those that were encoded: nothing to do")
            return
        request = replace(_request(store, damage), damage=damage)
    plan = make_plan(manifest, backbone_of(source).identity, request)
    if plan.store.resolve() != path.resolve():
        raise InputError(f"{path} is not the cache's store of its key, {plan.store}, so nothing is done; move it there")
    with (
        stoppable("rows that are encoded are kept, and the same command goes on from there"),
        console.progress("encoding", "embeddings", rate="embeddings") as advance,
    ):
        carry_out(
            plan,
            backbone_of(source),
            machine_of(options, engine_named(options.engine)),
            provenance={"command": command},
            progress=lambda embeddings: advance(embeddings, plan.num_missing),
        )
    _say_done(path, damage, before=before)
    for lost in plan.texts.dropped:
        console.warn(
            f"the text set {lost} cannot be made again from the store: `featcache prompts add {name} FILE` does"
        )


def _say_done(path: Path, damage: Damage, *, before: str) -> None:
    check(path)
    made = [f"{len(rows)} {split} rows" for split, rows in damage.rows.items()]
    made += [f"the image list of {split}" for split in damage.lists] + [f"the text set {name}" for name in damage.texts]
    with Store(path) as store:
        same = "the content is what it was" if store.content == before else f"the content was {before[:16]}"
        console.say(f"{store.name}: made anew {', '.join(made)}; now sound, content {store.content[:16]} ({same})")


def _differing(
    store: Store, manifest: Manifest, damage: Damage, compared: Callable[[], None] = lambda: None
) -> Iterator[Differing]:
    """The stored images whose bytes are not those that were encoded, damaged rows left out, one image in memory."""
    for split in store.splits:
        rows = store.rows(split)
        positions = np.flatnonzero(~np.isin(rows, damage.rows.get(split, _NONE)))
        for start in range(0, len(positions), BLOCK_ROWS):
            at = positions[start : start + BLOCK_ROWS]
            sources = store.gather(split, "source", at).tolist()
            for row, (size, content) in zip(rows[at].tolist(), sources, strict=True):
                path = manifest.splits[split].path[row]
                compared()
                try:
                    now = source_info(manifest.reader.read_bytes(path))
                except DataError as error:
                    yield Differing(split, row, path, str(error), gone=True)
                    continue
                if now != (size, content):
                    reason = f"{size:,} bytes then, {now.size_bytes:,} now" if now.size_bytes != size else "other bytes"
                    yield Differing(split, row, path, f"changed since it was encoded ({reason})", gone=False)


_NONE: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


def _with_changed(damage: Damage, differing: Iterator[Differing]) -> Damage:
    """The damage, and the rows of images that changed. Raises DataError for one that is gone."""
    changed: dict[str, list[int]] = {}
    for found in differing:
        if found.gone:
            raise DataError(f"{found.reason}; its embeddings are sound, and nothing was repaired")
        console.warn(f"{found.split} {found.path}: {found.reason}")
        changed.setdefault(found.split, []).append(found.row)
    rows = {
        split: np.union1d(damage.rows.get(split, _NONE), np.array(changed.get(split, []), dtype=np.int64))
        for split in {**damage.rows, **changed}
    }
    problems = (*damage.problems, *(f"{split}: {len(rows)} images changed" for split, rows in changed.items()))
    return replace(damage, rows=rows, problems=problems)


def _source(store: Store, images: Images) -> Source:
    """What the store was extracted from. Raises InputError for an import."""
    options = _options(store)
    return Source(
        dataset=images.dataset or options["--dataset"],
        backbone=options["--backbone"],
        data=images.data,
        weights=options.get("--weights"),
        precision=options.get("--precision", "fp32"),
        template=options.get("--template"),
        classnames=Path(options["--classnames"]) if "--classnames" in options else None,
    )


def _request(store: Store, damage: Damage) -> Request:
    """What asks for nothing but what the store has already."""
    options = _options(store)
    low, high = (float(end) for end in options.get("--crop-scale", "0.08:1").split(":"))
    skipped = damage.lists or any(store.missing(split) for split in store.splits)
    return Request(
        shots=(),
        shot_seeds=(),
        num_views=0,
        style=options.get("--style", "coop"),
        pixels=options.get("--pixels", "pil"),
        crop_scale=(low, high),
        dtype=options.get("--dtype", "auto"),
        name=options.get("--name"),
        skip_unreadable=bool(skipped),
    )


def _options(store: Store) -> dict[str, str]:
    """The options of the extract command that a store names as its own."""
    if store.provenance.get("kind") != "extract":
        raise InputError(f"{store.name} was imported, so it has no images to compare with")
    words = shlex.split(str(store.provenance.get("command", "")))
    options = dict(zip(words[2::2], words[3::2], strict=False))
    if words[:2] != ["featcache", "extract"] or not {"--dataset", "--backbone"} <= set(options):
        raise InputError(f"{store.name} does not say which command made it; repeat that one: it encodes what changed")
    return options


def _check_same(store: Store, manifest: Manifest) -> None:
    """Raises InputError where the data set now lists other images, after naming those that are gone."""
    if manifest.digest == store.spec.manifest:
        return
    gone = new = 0
    for split in store.splits:
        listed = set(manifest.splits[split].path) if split in manifest.splits else set()
        for block in store.blocks(f"manifest/{split}/path", BLOCK_ROWS):
            for path in (item.decode() for item in block.tolist()):
                if path not in listed:
                    console.warn(f"{split} {path}: gone")
                    gone += 1
                listed.discard(path)
        new += len(listed)
    raise InputError(
        f"{manifest.name} lists other images than {store.name} was made of ({gone} are gone, {new} new); restore them, "
        "name the right folder with --dataset or --data, or extract a store of these"
    )


def _opened(path: Path) -> Store:
    try:
        return Store(path)
    except StoreError as error:
        if not path.is_file():
            raise
        raise StoreError(f"{error}; no row of it can be trusted: {_anew_noted(path.stem, _noted(path))}") from error


def _noted(path: Path) -> Mapping[str, Any]:
    """What a store that does not open says of where it came from, for a message and nothing else."""
    try:
        with open_file(path) as file:
            noted = json.loads(bytes(file.attrs["provenance"]))
    except (
        StoreError,
        OSError,
        LookupError,
        ValueError,
        TypeError,
        RuntimeError,
    ):  # whatever h5py makes of damaged bytes
        return {}
    return noted if isinstance(noted, dict) else {}


def _what_to_do(store: Store, damage: Damage) -> str:
    if damage.beyond or store.provenance.get("kind") != "extract":
        return _anew(store)
    return f"`featcache cache repair {store.name}` makes just that anew from the images"


def _anew(store: Store) -> str:
    return _anew_noted(store.name, store.provenance)


def _anew_noted(name: str, noted: Mapping[str, Any]) -> str:
    """How to make a whole store again."""
    remove = f"`featcache cache rm {name}`"
    if noted.get("kind") == "import":
        return f"{remove}, then import {noted.get('source', 'its file')} again with --name {name}"
    if "command" not in noted:
        return f"{remove}, then repeat the extract or import that made it"
    command = str(noted["command"])
    draws = noted.get("draws") or []
    if draws:
        shots, seeds = (",".join(str(value) for value in sorted({pair[at] for pair in draws})) for at in (0, 1))
        command += f" --shots {shots} --seeds {seeds}"
    return f"{remove}, then `{command}`"

"""What of a store is not as it was written, found by reading all of it, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featcache.errors import StoreError
from featcache.spilled import BLOCK
from featcache.store.bounds import array_of
from featcache.store.reading import Store, open_file
from featcache.store.writing import content_digest, dataset_names, row_digest

Progress = Callable[[int, int], None]
"""Told how much has just been done, and of how much in all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Damage:
    """Which parts of a store are not to be trusted."""

    rows: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """Of each split that has some, the manifest rows whose embeddings cannot be trusted, ascending."""
    lists: tuple[str, ...] = ()
    """Splits whose list of images, classes or unreadable images is damaged: the data set has it too."""
    texts: tuple[str, ...] = ()
    """Text sets."""
    beyond: bool = False
    """Whether something is damaged that only the whole store made anew can mend."""
    problems: tuple[str, ...] = ()
    """All of it, one sentence each; empty for a sound store."""


NO_DAMAGE = Damage()


def find_damage(store: Store, progress: Progress = lambda _done, _total: None) -> Damage:
    """What is damaged; memory does not grow with the number of rows, save 8 bytes for each damaged one.

    `progress` is told how many rows have just been read, and of how many.
    """
    total = _num_rows(store)
    rows, lists, beyond, problems = {}, [], False, []
    for split in store.splits:
        said = [*_list_problems(store, split)]
        if said:
            lists.append(split)
            problems += said
        said = [*_row_number_problems(store, split)]
        if said:  # without them no embedding has an image
            beyond = True
            problems += said
            continue
        rows[split], said = _damaged_rows(store, split, lambda done: progress(done, total))
        problems += said
    texts = {name: told for name in store.text_sets if (told := _text_problem(store, name))}
    problems += texts.values()
    if not problems:
        problems = _digest_problems(store)
        beyond = bool(problems)
    return Damage(
        rows={split: damaged for split, damaged in rows.items() if len(damaged)},
        lists=tuple(lists),
        texts=tuple(texts),
        beyond=beyond,
        problems=tuple(problems),
    )


def _num_rows(store: Store) -> int:
    """Of all splits, to tell progress by."""
    try:
        return sum(store.length(f"{split}/row") for split in store.splits)
    except StoreError:
        return 0  # whichever array it is will be told of itself


def _list_problems(store: Store, split: str) -> Iterator[str]:
    """Problems of what a store knows of a split's images besides their embeddings."""
    for name in ("path", "label"):
        try:
            for values in store.blocks(f"manifest/{split}/{name}", BLOCK):
                outside = name == "label" and ((values < 0) | (values >= len(store.classes))).any()
                if outside:
                    yield f"{split}: labels are outside the {len(store.classes)} classes"
                    break
        except StoreError as error:
            yield f"{split}: the {name}s of the images do not read: {_cause(error)}"
    try:
        store.missing(split)
    except StoreError as error:
        yield f"{split}: the list of unreadable images does not read: {_cause(error)}"


def _row_number_problems(store: Store, split: str) -> Iterator[str]:
    try:
        num_images, last = store.length(f"manifest/{split}/path"), -1
        shapes = [store.length(f"{split}/{name}") for name in ("row", "image", "crop", "source", "digest")]
        if len(set(shapes)) > 1:
            yield f"{split}: its arrays hold unequal numbers of rows"
        for values in store.blocks(f"{split}/row", BLOCK):
            if values[0] <= last or values[-1] >= num_images or (np.diff(values) <= 0).any():
                yield f"{split}: the stored rows are not ascending rows of the manifest"
                return
            last = int(values[-1])
    except StoreError as error:
        yield f"{split}: the numbers of its rows do not read: {_cause(error)}"


def _damaged_rows(store: Store, split: str, read: Callable[[int], None]) -> tuple[NDArray[np.int64], list[str]]:
    """The manifest rows that do not read or differ from their checksum, and a sentence for each kind."""
    found = {name: _positions(store, split, name, read) for name in ("image", "crop", "source", "digest")}
    problems = []
    for (name, reason), positions in _by_reason(found).items():
        first = int(store.array(split, "row", slice(positions[0], positions[0] + 1))[0])
        what = "differ from their checksum" if not reason else f"have {_words(name)} that do not read ({reason})"
        problems.append(f"{split}: {len(positions)} rows {what}, first {_path(store, split, first)}")
    every = [positions for kinds in found.values() for _, positions in kinds]
    if not every:
        return np.zeros(0, dtype=np.int64), []
    damaged = np.unique(np.concatenate(every))
    return store.rows(split)[damaged], problems


def _positions(store: Store, split: str, name: str, read: Callable[[int], None]) -> list[tuple[str, NDArray[np.int64]]]:
    """(why, the positions of a chunk's damaged rows); why is empty where only the checksum differs.

    `read` is told of the rows of embeddings, beside which the other arrays are small.
    """
    damaged = []
    num_rows, step = store.num_rows(split), store.chunk_rows(split, name)
    for start in range(0, num_rows, step):
        at = slice(start, min(start + step, num_rows))
        if name == "image":
            read(at.stop - at.start)
        try:
            values = store.array(split, name, at)
            if name != "image":
                continue
        except StoreError as error:
            damaged.append((_cause(error), np.arange(at.start, at.stop)))
            continue
        try:
            differ = (row_digest(values) != store.array(split, "digest", at)).any(axis=1)
        except StoreError:
            continue  # the checksums do not read, which is told of themselves
        if differ.any():
            damaged.append(("", start + np.flatnonzero(differ)))
    return damaged


def _by_reason(
    found: Mapping[str, list[tuple[str, NDArray[np.int64]]]],
) -> dict[tuple[str, str], NDArray[np.int64]]:
    """(array, why) -> positions; chunks that do not read for several reasons are told with the first's."""
    told: dict[tuple[str, str], NDArray[np.int64]] = {}
    for name, kinds in found.items():
        for unread in (False, True):
            same = [(why, positions) for why, positions in kinds if bool(why) == unread]
            if same:
                told[name, same[0][0]] = np.concatenate([positions for _, positions in same])
    return told


def _text_problem(store: Store, name: str) -> str:
    try:
        label = store.text(name).label
    except StoreError as error:
        return f"the text set {name} does not read: {_cause(error)}"
    if len(label) and (label.min() < 0 or label.max() >= len(store.classes)):
        return f"the text set {name} is about classes outside the {len(store.classes)}"
    return ""


def _digest_problems(store: Store) -> list[str]:
    """What the content digest tells that nothing else does."""
    with open_file(store.path) as file:
        try:
            for name in dataset_names(file):
                array_of(file, name, store.path.parent)
            found = content_digest(file)
        except (
            StoreError,
            OSError,
            LookupError,
            ValueError,
            TypeError,
            RuntimeError,
        ) as error:  # whatever h5py makes of damaged bytes
            return [f"an array does not read: {error}"]
    return [] if found == store.content else ["the content digest does not fit the content"]


def _words(name: str) -> str:
    return {"image": "embeddings", "crop": "crops", "source": "image checksums", "digest": "checksums"}[name]


def _path(store: Store, split: str, row: int) -> str:
    try:
        return store.path_at(split, row)
    except StoreError:
        return f"image {row} of the split, whose path does not read"


def _cause(error: StoreError) -> str:
    return str(error.__cause__ or error)

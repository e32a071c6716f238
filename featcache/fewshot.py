"""The draws of `shots` images a class, exactly as CoOp makes them.

CoOp (Zhou et al., IJCV 2022; github.com/KaiyangZhou/CoOp, through Dassl's `generate_fewshot_dataset`) seeds Python's
generator once, groups the train list by class in order of first appearance, samples `shots` images of each, and goes
on with the same generator over val with min(shots, 4). Draws of different `shots` are therefore not nested, and val
hangs on train. Where a data set has no val split (ImageNet) CoOp chose on the test set; here the same generator holds
out further train images instead.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigError, DataError
from featcache.spilled import spans

MAX_VAL_SHOTS: Final = 4  # CoOp never validates on more images a class


@dataclass(frozen=True, kw_only=True, eq=False)
class Draw:
    """The images of (shots, shot_seed). Compare two by `digest`."""

    shots: int
    """Images a class, at least 1; a class with fewer gives all it has."""
    shot_seed: int
    """Seed of the generator that chose them."""
    train: NDArray[np.int64]
    """(S,) rows of the manifest's train split, in CoOp's order."""
    val: NDArray[np.int64]
    """(N,) rows of the split that `val_split` names, min(shots, 4) a class."""
    val_split: str
    """"val"; "train" where they are held out of train; "" where train has no further image."""
    short_classes: tuple[tuple[int, int], ...]
    """(class index, number of train images) of each class with fewer than `shots`, ascending."""

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of which images were drawn, from where and in which order."""
        content = [self.shots, self.shot_seed, self.train.tolist(), self.val_split, self.val.tolist()]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def draw(
    train_label: NDArray[np.integer[Any]],
    val_label: NDArray[np.integer[Any]] | None,
    *,
    shots: int,
    shot_seed: int,
    max_val_shots: int = MAX_VAL_SHOTS,
) -> Draw:
    """The draw that CoOp makes of the labels (N,) of train and val; None or no rows: the data set has no val.

    A pure function of its arguments; Python's global generator is not touched. Raises ConfigError for `shots` below 1
    or a negative seed, DataError for labels that are not one row of integers.
    """
    _check(shots, shot_seed)
    generator = random.Random(shot_seed)  # the stream of CoOp's random.seed(shot_seed)
    counts = _counts(train_label, "train")
    train = {label: _sample(generator, count, shots) for label, count in counts.items()}
    val_shots = min(shots, max_val_shots)
    if val_label is not None and len(val_label):
        val_split, val_from, val_counts = "val", val_label, _counts(val_label, "val")
        val = {label: _sample(generator, count, val_shots) for label, count in val_counts.items()}
    else:
        val_split, val_from, val_counts = "train", train_label, counts
        val = {
            label: _undrawn(_sample(generator, count - len(train[label]), val_shots), train[label])
            for label, count in counts.items()
        }
    val_rows = _rows(val_from, val_counts, val)
    return Draw(
        shots=shots,
        shot_seed=shot_seed,
        train=_rows(train_label, counts, train),
        val=val_rows,
        val_split=val_split if val_rows.size else "",
        short_classes=tuple(sorted((label, count) for label, count in counts.items() if count < shots)),
    )


def base_size(num_classes: int) -> int:
    """How many classes CoOp's base half has; the others are the new half (CoCoOp, Zhou et al., CVPR 2022)."""
    return math.ceil(num_classes / 2)


def within(drawn: Draw, train_label: NDArray[np.int64], val_label: NDArray[np.int64], classes: range) -> Draw:
    """The draw's images of some classes: CoOp draws from all of them first and leaves classes out afterwards."""
    val_from = val_label if drawn.val_split == "val" else train_label
    return replace(
        drawn,
        train=drawn.train[np.isin(train_label[drawn.train], classes)],
        val=drawn.val[np.isin(val_from[drawn.val], classes)],
        short_classes=tuple((label, count) for label, count in drawn.short_classes if label in classes),
    )


def _check(shots: int, shot_seed: int) -> None:
    if shots < 1:
        raise ConfigError(f"shots = {shots}: a draw needs at least 1 image a class")
    if shot_seed < 0:  # random.Random(-1) is random.Random(1): two names for one draw
        raise ConfigError(f"shot seed = {shot_seed}: seeds are 0 or above")


def _counts(label: NDArray[np.integer[Any]], split: str) -> dict[int, int]:
    """How many images each class has, classes in order of first appearance."""
    if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise DataError(
            f"a draw needs the {split} labels as one row of integers; found {label.dtype} of shape {label.shape}"
        )
    counts: dict[int, int] = {}
    for at in spans(len(label)):
        classes, first, count = np.unique(label[at], return_index=True, return_counts=True)
        for index in np.argsort(first).tolist():
            name = int(classes[index])
            counts[name] = counts.get(name, 0) + int(count[index])
    return counts


def _sample(generator: random.Random, count: int, shots: int) -> list[int]:
    """`shots` of a class's `count` images, by their place among them: what is drawn hangs on the count alone.

    A class with fewer gives all, in order, and leaves the generator as it was.
    """
    return generator.sample(range(count), shots) if count >= shots else list(range(count))


def _undrawn(places: list[int], drawn: list[int]) -> list[int]:
    """Places among the images of a class that were not drawn, as places among all of its images."""
    for taken in sorted(drawn):
        places = [place + (place >= taken) for place in places]
    return places


def _rows(label: NDArray[np.integer[Any]], counts: dict[int, int], places: dict[int, list[int]]) -> NDArray[np.int64]:
    """The rows of each class's images at these places, class after class, a block of labels at a time."""
    classes = np.sort(np.array(list(counts), dtype=label.dtype))
    first = dict(zip(classes.tolist(), np.cumsum([0, *(counts[index] for index in classes.tolist())]), strict=False))
    # Images are numbered as if they lay class by class.
    number = np.array([first[index] + place for index, those in places.items() for place in those], dtype=np.int64)
    order = np.argsort(number)
    ascending = number[order]
    rows = np.zeros(len(number), dtype=np.int64)
    upcoming = np.array(list(first.values()), dtype=np.int64)  # of each class, its next image's number
    for at in spans(len(label) if len(number) else 0):
        code = np.searchsorted(classes, label[at])
        by_class = np.argsort(code, kind="stable")
        count = np.bincount(code, minlength=len(classes))
        numbered = np.repeat(upcoming - (np.cumsum(count) - count), count) + np.arange(len(code))
        upcoming += count
        found = np.searchsorted(ascending, numbered)
        found[found == len(ascending)] = 0
        hit = ascending[found] == numbered
        rows[order[found[hit]]] = at.start + by_class[hit]
    return rows

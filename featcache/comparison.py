"""Two searches on the same test images and draws, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from featcache import measures
from featcache.assessment import class_accuracy
from featcache.predictions import Answers, Items


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both searches on one draw."""

    shot_seed: int
    init_seeds: tuple[int, int] | None
    """Where each began; None where the draw's runs cannot be told into pairs, and their means are compared."""
    first: float
    """Accuracy."""
    second: float
    mcnemar: measures.McNemar | None
    """None where means are compared: McNemar's test is about two answers to each image."""

    @property
    def difference(self) -> float:
        """Of accuracies: the second's over the first's."""
        return self.second - self.first


class ClassChange(NamedTuple):
    """One class: mean accuracies over runs."""

    name: str
    images: int
    first: float
    second: float
    difference: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Second minus first throughout, as fractions."""

    pairs: tuple[Pair, ...]
    first: float
    """The mean accuracy over draws."""
    second: float
    difference: float
    """The mean over draws of the difference in accuracy."""
    over_items: tuple[float, float]
    """Its 95 % bootstrap interval, test images drawn again and the draws taken as they are."""
    over_items_and_draws: tuple[float, float] | None
    """The same with the draws drawn again too; None for one draw."""
    classes: tuple[ClassChange, ...]
    """Classes that have test images, the largest gain first."""


def compare(items: Items, first: Sequence[Answers], second: Sequence[Answers]) -> Comparison:
    """Two searches that answer for the same images after the same draws, in whatever order."""
    a, b = _by_draw(first), _by_draw(second)
    assert a.keys() == b.keys(), "the draws differ"
    right = [np.stack([_right(items, side[draw]) for draw in a]) for side in (a, b)]  # (draws, N) each
    difference = right[1] - right[0]
    return Comparison(
        pairs=tuple(pair for draw in a for pair in _pairs(items, a[draw], b[draw])),
        first=float(right[0].mean()),
        second=float(right[1].mean()),
        difference=float(difference.mean()),
        over_items=measures.bootstrap_items(difference),
        over_items_and_draws=measures.bootstrap_items_and_draws(difference) if len(difference) > 1 else None,
        classes=_changes(items, first, second),
    )


def _by_draw(answers: Sequence[Answers]) -> dict[str, list[Answers]]:
    groups: dict[str, list[Answers]] = {}
    for answer in answers:
        groups.setdefault(answer.draw, []).append(answer)
    return groups


def _right(items: Items, answers: Sequence[Answers]) -> measures.Floats:
    """(N,) the share of the runs that have each image right."""
    share: measures.Floats = np.mean([answer.right(items) for answer in answers], axis=0)
    return share


def _pairs(items: Items, first: Sequence[Answers], second: Sequence[Answers]) -> list[Pair]:
    """Runs of one draw in pairs: alone on both sides, or with equal init seeds; else the means of the runs."""
    a, b = ({answer.init_seed: answer for answer in side} for side in (first, second))
    if len(first) == len(second) == 1:
        return [_pair(items, first[0], second[0])]
    if a.keys() == b.keys() and len(a) == len(first) == len(second):
        return [_pair(items, a[seed], b[seed]) for seed in sorted(a)]
    means = [float(_right(items, side).mean()) for side in (first, second)]
    return [
        Pair(shot_seed=first[0].shot_seed, init_seeds=None, first=means[0], second=means[1], mcnemar=None),
    ]


def _pair(items: Items, first: Answers, second: Answers) -> Pair:
    right = first.right(items), second.right(items)
    return Pair(
        shot_seed=first.shot_seed,
        init_seeds=(first.init_seed, second.init_seed),
        first=float(right[0].mean()),
        second=float(right[1].mean()),
        mcnemar=measures.mcnemar(*right),
    )


def _changes(items: Items, first: Sequence[Answers], second: Sequence[Answers]) -> tuple[ClassChange, ...]:
    a, b = class_accuracy(items, first).tolist(), class_accuracy(items, second).tolist()
    images = np.bincount(items.label, minlength=len(items.classes)).tolist()
    rows = zip(items.classes, images, a, b, strict=True)
    changes = [ClassChange(name, count, x, y, y - x) for name, count, x, y in rows if count]
    return tuple(sorted(changes, key=lambda change: -change.difference))

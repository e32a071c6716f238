"""The folds of a draw, for cross-validation: each holds some of its images out and trains on the others.

A draw is split into min(shots, 4) folds. At CoOp's 2, 4, 8 and 16 shots that divides a class's images evenly, so all
folds are of one size and train in one stack; more folds would cost more fits, and four train on three quarters of the
draw already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.errors import ConfigError
from featcache.fewshot import Draw
from featcache.selection import Score, what_remains
from featcache.store import Store
from featcache.task import Task

MAX_FOLDS: Final = 4


class Fold(NamedTuple):
    """One fold of a draw."""

    train: NDArray[np.int64]
    """Which of the draw's readable images it trains on, by their place among them."""
    held_out: NDArray[np.int64]
    """(N,) rows of the manifest's train split that it is scored on."""


def folds_of(store: Store, drawn: Draw) -> list[Fold]:
    """The folds of a draw's readable images. Raises ConfigError where no class has two of them."""
    rows = drawn.train[~np.isin(drawn.train, list(store.missing("train")))]
    number = deal(store.label("train")[rows], min(drawn.shots, MAX_FOLDS))
    if not (number >= 0).any():
        raise ConfigError(
            f"--select cross-validation holds out some of a class's images and trains on the others, and in the draw "
            f"of {drawn.shots} shot{'s' if drawn.shots > 1 else ''}, seed {drawn.shot_seed}, no class has two; "
            f"what remains: more --shots, {what_remains(store, but='cross-validation')}"
        )
    found = [Fold(np.flatnonzero(number != fold), rows[number == fold]) for fold in range(number.max() + 1)]
    return [fold for fold in found if len(fold.held_out)]


def deal(label: NDArray[np.int64], num_folds: int) -> NDArray[np.int64]:
    """(S,) the fold that each image, in drawn order, is held out of; -1 for one that every fold trains on.

    Dealt like cards: a class's images go round the folds in drawn order, and the next class goes on where it ended, so
    that folds are of one size, or, with classes short of images, of two that differ by one image. At least two folds
    share a class of two images or more, so each of them trains on one at least. The only image of a class is never
    held out: the fold that did would have to tell a class that it never saw, and say nothing of the configuration.
    """
    fold = np.full(len(label), -1, dtype=np.int64)
    order = np.argsort(label, kind="stable")
    dealt = order[np.bincount(label)[label[order]] > 1]
    fold[dealt] = np.arange(len(dealt)) % num_folds
    return fold


def part(task: Task, rows: NDArray[np.int64]) -> Task:
    """The task with some of its images only."""
    kept = torch.from_numpy(rows).to(task.label.device)
    return replace(task, image=task.image[kept], label=task.label[kept])


def over_all(scores: Sequence[Score]) -> Score:
    """The score of one configuration over all rows of all folds together."""
    if len(scores) == 1:
        return scores[0]
    num_rows = sum(score.num_rows for score in scores)
    # Counted in whole images: fractions would round, and configurations that are equally right would not tie.
    right = sum(round(score.accuracy * score.num_rows) for score in scores)
    loss = sum(score.loss * score.num_rows for score in scores)
    return Score(accuracy=right / num_rows, loss=loss / num_rows, num_rows=num_rows)

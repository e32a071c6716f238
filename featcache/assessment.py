"""What a search's chosen runs are worth beyond their accuracy, from what they say of each test image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np

from featcache import measures
from featcache.predictions import Answers, Items


class Bin(NamedTuple):
    """One bin of a reliability diagram: confidence above `low` and up to `high`."""

    low: float
    high: float
    images: int
    confidence: float
    """The mean of its images; NaN without any."""
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class RunMeasures:
    """One chosen run."""

    shot_seed: int
    init_seed: int
    num_images: int
    accuracy: float
    balanced_accuracy: float
    calibration_error: float
    reliability: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True)
class ClassMeasures:
    """One class, over all chosen runs."""

    name: str
    images: int
    """Test images of the class."""
    accuracy: float
    """The mean over draws; NaN without images."""
    predicted: float
    """Images that are taken for it, the mean over draws."""


class Confusion(NamedTuple):
    """Images of one class taken for another, counted over all chosen runs."""

    name: str
    predicted: str
    images: int


@dataclass(frozen=True, kw_only=True)
class Measures:
    """A search: means are over draws, of the means over a draw's starting points."""

    accuracy: float
    interval: tuple[float, float]
    """Of the mean accuracy over draws: Student's, 95 %; NaN for one draw."""
    balanced_accuracy: float
    calibration_error: float
    """Expected calibration error in 15 bins of equal width."""
    runs: tuple[RunMeasures, ...]
    classes: tuple[ClassMeasures, ...]
    """By label."""
    confusions: tuple[Confusion, ...]
    """The most frequent first."""


def assess(items: Items, answers: Sequence[Answers]) -> Measures:
    """The measures of chosen runs that answer for the same test images."""
    runs = [_run(items, answer) for answer in answers]
    draws = [answer.draw for answer in answers]
    accuracies = by_draw([run.accuracy for run in runs], draws)
    return Measures(
        accuracy=fmean(accuracies),
        interval=measures.confidence_interval(accuracies),
        balanced_accuracy=fmean(by_draw([run.balanced_accuracy for run in runs], draws)),
        calibration_error=fmean(by_draw([run.calibration_error for run in runs], draws)),
        runs=tuple(runs),
        classes=_classes(items, answers),
        confusions=_confusions(items, answers),
    )


def by_draw(values: Sequence[float], draws: Sequence[str]) -> list[float]:
    """The mean value of each draw's runs: runs of one draw are no independent witnesses of another one."""
    groups: dict[str, list[float]] = {}
    for value, draw in zip(values, draws, strict=True):
        groups.setdefault(draw, []).append(value)
    return [fmean(group) for group in groups.values()]


def _run(items: Items, answer: Answers) -> RunMeasures:
    right = answer.right(items)
    found = measures.calibration(right, answer.predictions.confidence)
    edges = found.edges.tolist()
    columns = (edges[:-1], edges[1:], found.count.tolist(), found.confidence.tolist(), found.accuracy.tolist())
    return RunMeasures(
        shot_seed=answer.shot_seed,
        init_seed=answer.init_seed,
        num_images=len(right),
        accuracy=float(right.mean()),
        balanced_accuracy=measures.balanced_accuracy(items.label, answer.predictions.predicted, len(items.classes)),
        calibration_error=found.error,
        reliability=tuple(Bin(*values) for values in zip(*columns, strict=True)),
    )


def _classes(items: Items, answers: Sequence[Answers]) -> tuple[ClassMeasures, ...]:
    total = len(items.classes)
    images = np.bincount(items.label, minlength=total).tolist()
    accuracy = class_accuracy(items, answers).tolist()
    taken = np.bincount(_all_predicted(answers), minlength=total) / len(answers)
    return tuple(
        ClassMeasures(name=name, images=count, accuracy=share, predicted=predicted)
        for name, count, share, predicted in zip(items.classes, images, accuracy, taken.tolist(), strict=True)
    )


def class_accuracy(items: Items, answers: Sequence[Answers]) -> measures.Floats:
    """(C,) the mean over runs of each class's accuracy; NaN for a class without images."""
    each = [
        measures.per_class_accuracy(items.label, answer.predictions.predicted, len(items.classes)) for answer in answers
    ]
    mean: measures.Floats = np.mean(each, axis=0)
    return mean


def _confusions(items: Items, answers: Sequence[Answers]) -> tuple[Confusion, ...]:
    label = np.tile(items.label, len(answers))
    return tuple(
        Confusion(items.classes[cell.label], items.classes[cell.predicted], cell.images)
        for cell in measures.confused(label, _all_predicted(answers), len(items.classes))
    )


def _all_predicted(answers: Sequence[Answers]) -> measures.Ints:
    return np.concatenate([answer.predictions.predicted for answer in answers])

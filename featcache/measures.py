"""What predictions are worth: by class, as probabilities, over draws, and two methods on the same images.

Arrays in, numbers out: labels (N,) and predicted classes (N,) are integers from 0, accuracies are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

NUM_BINS = 15
"""Bins of confidence, as Guo et al. 2017 report their calibration errors."""
LEVEL = 0.95
"""How sure every interval is."""
RESAMPLES = 10_000
"""Resamples of a bootstrap: its interval's ends then move by about 1 % of its width from seed to seed."""
_CHUNK = 4_000_000
"""Counts drawn at once by a bootstrap: bounds memory."""


def per_class_accuracy(label: Ints, predicted: Ints, num_classes: int) -> Floats:
    """(C,) the share of each class's images that are predicted right; NaN for a class without images."""
    total = np.bincount(label, minlength=num_classes)
    right = np.bincount(label[label == predicted], minlength=num_classes)
    return _ratio(right, total)


def balanced_accuracy(label: Ints, predicted: Ints, num_classes: int) -> float:
    """The mean over the classes that have images of their accuracy, so that small classes count as large ones do."""
    return float(np.nanmean(per_class_accuracy(label, predicted, num_classes)))


def confusion(label: Ints, predicted: Ints, num_classes: int) -> NDArray[np.int64]:
    """(C, C) counts of images: rows are true classes, columns predicted ones."""
    cell = label.astype(np.int64) * num_classes + predicted
    return np.bincount(cell, minlength=num_classes**2).reshape(num_classes, num_classes)


class Confused(NamedTuple):
    """Images of one class taken for another."""

    label: int
    predicted: int
    images: int


def confused(label: Ints, predicted: Ints, num_classes: int) -> list[Confused]:
    """The cells of the confusion off its diagonal that are not empty, the fullest first; never makes the matrix."""
    wrong = label != predicted
    cell = label[wrong].astype(np.int64) * num_classes + predicted[wrong]
    cells, counts = np.unique(cell, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        Confused(at // num_classes, at % num_classes, count)
        for at, count in zip(cells[order].tolist(), counts[order].tolist(), strict=True)
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """How far a method's confidence is its accuracy: the bins of a reliability diagram, M of equal width."""

    error: float
    """Expected calibration error: the bins' gaps between accuracy and confidence, weighted by their images."""
    edges: Floats
    """(M + 1,) from 0 to 1; a bin holds its upper edge."""
    count: NDArray[np.int64]
    """(M,) images."""
    confidence: Floats
    """(M,) the mean confidence of the bin's images; NaN for an empty bin."""
    accuracy: Floats
    """(M,) the share of the bin's images that are predicted right; NaN for an empty bin."""


def calibration(right: NDArray[np.bool_], confidence: Floats, num_bins: int = NUM_BINS) -> Calibration:
    """The calibration of images predicted `right` (N,) or not with `confidence` (N,), their top probability.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (arXiv 1706.04599), equations 2 to 5. The error is
    NaN where a confidence is.
    """
    edges = np.linspace(0, 1, num_bins + 1)
    inside = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    count = np.bincount(inside, minlength=num_bins)
    confident, hits = (np.bincount(inside, weights=values, minlength=num_bins) for values in (confidence, right))
    error = float(np.abs(hits - confident).sum() / len(right))
    return Calibration(
        error=error, edges=edges, count=count, confidence=_ratio(confident, count), accuracy=_ratio(hits, count)
    )


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Their quotient; NaN where there is nothing to divide by."""
    quotient: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return quotient


def confidence_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """The ends of Student's interval of the mean of some draws' values; NaN for one value, which tells no spread."""
    if len(values) < 2:
        return math.nan, math.nan
    half = student_t(level, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def student_t(level: float, degrees: int) -> float:
    """The t that Student's distribution with so many degrees of freedom stays within, on both sides, at `level`."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halving an angle of at most pi / 2: beyond what a double tells apart
        angle = (low + high) / 2
        low, high = (angle, high) if _within(angle, degrees) < level else (low, angle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _within(angle: float, degrees: int) -> float:
    """The probability that |T| is below sqrt(degrees) tan(angle).

    The finite series for whole degrees of freedom: Abramowitz and Stegun, 1964, 26.7.3 and 26.7.4.
    """
    odd, cosine = degrees % 2, math.cos(angle)
    term, total = cosine if odd else 1.0, 0.0
    for power in range(odd, degrees, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


class McNemar(NamedTuple):
    """What two methods' answers on the same images say: only the images that one of them alone has right count."""

    only_first: int
    only_second: int
    p: float
    """How often two methods equally good would differ so much or more: the exact test's, both sides."""


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """McNemar's exact test of two methods that have the images right, (N,) each, or not.

    McNemar, Psychometrika 12, 1947; exact as a binomial of the images that one alone has right. It is a little
    conservative (Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013): it never claims more.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    trials = only_first + only_second
    # log C(n, k) as a running sum: C(n, k) itself overflows a double beyond 1000 images.
    steps = np.arange(1, min(only_first, only_second) + 1)
    log_choices = np.concatenate([[0.0], np.cumsum(np.log(trials + 1 - steps) - np.log(steps))])
    tail = float(np.exp(log_choices - trials * math.log(2)).sum())
    return McNemar(only_first, only_second, min(1.0, 2 * tail))


def bootstrap_items(
    difference: Floats, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The ends of the percentile bootstrap's interval of the mean of `difference` (draws, N), images drawn again.

    The draws are taken as they are: what it says holds for these training images (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13).
    """
    sign = _sign(difference)
    values, counts = np.unique(sign * difference.mean(axis=0), return_counts=True)
    means = [drawn @ values for drawn in _drawn_again(counts, resamples, np.random.default_rng(seed))]
    return _percentiles(sign * np.concatenate(means), level)


def bootstrap_items_and_draws(
    difference: Floats, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The same with images and draws both drawn again, each on its own: what other training images would give counts.

    The pigeonhole bootstrap (Owen, Annals of Applied Statistics 1(2), 2007). Few draws tell little of it, and of
    one draw nothing: then it is `bootstrap_items`.
    """
    num_draws, sign = len(difference), _sign(difference)
    generator = np.random.default_rng(seed)
    patterns, counts = np.unique(sign * difference.T, axis=0, return_counts=True)  # (P, draws)
    means = []
    for drawn in _drawn_again(counts, resamples, generator):
        weights = generator.multinomial(num_draws, np.full(num_draws, 1 / num_draws), size=len(drawn)) / num_draws
        means.append(((drawn @ patterns) * weights).sum(axis=1))
    return _percentiles(sign * np.concatenate(means), level)


def _sign(difference: Floats) -> int:
    """Which way round resamples are drawn, so that A over B has B over A's interval mirrored, to the last digit."""
    return -1 if difference.mean() < 0 else 1


def _drawn_again(counts: NDArray[np.int64], resamples: int, generator: np.random.Generator) -> Iterator[Floats]:
    """Shares (b, P) of N images in resamples, of images that come in P kinds: images alike need not be told apart."""
    total = int(counts.sum())
    size = max(1, _CHUNK // len(counts))
    for start in range(0, resamples, size):
        yield generator.multinomial(total, counts / total, size=min(size, resamples - start)) / total


def _percentiles(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return low, high

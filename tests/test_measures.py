"""Measures of predictions against scikit-learn, SciPy and sums done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from featcache import measures


def answers(seed: int = 0, images: int = 300, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Labels of unequal classes, and predictions that have about 60 % of them right."""
    generator = np.random.default_rng(seed)
    label = generator.choice(classes, images, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    guess = generator.integers(classes, size=images)
    return label, np.where(generator.random(images) < 0.55, label, guess)


def test_by_class_and_confusion_are_scikit_learns() -> None:
    label, predicted = answers()
    matrix = confusion_matrix(label, predicted, labels=range(7))
    assert np.array_equal(measures.confusion(label, predicted, 7), matrix)
    assert measures.balanced_accuracy(label, predicted, 7) == pytest.approx(balanced_accuracy_score(label, predicted))
    assert measures.balanced_accuracy(label, predicted, 7) != pytest.approx((label == predicted).mean(), abs=1e-3)
    assert measures.per_class_accuracy(label, predicted, 7) == pytest.approx(matrix.diagonal() / matrix.sum(axis=1))


def test_confused_are_the_cells_off_the_diagonal_fullest_first() -> None:
    label, predicted = answers()
    matrix = measures.confusion(label, predicted, 7)
    cells = measures.confused(label, predicted, 7)
    rebuilt = np.zeros_like(matrix)
    for cell in cells:
        rebuilt[cell.label, cell.predicted] = cell.images
    assert np.array_equal(rebuilt, matrix - np.diag(matrix.diagonal()))
    assert [cell.images for cell in cells] == sorted((cell.images for cell in cells), reverse=True)
    assert measures.confused(label, label, 7) == []


def test_a_class_without_images_counts_for_nothing() -> None:
    label, predicted = np.array([0, 0, 2]), np.array([0, 1, 2])
    assert measures.per_class_accuracy(label, predicted, 4) == pytest.approx([0.5, math.nan, 1, math.nan], nan_ok=True)
    assert measures.balanced_accuracy(label, predicted, 4) == 0.75


def test_calibration_by_hand() -> None:
    """Two bins of ten: (0.5, 0.6] with 2 images half of them right, (0.9, 1] with 2 images both right."""
    right = np.array([True, False, True, True])
    found = measures.calibration(right, np.array([0.55, 0.6, 0.95, 1.0]), num_bins=10)
    assert found.error == pytest.approx(2 / 4 * abs(0.5 - 0.575) + 2 / 4 * abs(1 - 0.975))
    assert found.count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert found.confidence[[5, 9]] == pytest.approx([0.575, 0.975])
    assert found.accuracy[[5, 9]] == pytest.approx([0.5, 1.0])
    assert np.isnan(found.accuracy[0])


def test_a_bin_holds_its_upper_edge() -> None:
    found = measures.calibration(np.array([True, True, False]), np.array([0.0, 0.5, 0.75]), num_bins=4)
    assert found.count.tolist() == [1, 1, 1, 0]


def test_calibration_is_the_loop_of_its_definition() -> None:
    generator = np.random.default_rng(3)
    confidence = generator.uniform(0.1, 1, 500).astype(np.float32)
    right = generator.random(500) < confidence**2
    expected = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert measures.calibration(right, confidence).error == pytest.approx(expected, rel=1e-5)
    assert math.isnan(measures.calibration(right[:2], np.array([0.5, np.nan])).error)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 30, 101])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_students_t_is_scipys(degrees: int, level: float) -> None:
    assert measures.student_t(level, degrees) == pytest.approx(scipy.stats.t.ppf((1 + level) / 2, degrees), rel=1e-9)


def test_the_interval_over_draws() -> None:
    values = [0.90, 0.92, 0.93]
    expected = scipy.stats.t.interval(0.95, 2, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert measures.confidence_interval(values) == pytest.approx(expected)
    assert all(math.isnan(end) for end in measures.confidence_interval([0.9]))


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (0, 3), (7, 2), (5, 5), (12, 30), (2400, 2600)])
def test_mcnemar_is_the_binomial_test_of_the_disagreements(only_first: int, only_second: int) -> None:
    first = np.array([True] * only_first + [False] * only_second + [True] * 4 + [False] * 3)
    second = np.array([False] * only_first + [True] * only_second + [True] * 4 + [False] * 3)
    found = measures.mcnemar(first, second)
    assert found[:2] == (only_first, only_second)
    trials = only_first + only_second
    expected = scipy.stats.binomtest(only_first, trials).pvalue if trials else 1.0
    assert found.p == pytest.approx(expected, rel=1e-9)
    assert measures.mcnemar(second, first).p == found.p


def differences(draws: int = 3, images: int = 200) -> np.ndarray:
    generator = np.random.default_rng(5)
    easy = generator.random(images)
    return np.stack([generator.choice([-1, 0, 1], images, p=[0.05, 0.8, 0.15]) * (easy > 0.3) for _ in range(draws)])


def test_the_bootstrap_over_images_is_scipys() -> None:
    """Counting kinds of images gives the distribution that drawing images one by one gives."""
    found = measures.bootstrap_items(differences())
    rng = np.random.default_rng(1)
    expected = scipy.stats.bootstrap(
        (differences().mean(axis=0),), np.mean, n_resamples=10_000, method="percentile", rng=rng
    ).confidence_interval
    assert found == pytest.approx(tuple(expected), abs=0.004)
    assert measures.bootstrap_items(differences()) == found
    assert measures.bootstrap_items(differences(), seed=1) != found


def test_the_other_way_round_an_interval_is_mirrored() -> None:
    for bootstrap in (measures.bootstrap_items, measures.bootstrap_items_and_draws):
        low, high = bootstrap(differences())
        assert bootstrap(-differences()) == pytest.approx((-high, -low), abs=1e-15)


def test_the_bootstrap_over_images_and_draws_is_the_plain_loop() -> None:
    difference = differences() + np.array([[0.0], [0.05], [-0.05]])
    found = measures.bootstrap_items_and_draws(difference)
    generator = np.random.default_rng(9)
    means = []
    for _ in range(10_000):
        images = generator.integers(difference.shape[1], size=difference.shape[1])
        draws = generator.integers(len(difference), size=len(difference))
        means.append(difference[np.ix_(draws, images)].mean())
    assert found == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.004)
    narrow = measures.bootstrap_items(difference)
    assert found[1] - found[0] > 1.2 * (narrow[1] - narrow[0])
    one = difference[:1]
    assert measures.bootstrap_items_and_draws(one) == pytest.approx(measures.bootstrap_items(one), abs=0.004)


def test_resamples_in_pieces_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "_CHUNK", 64)
    low, high = measures.bootstrap_items(differences(), resamples=500)
    assert low < differences().mean() < high

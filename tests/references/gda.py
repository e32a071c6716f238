"""Wang et al. 2024 in numpy: one row, one class at a time, with an explicit inverse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def fit(image: Array, label: NDArray[np.int64], num_classes: int) -> tuple[Array, Array]:
    """Weights (C, D) and biases (C,) from raw rows (S, D)."""
    rows = image / np.linalg.norm(image, axis=1, keepdims=True)
    dim = rows.shape[1]
    means = np.array(
        [np.mean([row for row, own in zip(rows, label, strict=True) if own == c], axis=0) for c in range(num_classes)]
    )
    covariance = np.zeros((dim, dim))
    for row, own in zip(rows, label, strict=True):
        covariance += np.outer(row - means[own], row - means[own])
    covariance /= len(rows) - 1
    precision = dim * np.linalg.inv((len(rows) - 1) * covariance + np.trace(covariance) * np.eye(dim))
    weight = np.array([precision @ mean for mean in means])
    bias = np.array([np.log(1 / num_classes) - mean @ precision @ mean / 2 for mean in means])
    return weight, bias


def logits(weight: Array, bias: Array, image: Array, text: Array, *, scale: float, alpha: float) -> Array:
    """(N, C) blended with zero-shot."""
    unit = image / np.linalg.norm(image, axis=1, keepdims=True)
    scores = np.array([[row @ w + b for w, b in zip(weight, bias, strict=True)] for row in unit])
    zero_shot = np.array([[scale * (row @ t) for t in text] for row in unit])
    return zero_shot + alpha * scores

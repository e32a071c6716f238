"""Bendou et al. 2025 in numpy: kernel entries one by one, the system solved by a general solver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def predict(
    image: Array, train: Array, label: NDArray[np.int64], text: Array, *, beta: float, lmbda: float, scale: float
) -> Array:
    """(N, C) scores of raw images (N, D) after fitting raw rows (S, D)."""
    image, train = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, train))
    kernel = np.array([[np.exp(-beta * (1 - a @ b)) for b in train] for a in train])
    target = np.eye(len(text))[label] - train @ text.T
    weight = np.linalg.solve(kernel / lmbda + np.eye(len(train)), target)
    right = np.array([[np.exp(-beta * (1 - a @ b)) for b in train] for a in image]) @ weight
    return scale * (image @ text.T + right)

"""Zhu et al.: refinement, divergences and residuals by loops over classes, images and channels."""

from __future__ import annotations

import math

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from featcache.task import Params, Task
from tests.references.tip_adapter import cache

Array = NDArray[np.float64]


def channels(groups: list[Array], text: Array, weight: float, count: int) -> list[int]:
    """The channels kept; `groups` holds each class's rows (n, D), every pair of two classes taken in turn."""
    total, pairs = np.zeros(text.shape[1]), 0
    for i, mine in enumerate(groups):
        for j, theirs in enumerate(groups):
            for one in mine if i != j else ():
                for other in theirs:
                    total += one * other
                    pairs += 1
    worth = -weight * total / pairs + (1 - weight) * text.var(axis=0, ddof=1)
    return np.argsort(-worth, kind="stable")[:count].tolist()


def training_free(task: Task, image: Tensor, point: dict[str, float], *, count: int, both: bool) -> Array:
    """(N, C) logits; `point` holds alpha, beta, gamma and balance."""
    keys = cache(task)[0].T.double().numpy()
    text, label = task.text.double().numpy(), task.label.tolist()
    groups = [np.stack([row, *(k for k, y in zip(keys, label, strict=True) if both and y == own)])
              for own, row in enumerate(text)]  # fmt: skip
    kept = channels(groups, text, point["balance"], count)

    def refine(rows: Array) -> Array:
        return rows[:, kept] / np.linalg.norm(rows[:, kept], axis=1, keepdims=True)

    small_keys, small_text = refine(keys), refine(text)
    logits = []
    for raw in image.double().numpy():
        unit = raw / np.linalg.norm(raw)
        scores = task.logit_scale * text @ unit
        for key, own in zip(small_keys, label, strict=True):
            told = np.exp(small_text @ key) / np.exp(small_text @ key).sum()
            divergence = sum((c == own) * math.log2(((c == own) + 1e-6) / (told[c] + 1e-6)) for c in range(len(text)))
            near = refine(unit[None])[0] @ key
            votes = math.exp(-point["beta"] * (1 - near)) * math.exp(point["gamma"] * divergence)
            scores[own] += point["alpha"] * votes
        logits.append(scores)
    return np.stack(logits)


class ApeT(nn.Module):
    """One run; its residual spans all channels, of which only the refined ones are put in."""

    def __init__(self, start: Params, task: Task, *, alpha: float, beta: float, count: int, balance: float) -> None:
        super().__init__()
        text = task.text.double().numpy()
        self.kept = channels([row[None] for row in text], text, balance, count)
        self.residual, self.weight = nn.Parameter(start["residual"]), nn.Parameter(start["weight"])
        self.keys, self.values = cache(task)
        self.task, self.alpha, self.beta = task, alpha, beta

    def forward(self, image: Tensor) -> Tensor:
        """(b, C) logits of raw images (b, D)."""
        unit = F.normalize(image, dim=-1)
        text, keys = self.task.text.clone(), self.keys.T.clone()
        text[:, self.kept] = text[:, self.kept] + self.residual[:, self.kept]
        keys[:, self.kept] = keys[:, self.kept] + self.residual[self.task.label][:, self.kept]
        votes = (-(self.beta - self.beta * (unit @ keys.T))).exp() @ (self.values * self.weight[:, None])
        return self.task.logit_scale * unit @ text.T + self.alpha * votes

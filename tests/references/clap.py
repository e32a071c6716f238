"""Silva-Rodriguez et al.: a probe from the text weights, each class held to its own by its multiplier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featcache.task import Params, Task


def multipliers(task: Task) -> list[float]:
    """Each class's mean zero-shot probability over its images, one image and view at a time."""
    found = []
    for own in range(len(task.text)):
        probabilities = []
        for views in task.image[task.label == own]:
            for row in views:
                cosine = torch.stack([F.cosine_similarity(row, text, dim=0) for text in task.text])
                probabilities.append(torch.softmax(task.logit_scale * cosine, dim=0)[own].item())
        found.append(sum(probabilities) / len(probabilities) if probabilities else 1.0)
    return found


class Clap(nn.Module):
    """One run."""

    def __init__(self, start: Params, task: Task, strength: float) -> None:
        super().__init__()
        self.probe = nn.Parameter(start["probe"])
        self.task, self.strength, self.held = task, strength, multipliers(task)

    def forward(self, image: Tensor) -> Tensor:
        """(b, C) logits of raw images (b, D)."""
        return self.task.logit_scale * F.cosine_similarity(image[:, None], self.probe[None], dim=-1)

    def loss(self, image: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy plus the penalty, class by class."""
        pulls = [
            held * ((weight - text) ** 2).sum()
            for held, weight, text in zip(self.held, self.probe, self.task.text, strict=True)
        ]
        return F.cross_entropy(self(image), label) + self.strength * sum(pulls) / len(pulls)

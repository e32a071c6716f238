"""Lin et al.: one linear head, trained on images and on texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featcache.task import Params, Task


class CrossModal(nn.Module):
    """One run; `forward` takes images and texts alike."""

    def __init__(self, start: Params, task: Task) -> None:
        super().__init__()
        self.head = nn.Parameter(start["head"])
        self.task = task

    def forward(self, rows: Tensor) -> Tensor:
        """(b, C) logits of embeddings (b, D)."""
        return F.linear(F.normalize(rows, dim=1), self.head) * self.task.logit_scale

    def loss(self, image: Tensor, label: Tensor, share: float) -> Tensor:
        """Over one batch of both kinds, each example with its kind's weight."""
        num_classes = len(self.task.text)
        rows, labels = torch.cat([image, self.task.text]), torch.cat([label, torch.arange(num_classes)])
        weight = torch.cat(
            [torch.full((len(image),), (1 - share) / len(image)), torch.full((num_classes,), share / num_classes)]
        )
        return (weight * F.cross_entropy(self(rows), labels, reduction="none")).sum()

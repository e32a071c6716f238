"""Li et al.: the projection and the head of a language-augmented probe, as torch's own layers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from featcache.task import Params, Task


class Elevater(nn.Module):
    """One run."""

    def __init__(self, start: Params, task: Task) -> None:
        super().__init__()
        self.head, self.bias = nn.Parameter(start["head"]), nn.Parameter(start["bias"])
        if "projection" in start:
            self.projection = nn.Parameter(start["projection"])
        self.task = task

    def forward(self, image: Tensor) -> Tensor:
        """(b, C) logits of raw images (b, D)."""
        projected = F.linear(image, self.projection.T) if hasattr(self, "projection") else image
        return self.task.logit_scale * F.linear(F.normalize(projected, dim=1), self.head, self.bias)

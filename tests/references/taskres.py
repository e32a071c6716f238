"""Yu et al.: t + alpha x, x from zero."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from featcache.task import Params, Task


class TaskRes(nn.Module):
    """One run."""

    def __init__(self, start: Params, task: Task, alpha: float) -> None:
        super().__init__()
        self.residual = nn.Parameter(start["residual"])
        self.task, self.alpha = task, alpha

    def forward(self, image: Tensor) -> Tensor:
        """(b, C) logits of raw images (b, D)."""
        tuned = self.task.text + self.alpha * self.residual
        return self.task.logit_scale * F.cosine_similarity(image[:, None], tuned[None], dim=-1)

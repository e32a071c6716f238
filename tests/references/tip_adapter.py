"""Zhang et al.: the cache and its search point by point as published; the trained cache as one linear layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featcache.task import Params, Task


def cache(task: Task) -> tuple[Tensor, Tensor]:
    """Keys (D, S) and values (S, C), image by image."""
    keys, values = [], []
    for views, label in zip(task.image, task.label.tolist(), strict=True):
        key = torch.stack([view / view.norm() for view in views]).mean(dim=0)
        keys.append(key / key.norm())
        values.append([float(own == label) for own in range(len(task.text))])
    return torch.stack(keys, dim=1), torch.tensor(values)


def search(
    task: Task, image: Tensor, label: Tensor, points: Iterable[tuple[float, float]]
) -> Iterator[tuple[float, Tensor]]:
    """Accuracy and logits at each (alpha, beta), everything made again at each."""
    keys, values = cache(task)
    unit = F.normalize(image, dim=-1)
    for alpha, beta in points:
        affinity = unit @ keys
        votes = (-(beta - beta * affinity)).exp() @ values
        logits = task.logit_scale * unit @ task.text.T + alpha * votes
        yield (logits.topk(1).indices[:, 0] == label).float().mean().item(), logits


class TipAdapterF(nn.Module):
    """One run."""

    def __init__(self, start: Params, task: Task, alpha: float, beta: float) -> None:
        super().__init__()
        keys, self.values = cache(task)
        torch.testing.assert_close(start["keys"], keys.T)
        self.keys = nn.Parameter(start["keys"])
        self.task, self.alpha, self.beta = task, alpha, beta

    def forward(self, image: Tensor) -> Tensor:
        """(b, C) logits of raw images (b, D)."""
        unit = F.normalize(image, dim=-1)
        votes = (-(self.beta - self.beta * F.linear(unit, self.keys))).exp() @ self.values
        return self.task.logit_scale * unit @ self.task.text.T + self.alpha * votes

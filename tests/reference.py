"""Each method once more, one run at a time, written as the paper has it with torch's own layers and optimisers.

Nothing here is shared with the fast path but the batches it is given: fast must match slow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClipAdapter(nn.Module):
    """Gao et al., equations 3 to 5, with the released code's second ReLU."""

    def __init__(self, down: Tensor, up: Tensor, alpha: float) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(*down.shape, bias=False), nn.ReLU(), nn.Linear(*up.shape, bias=False), nn.ReLU()
        )
        self.fc[0].weight.data.copy_(down.T)  # torch keeps (out, in)
        self.fc[2].weight.data.copy_(up.T)
        self.alpha = alpha

    def forward(self, image: Tensor, text: Tensor, logit_scale: float) -> Tensor:
        """(b, C) logits of raw images (b, D)."""
        blend = self.alpha * self.fc(image) + (1 - self.alpha) * image
        return logit_scale * F.normalize(blend, dim=-1) @ text.T


def fit_sgd(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor, float]], text: Tensor, logit_scale: float, **options: Any
) -> list[float]:
    """The loss of each step of torch's SGD over (images, labels, learning rate)."""
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0, **options)
    losses = []
    for image, label, lr in batches:
        optimiser.param_groups[0]["lr"] = lr
        loss = F.cross_entropy(model(image, text, logit_scale), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses

"""Huang et al. 2024 with torch's own layers, autograd and SGD."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fit(image: Tensor, label: Tensor, text: Tensor, *, steps: int, momentum: float, start: float) -> dict[str, Tensor]:
    """`visual` (D, C), `bias` (C,) and `alpha` (C,) from raw rows (S, D), as doubles."""
    rows, text = F.normalize(image.double(), dim=1), text.double()
    num_rows, num_classes = len(rows), len(text)
    own = [rows[label == c] for c in range(num_classes)]
    layer = nn.Linear(rows.shape[1], num_classes).double()
    layer.weight.data = torch.stack([mine.sum(dim=0) for mine in own])
    layer.bias.data.zero_()
    first = start * sum((mine @ text[c]).mean() for c, mine in enumerate(own)) / num_classes
    alpha = nn.Parameter(torch.ones(num_classes, dtype=torch.float64) * first)
    step = 4 * num_rows / torch.linalg.svdvals(rows)[0] ** 2
    alpha_step = num_rows / (4 * max((rows @ t).square().sum() for t in text))
    of_weights = torch.optim.SGD(layer.parameters(), lr=float(step), momentum=momentum)
    of_alpha = torch.optim.SGD([alpha], lr=float(alpha_step))
    for iteration in range(1, steps + 1):
        loss = F.cross_entropy(layer(rows) + alpha * (rows @ text.T), label)
        of_weights.zero_grad()
        of_alpha.zero_grad()
        loss.backward()
        of_weights.step()
        if iteration % 10 == 0:
            of_alpha.step()
    return {"visual": layer.weight.detach().T, "bias": layer.bias.detach(), "alpha": alpha.detach()}

"""Maths that methods share. Any leading axes are kept; device and dtype come from the inputs."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-12


def normalise(rows: Tensor) -> Tensor:
    """Unit rows along the last axis; an all-zero row stays zero instead of becoming NaN."""
    unit: Tensor = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(EPS)
    return unit


def cosine_logits(image: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """(N, C) logit_scale x cosine of raw images (N, D) to unit text (C, D) (Radford et al. 2021)."""
    return logit_scale * (normalise(image) @ text.mT)


def cosine_loss_gradient(image: Tensor, label: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """(R, b, D) gradient of each run's mean cross-entropy with respect to its images (R, b, D), labels (R, b).

    The loss is that of `cosine_logits` and softmax, against unit text (C, D). With u the unit image and
    g = scale (softmax - onehot) text / b, the gradient is (g - (g . u) u) / |image|. Not differentiable itself.
    """
    length = torch.linalg.vector_norm(image, dim=-1, keepdim=True).clamp_min(EPS)
    unit = image / length
    error = torch.softmax(logit_scale * (unit.flatten(0, 1) @ text.mT), dim=-1)  # (R b, C)
    error[torch.arange(len(error), device=error.device), label.flatten()] -= 1
    gradient = (error @ text).view_as(image)
    gradient -= unit * (unit * gradient).sum(dim=-1, keepdim=True)
    return gradient.mul_(logit_scale / image.shape[1] / length)

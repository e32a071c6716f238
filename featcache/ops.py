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
    g = scale (softmax - onehot) text / b, the gradient is (g - (g . u) u) / |image|. Both products with u are taken
    among the C classes, where they cost less than over D. Not differentiable itself.
    """
    rows = image.flatten(0, 1)  # (R b, D)
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(EPS)
    cosine = (rows @ text.mT).div_(length)  # (R b, C)
    error = torch.softmax(logit_scale * cosine, dim=1)
    error.scatter_add_(1, label.reshape(-1, 1), error.new_full((1, 1), -1.0).expand(len(error), 1))
    error.mul_(logit_scale / image.shape[1] / length)
    along = torch.linalg.vecdot(error, cosine)[:, None].div_(length)  # (R b, 1)
    return torch.addcmul(error @ text, rows, along, value=-1).view_as(image)


def relu_gradient(gradient: Tensor, output: Tensor) -> Tensor:
    """The gradient before a ReLU, from the one after it and the ReLU's output."""
    before: Tensor = torch.ops.aten.threshold_backward(gradient, output, 0.0)
    return before

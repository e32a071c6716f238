"""Maths that methods share. Any leading axes are kept; device and dtype come from the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

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


def class_sums(rows: Tensor, label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The sum of each class's rows (C, D) and how many they are (C, 1), from rows (S, D) and labels (S,)."""
    sums = rows.new_zeros(num_classes, rows.shape[1]).index_add_(0, label, rows)
    counts = torch.bincount(label, minlength=num_classes).to(rows)[:, None]
    return sums, counts


def zero_shot_part(image: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """`cosine_logits`, or zeros (N, C) where the store has no text: (C, 0)."""
    if not text.shape[1]:
        return image.new_zeros(len(image), len(text))
    return cosine_logits(image, text, logit_scale)


def blend_each(
    prior: Tensor, cache: Callable[[Mapping[str, Tensor]], Tensor], hypers: Sequence[Mapping[str, Tensor]]
) -> Iterator[Tensor]:
    """prior + alpha cache(hyper), both (N, C), for each of the hypers in order; each is written over by the next.

    `cache` heeds all fields but alpha: it is made once for neighbours that differ in alpha alone, so alpha should be
    a grid's last field.
    """
    made, shared = None, None
    blend = torch.empty_like(prior)
    for hyper in hypers:
        others = {name: value.item() for name, value in hyper.items() if name != "alpha"}
        if made is None or others != shared:
            made, shared = cache(hyper), others
        yield torch.add(prior, made, alpha=hyper["alpha"].item(), out=blend)

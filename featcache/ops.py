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


def learnt_text_logits(image: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """What `cosine_logits` gives, for text (C, D) that is learnt.

    The product is taken the other way round, so that under vmap the gradient of text comes out in text's own layout: in
    the transposed one every later step over it takes twice as long.
    """
    return logit_scale * (text @ normalise(image).mT).mT


def cosine_loss_gradient(image: Tensor, label: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """(R, b, D) gradient of each run's mean cross-entropy with respect to its images (R, b, D), labels (R, b).

    The loss is that of `cosine_logits` and softmax, against unit text (C, D). With u the unit image and
    g = scale (softmax - onehot) text / b, the gradient is (g - (g . u) u) / |image|. Both products with u are taken
    among the C classes, where they cost less than over D. Not differentiable itself.
    """
    rows = image.flatten(0, 1)  # (R b, D)
    scale = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min_(EPS).reciprocal_().mul_(logit_scale)
    logits = (rows @ text.mT).mul_(scale)  # (R b, C)
    error = torch.softmax(logits, dim=1).scatter_(1, label.reshape(-1, 1), -1.0, reduce="add")
    error.mul_(scale).div_(image.shape[1])
    along = torch.linalg.vecdot(error, logits)[:, None].mul_(scale).div_(logit_scale**2)  # (R b, 1)
    return (error @ text).addcmul_(rows, along, value=-1).view_as(image)


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


def sweep_cache(
    prior: Tensor,
    nearness: Tensor,
    values: Tensor,
    hypers: Sequence[Mapping[str, Tensor]],
    *,
    weigh: Callable[[Mapping[str, Tensor]], Tensor],
) -> Iterator[Tensor]:
    """prior + alpha exp(beta nearness) diag(weigh(hyper)) values for each hyper; each is written over by the next.

    `prior` (N, C), `nearness` (N, S), one-hot `values` (S, C), weights (S,) that alpha does not enter. The votes are
    made once for neighbours that differ in alpha alone, so alpha should be a grid's last field.
    """
    order = _side_by_side(values)
    if order is not None:
        nearness = nearness[:, order]
    buffer, blend = torch.empty_like(nearness), torch.empty_like(prior)
    votes, shared = prior, None
    for hyper in hypers:
        others = {name: value.item() for name, value in hyper.items() if name != "alpha"}
        if others != shared:
            weight, shared = weigh(hyper), others
            near = torch.mul(nearness, hyper["beta"], out=buffer).exp_()
            # With a class's keys side by side its votes are a plain sum, far cheaper than the product over C.
            votes = (
                near @ (weight[:, None] * values)
                if order is None
                else near.mul_(weight[order]).view(*prior.shape, -1).sum(dim=2)
            )  # (N, C)
        yield torch.add(prior, votes, alpha=hyper["alpha"].item(), out=blend)


def _side_by_side(values: Tensor) -> Tensor | None:
    """(S,) the order that brings each class's keys together, from one-hot (S, C); None where classes differ in size."""
    sizes = values.sum(dim=0)
    if not (sizes == sizes[0]).all():
        return None
    return values.argmax(dim=1).argsort(stable=True)


def inter_class_similarity(rows: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """(D,) the mean product of two rows of different classes, channel by channel, from rows (S, D), labels (S,)."""
    sums, counts = class_sums(rows, label, num_classes)
    products = sums.sum(dim=0).square() - sums.square().sum(dim=0)  # over all pairs, less those within a class
    pairs = counts.sum().square() - counts.square().sum()
    return products / pairs.clamp_min(1)


def refined_channels(similarity: Tensor, text: Tensor, *, weight: float, kept: float) -> Tensor:
    """(Q,) the channels worth keeping, best first: alike in few classes and varied in text (APE, arXiv 2304.01195).

    Of the D channels the round(kept D) of least weight similarity (D,) - (1 - weight) variance of text (C, D) stay.
    """
    cost = weight * similarity - (1 - weight) * text.var(dim=0)
    return cost.topk(max(1, round(kept * len(cost))), largest=False).indices

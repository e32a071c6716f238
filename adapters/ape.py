"""APE, adaptive prior refinement (Zhu et al., ICCV 2023; arXiv 2304.01195), training-free.

Channels are refined first: with s_d the mean product, in channel d, of two embeddings of different classes, and v_d
the variance of channel d over the text rows, the Q channels of least  w s_d - (1 - w) v_d  are kept. With f', K', W'
the unit images, keys and text of those channels alone, normalised again,

    R_s = exp(gamma KL(label_s | softmax(K'_s . W')))            how much key s says that its text does not
    logits = logit_scale * f . text + alpha exp(-beta (1 - f' . K')) diag(R) V

Where the paper and the authors' code differ the code is followed, for it made the published numbers: s_d counts the
training images beside the text (`similarity = text`: text alone, as the paper has it for class centres); the
divergence is from the label to the prediction in bits, with 1e-6 added to both, and the softmax is of bare cosines,
so that over many classes it is nearly uniform and R nearly one number.

Departures: their number of channels (800 of 1024 on Caltech101, 500 on ImageNet) is a fraction here, so that it suits
any width; classes may be short of images; the keys average the views' unit embeddings. Their search tries 200 betas x
20 alphas, both up to 7, x 20 gammas up to 1 (5 up to 0.5 on ImageNet); the default here is 20 x 20 x 5 over the same
ranges. Ties go to the lower cross-entropy, theirs to the first point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import cosine_logits, inter_class_similarity, normalise, refined_channels, sweep_cache
from featcache.task import Frozen, Hyper, Params, Task

_FLOOR = 1e-6
"""Added to probabilities within the logarithm, as in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class Ape:
    """A cache on the channels that tell classes apart, each key weighed by what its text leaves open."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    transfers: ClassVar[bool] = False
    views: ClassVar[str] = "mean"
    post_hoc: ClassVar[tuple[str, ...]] = ("alpha", "beta", "gamma")
    grid: ClassVar[Mapping[str, str]] = {
        "gamma": "0:0.8:0.2",
        "beta": "0.1:6.655:0.345",
        "alpha": "0.1:6.655:0.345",
    }

    alpha: float = 1.0
    """Weight of the cache, at least 0; 0 is zero-shot CLIP. Default: the authors' Caltech101 config (ImageNet 2)."""
    beta: float = 1.0
    """Sharpness of the cache, at least 0: how fast a vote falls with distance. Default: the authors' configs."""
    gamma: float = 0.1
    """How much a key's weight grows with its divergence from the text, at least 0. Default: the authors' configs."""
    kept: float = 0.78125
    """Fraction of the D channels kept, above 0 and at most 1. Default: 800 of 1024, the authors' Caltech101 config."""
    balance: float = 0.5
    """Weight w of similarity against variance, 0 to 1. Default: the authors' Caltech101 config (ImageNet 0.7)."""
    similarity: str = "both"
    """What similarity is taken over: `text`, or `both` text and training images. Default: the authors' code."""

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} shapes the cache's votes and is a number of at least 0; got {value:g}")
        if not 0 < self.kept <= 1:
            raise ConfigError(f"kept is a fraction of the channels, above 0 and at most 1; got {self.kept:g}")
        if not 0 <= self.balance <= 1:
            raise ConfigError(f"balance weighs similarity against variance, between 0 and 1; got {self.balance:g}")
        if self.similarity not in ("text", "both"):
            raise ConfigError(f"similarity is taken over text or both; got {self.similarity!r}")

    def solve(self, task: Task, hyper: Hyper) -> Params:
        """`channels` (Q,), `keys` (S, Q) of unit rows, `values` (S, C) one-hot, and `divergence` (S,) in bits."""
        keys, label = normalise(task.rows), task.label
        classes = torch.arange(task.num_classes, device=label.device)
        rows = torch.cat([task.text, keys]) if self.similarity == "both" else task.text
        owner = torch.cat([classes, label]) if self.similarity == "both" else classes
        alike = inter_class_similarity(rows, owner, task.num_classes)
        balance, kept = hyper["balance"].item(), hyper["kept"].item()
        channels = refined_channels(alike, task.text, weight=balance, kept=kept)
        keys = normalise(keys[:, channels])  # (S, Q)
        values = F.one_hot(label, task.num_classes).to(keys.dtype)
        told = (keys @ normalise(task.text[:, channels]).mT).softmax(dim=1)  # (S, C)
        divergence = (values * torch.log2((values + _FLOOR) / (told + _FLOOR))).sum(dim=1)
        return {"channels": channels, "keys": keys, "values": values, "divergence": divergence}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, C) from raw images (N, D)."""
        nearness = normalise(normalise(image)[:, params["channels"]]) @ params["keys"].mT - 1  # (N, S)
        votes = (hyper["beta"] * nearness).exp() * (hyper["gamma"] * params["divergence"]).exp()
        return cosine_logits(image, frozen.text, frozen.logit_scale) + hyper["alpha"] * (votes @ params["values"])

    def sweep(self, params: Params, image: Tensor, frozen: Frozen, hypers: Sequence[Hyper]) -> Iterator[Tensor]:
        """Each point's logits: affinities made once, exponentials once for each pair of beta and gamma."""
        nearness = normalise(normalise(image)[:, params["channels"]]) @ params["keys"].mT - 1  # (N, S)
        prior = cosine_logits(image, frozen.text, frozen.logit_scale)
        return sweep_cache(
            prior, nearness, params["values"], hypers, weigh=lambda hyper: (hyper["gamma"] * params["divergence"]).exp()
        )

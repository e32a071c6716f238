"""Tip-Adapter-F (Zhang et al., ECCV 2022; arXiv 2207.09519, section 3.2): Tip-Adapter with its keys trained.

    K starts as unit(mean over views of f_train)  (S, D)        V = onehot(label)  (S, C), never trained
    logits = logit_scale * f . text + alpha exp(-beta (1 - f . K)) V          with f the unit image

K is trained by cross-entropy at fixed `train_alpha` and `train_beta`; alpha and beta are swept afterwards on the same
keys, which are not normalised again. The authors train with the recipe that is the preset `tip-adapter-f`, a view
drawn anew each time, at the config's `init_alpha` and `init_beta`.

What their code does and this does not: after each epoch it measures test, keeps the keys of the epoch that is best
there, and reports the higher of two test accuracies. Here the last epoch is kept and test is read once. Its search
over alpha and beta is on val, as for `tip_adapter` (on ImageNet: on its test images). Further departures: the keys
average the views' unit embeddings, not raw ones; train_alpha and train_beta are the same on all data sets. Without text
the cache is trained and classifies alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import normalise, sweep_cache, zero_shot_part
from featcache.task import Frozen, Hyper, Params, Task


@dataclass(frozen=True, kw_only=True)
class TipAdapterF:
    """A cache of the training images whose keys are trained, its votes added to zero-shot's logits."""

    needs: ClassVar[frozenset[str]] = frozenset()
    transfers: ClassVar[bool] = False
    views: ClassVar[str] = "turn"
    post_hoc: ClassVar[tuple[str, ...]] = ("alpha", "beta")
    grid: ClassVar[Mapping[str, str]] = {"beta": "0.1:6.9655:0.0345", "alpha": "0.1:2.855:0.145"}
    preset: ClassVar[str] = "tip-adapter-f"
    constant: ClassVar[tuple[str, ...]] = ("values",)

    alpha: float = 1.17
    """Weight of the cache when it classifies, at least 0. Default: what it is trained at."""
    beta: float = 1.0
    """Sharpness of the cache when it classifies, at least 0. Default: what it is trained at."""
    train_alpha: float = 1.17
    """Weight of the cache while it is trained, above 0. Default: `init_alpha` of the authors' ImageNet config."""
    train_beta: float = 1.0
    """Sharpness of the cache while it is trained, above 0. Default: `init_beta` of the authors' configs."""

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} shapes the cache's votes and is a number of at least 0; got {value:g}")
        for name in ("train_alpha", "train_beta"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"at {name} 0 no vote depends on a key, so it is a number above 0; got {value:g}")

    @property
    def inert(self) -> bool:
        """Never: even the fit of a grid point with alpha 0 serves the points with other alphas."""
        return False

    def init(self, task: Task, generator: torch.Generator) -> Params:  # noqa: ARG002
        """`keys` (S, D), the mean of each image's views, and `values` (S, C), one-hot rows."""
        keys = normalise(normalise(task.image).mean(dim=1))
        return {"keys": keys, "values": F.one_hot(task.label, task.num_classes).to(keys.dtype)}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, C) from raw images (N, D)."""
        return self._logits(params, image, frozen, alpha=hyper["alpha"], beta=hyper["beta"])

    def loss(self, params: Params, image: Tensor, label: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """() mean cross-entropy at the alpha and beta of training."""
        alpha, beta = hyper["train_alpha"], hyper["train_beta"]
        return F.cross_entropy(self._logits(params, image, frozen, alpha=alpha, beta=beta), label)

    def _logits(self, params: Params, image: Tensor, frozen: Frozen, *, alpha: Tensor, beta: Tensor) -> Tensor:
        prior = zero_shot_part(image, frozen.text, frozen.logit_scale)
        nearness = normalise(image) @ params["keys"].mT - 1  # (N, S)
        return prior + alpha * ((beta * nearness).exp() @ params["values"])

    def sweep(self, params: Params, image: Tensor, frozen: Frozen, hypers: Sequence[Hyper]) -> Iterator[Tensor]:
        """Each point's logits: affinities made once, exponentials once for each beta."""
        nearness = normalise(image) @ params["keys"].mT - 1  # (N, S)
        prior = zero_shot_part(image, frozen.text, frozen.logit_scale)
        ones = nearness.new_ones(nearness.shape[1])
        return sweep_cache(prior, nearness, params["values"], hypers, weigh=lambda _: ones)

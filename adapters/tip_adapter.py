"""Tip-Adapter (Zhang et al., ECCV 2022; arXiv 2207.09519): a cache of the training images beside zero-shot CLIP.

    K = unit(mean over views of f_train)  (S, D)        V = onehot(label)  (S, C)
    logits = logit_scale * f . text + alpha exp(-beta (1 - f . K)) V          with f the unit image

Nothing is fitted, so alpha and beta are swept after the cache is made. The authors search both on the val split (on
ImageNet on its test images, which here takes `--select test-oracle`), over grids they set for each data set. The
default here is that of ImageNet and Pets in their configs, `search_scale` (7, 3) and `search_step` (200, 20): the
200 betas 0.1 + 0.0345 i and the 20 alphas 0.1 + 0.145 i, so that neither 7 nor 3 is reached. DTD, EuroSAT and
Aircraft are searched up to (13, 13), (12, 10) and (30, 30) there.

Departures. Their code averages the raw embeddings of the views, here it is the unit ones, so that each view counts
alike. Their search keeps the first point of the highest accuracy; here ties go to the lower cross-entropy. Theirs
makes every affinity again at every point; `sweep` makes them once, and the cache's scores once for each beta. Without
text the cache classifies alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import normalise, sweep_cache, zero_shot_part
from featcache.task import Frozen, Hyper, Params, Task


@dataclass(frozen=True, kw_only=True)
class TipAdapter:
    """Each training image votes for its class by how close it is; the votes are added to zero-shot's logits."""

    needs: ClassVar[frozenset[str]] = frozenset()
    transfers: ClassVar[bool] = False
    views: ClassVar[str] = "mean"
    post_hoc: ClassVar[tuple[str, ...]] = ("alpha", "beta")
    grid: ClassVar[Mapping[str, str]] = {"beta": "0.1:6.9655:0.0345", "alpha": "0.1:2.855:0.145"}

    alpha: float = 1.17
    """Weight of the cache beside zero-shot, at least 0; 0 is zero-shot CLIP. Default: the authors' ImageNet config."""
    beta: float = 1.0
    """Sharpness of the cache, at least 0: how fast a vote falls with distance. Default: the authors' configs."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ConfigError(f"alpha weighs the cache and is a number of at least 0; got {self.alpha:g}")
        if not 0 <= self.beta < float("inf"):
            raise ConfigError(f"beta is the cache's sharpness and is a number of at least 0; got {self.beta:g}")

    def solve(self, task: Task, hyper: Hyper) -> Params:  # noqa: ARG002
        """`keys` (S, D), unit rows, and `values` (S, C), one-hot rows."""
        return {"keys": normalise(task.rows), "values": F.one_hot(task.label, task.num_classes).to(task.image.dtype)}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, C) from raw images (N, D)."""
        prior = zero_shot_part(image, frozen.text, frozen.logit_scale)
        nearness = normalise(image) @ params["keys"].mT - 1  # (N, S)
        return prior + hyper["alpha"] * ((hyper["beta"] * nearness).exp() @ params["values"])

    def sweep(self, params: Params, image: Tensor, frozen: Frozen, hypers: Sequence[Hyper]) -> Iterator[Tensor]:
        """Each point's logits: affinities made once, exponentials once for each beta."""
        nearness = normalise(image) @ params["keys"].mT - 1  # (N, S)
        prior = zero_shot_part(image, frozen.text, frozen.logit_scale)
        ones = nearness.new_ones(nearness.shape[1])
        return sweep_cache(prior, nearness, params["values"], hypers, weigh=lambda _: ones)

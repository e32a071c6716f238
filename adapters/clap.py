"""CLAP (Silva-Rodriguez et al., CVPR 2024; arXiv 2312.12730): a linear probe held to the text, class by class.

    logits = logit_scale * unit(f) . unit(w)        w (C, D) starts at the text weights t
    loss = CE + strength * mean over classes of lambda_c |w_c - t_c|^2
    lambda_c = mean zero-shot probability of class c over the draw's images of class c

The lambdas are the multipliers of an augmented Lagrangian after its one outer step, taken before training: a class
that zero-shot CLIP knows well is held closely, and no validation image is needed. Strength 0 is the paper's own
baseline, the zero-shot-initialised linear probe (ZS-LP).

Where paper and code part, the code is followed: the penalty is a mean over classes, not a sum, beside the mean
cross-entropy; and multipliers stay as they are first computed (its `l2` constraint, the one in its scripts).

Departures. The text embeddings of the code are un-normalised, about 10 long for OpenAI's models; ours are unit.
Since logits depend on directions alone, weights of length L under learning rate lr and strength 1 move as unit ones
do under lr / L^2 and strength L^2. The authors' SGD at 0.1 is so 0.001 here at strength 100; the `coop` preset,
their optimiser and schedule at 0.002 in smaller batches, is this method's. The equation as printed, on unit text, is
strength 1, the default. The lambdas average all of the draw's views (the authors': 20 augmented ones). A class
without an image in the draw has lambda 1: nothing speaks against its text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import cosine_logits, learnt_text_logits, normalise
from featcache.task import Frozen, Hyper, Params, Task


@dataclass(frozen=True, kw_only=True)
class Clap:
    """A zero-shot-initialised linear probe with a class-adaptive pull to the text weights."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    transfers: ClassVar[bool] = False
    views: ClassVar[str] = "turn"
    post_hoc: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[Mapping[str, str]] = {}
    preset: ClassVar[str] = "coop"
    constant: ClassVar[tuple[str, ...]] = ("multiplier",)

    strength: float = 1.0
    """Factor of the pull, at least 0; 0 is ZS-LP, 100 the authors' code with text 10 long. Default: the equation's."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ConfigError(f"strength weighs the pull to the text and is at least 0; got {self.strength:g}")

    @property
    def inert(self) -> bool:
        """Never: without the pull it is a linear probe."""
        return False

    def init(self, task: Task, generator: torch.Generator) -> Params:  # noqa: ARG002
        """The probe (C, D) at the text weights, and the multipliers (C,)."""
        return {"probe": task.text.clone(), "multiplier": _multipliers(task)}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:  # noqa: ARG002
        """(N, C) from raw images (N, D)."""
        return learnt_text_logits(image, normalise(params["probe"]), frozen.logit_scale)  # (N, C)

    def loss(self, params: Params, image: Tensor, label: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """() the batch's mean cross-entropy and the pull."""
        distance = (params["probe"] - frozen.text).square().sum(dim=1)  # (C,)
        pull = (params["multiplier"] * distance).mean()
        return F.cross_entropy(self.logits(params, image, frozen, hyper), label) + hyper["strength"] * pull


def _multipliers(task: Task) -> Tensor:
    """(C,) each class's mean zero-shot probability over its own images, in all views; 1 where it has none."""
    probability = cosine_logits(task.image, task.text, task.logit_scale).softmax(dim=-1).mean(dim=1)  # (S, C)
    own = F.one_hot(task.label, task.num_classes).to(probability)  # (S, C)
    count = own.sum(dim=0)
    return torch.where(count > 0, (own * probability).sum(dim=0) / count.clamp_min(1), 1.0)

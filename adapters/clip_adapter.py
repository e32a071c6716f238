"""CLIP-Adapter (Gao et al., IJCV 2024; arXiv 2110.04544), visual adapter: equations 3 and 5.

    A(f) = ReLU(ReLU(f W1) W2)        f' = alpha A(f) + (1 - alpha) f
    logits = logit_scale * unit(f') . unit(text)

The paper writes one ReLU, between W1 and W2; the authors' code has a second one after W2, and it is the code that
made the published numbers, so it is followed here. Also as in their code: no biases, raw (un-normalised) input,
torch's Linear initialisation, one normalisation after the blend. Two departures, both without effect on a
converged number: the text weights are encoded once rather than at every step (they never change), and an all-zero
blend (possible at alpha = 1) stays zero instead of becoming NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import cosine_logits, cosine_loss_gradient, relu_gradient
from featcache.task import Frozen, Hyper, Params, Task


@dataclass(frozen=True, kw_only=True)
class ClipAdapter:
    """A two-layer bottleneck on the image embedding, blended with the embedding itself."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    transfers: ClassVar[bool] = True
    views: ClassVar[str] = "turn"
    post_hoc: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[Mapping[str, str]] = {"alpha": "0:1:0.1"}
    preset: ClassVar[str] = "coop"
    constant: ClassVar[tuple[str, ...]] = ()

    alpha: float = 0.2
    """Residual ratio, 0 to 1: the weight of the adapter's output; 0 is zero-shot CLIP. Default: the authors' code."""
    reduction: int = 4
    """The bottleneck is D / reduction wide. Default: the best of the paper's Table 5."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha is a residual ratio between 0 and 1; got {self.alpha:g}")
        if self.reduction < 1:
            raise ConfigError(f"reduction divides the embedding width and is at least 1; got {self.reduction}")

    @property
    def inert(self) -> bool:
        """At alpha 0 the adapter is not in the logits, so no training can change them: the engine skips it."""
        return self.alpha == 0

    def init(self, task: Task, generator: torch.Generator) -> Params:
        """W1 (D, B) and W2 (B, D), uniform within 1 / sqrt(fan-in) as torch.nn.Linear has it."""
        dim, bottleneck = task.dim, max(1, task.dim // self.reduction)
        return {
            "down": _uniform(dim, bottleneck, generator).to(task.image.device),
            "up": _uniform(bottleneck, dim, generator).to(task.image.device),
        }

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, C) from raw images (N, D)."""
        adapted = ((image @ params["down"]).relu() @ params["up"]).relu()  # (N, D)
        blend = hyper["alpha"] * adapted + (1 - hyper["alpha"]) * image
        return cosine_logits(blend, frozen.text, frozen.logit_scale)  # (N, C)

    def gradient_factors(
        self, params: Params, image: Tensor, label: Tensor, frozen: Frozen, hyper: Hyper
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """The same loss differentiated by hand, stacked: images (R, b, D), labels (R, b)."""
        alpha = hyper["alpha"].view(-1, 1, 1)
        hidden = torch.bmm(image, params["down"]).relu_()  # (R, b, B)
        adapted = torch.bmm(hidden, params["up"]).relu_()  # (R, b, D)
        blend = torch.lerp(image, adapted, alpha)
        to_up = relu_gradient(cosine_loss_gradient(blend, label, frozen.text, frozen.logit_scale), adapted)
        # The factor alpha of `adapted` enters at the bottleneck, which is the narrow side.
        to_down = relu_gradient(torch.bmm(to_up, params["up"].mT).mul_(alpha), hidden)  # (R, b, B)
        return {"down": (image, to_down), "up": (hidden.mul_(alpha), to_up)}


def _uniform(fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    return (torch.rand(fan_in, fan_out, generator=generator) * 2 - 1) / math.sqrt(fan_in)

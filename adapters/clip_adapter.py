"""CLIP-Adapter (Gao et al., IJCV 2024; arXiv 2110.04544): visual, text or both adapters, section 3.2 and 3.3.

    A_v(f) = ReLU(ReLU(f W1) W2)      f' = alpha A_v(f) + (1 - alpha) f
    A_t(W) the same on the classifier weights, with weights of its own:  W' = beta A_t(W) + (1 - beta) W
    logits = logit_scale * unit(f') . unit(W')

The paper writes one ReLU, between W1 and W2; the authors' code has a second one after W2, and it is the code that
made the published numbers, so it is followed here (`last="linear"` is the paper's). Also as in their code, which
holds the visual adapter alone: no biases, raw (un-normalised) input, torch's Linear initialisation, one normalisation
after the blend. Two departures, both without effect on a converged number: the text weights are encoded once rather
than at every step (they never change), and an all-zero blend (possible at alpha = 1) stays zero instead of NaN.

The paper also lets a hyper-network give the ratios, (alpha, beta) = Q(f, W), and publishes no form of it. Ours is
sigmoid(ReLU([mean f, mean W] Q1) Q2 + q): f is averaged over the draw's training rows, so that a prediction does
not hang on the images beside it; Q1 is a Linear's, Q2 starts at zero and q at the ratios given, so training starts
from those. `ratio="learned"` keeps q alone, one number each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import cosine_logits, cosine_loss_gradient, normalise, relu_gradient
from featcache.task import Frozen, Hyper, Params, Task

CHOICES = {
    "where": ("visual", "text", "both"),
    "ratio": ("fixed", "learned", "predicted"),
    "last": ("relu", "linear"),
}
Q_WIDTH = 32
"""Hidden width of Q: it has two numbers to give."""


@dataclass(frozen=True, kw_only=True)
class ClipAdapter:
    """A two-layer bottleneck on the image embedding, the classifier weights or both, blended with what it adapts."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    transfers: ClassVar[bool] = True
    views: ClassVar[str] = "turn"
    post_hoc: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[Mapping[str, str]] = {"alpha": "0:1:0.1"}
    preset: ClassVar[str] = "coop"
    constant: ClassVar[tuple[str, ...]] = ("mean_image",)

    alpha: float = 0.2
    """Visual residual ratio, 0 to 1: the weight of the adapter's output; 0 is zero-shot CLIP. Default: the authors'
    code. Where the ratio is not fixed, it is where training starts, above 0 and below 1."""
    beta: float = 0.2
    """The same for the text adapter. Default: as alpha, for the paper gives no other."""
    reduction: int = 4
    """The bottleneck is D / reduction wide. Default: the best of the paper's Table 5."""
    where: str = "visual"
    """`visual`, `text` or `both`: what is adapted. Default: the best of the paper's Figure 5."""
    ratio: str = "fixed"
    """`fixed`; `learned`, one number each through a sigmoid; `predicted` by Q. Default: the authors' code."""
    last: str = "relu"
    """What follows W2: `relu` as in the authors' code (the default), `linear` as in the paper."""

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is one of {', '.join(known)}; got {getattr(self, name)!r}")
        if self.reduction < 1:
            raise ConfigError(f"reduction divides the embedding width and is at least 1; got {self.reduction}")
        for name in ("alpha", "beta"):
            self._check_ratio(name, getattr(self, name))

    def _check_ratio(self, name: str, value: float) -> None:
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is a residual ratio between 0 and 1; got {value:g}")
        default = next(field.default for field in fields(self) if field.name == name)
        if name not in self._heeded and value != default:
            raise ConfigError(
                f"{name}={value:g} has no effect where={self.where}: leave it out and search "
                f"{' and '.join(self._heeded)}"
            )
        if name in self._heeded and self.ratio != "fixed" and value in (0, 1):
            raise ConfigError(
                f"{name} is where a {self.ratio} ratio starts, above 0 and below 1, for a sigmoid reaches neither; "
                f"got {value:g}: give one value, as --grid {name}=0.2"
            )

    @property
    def _heeded(self) -> tuple[str, ...]:
        """The ratio fields that have an effect."""
        return {"visual": ("alpha",), "text": ("beta",), "both": ("alpha", "beta")}[self.where]

    @property
    def own_grid(self) -> Mapping[str, str]:
        """The ratios that have an effect, more coarsely where they multiply; none where training finds them."""
        values = "0:1:0.1" if len(self._heeded) == 1 else "0:1:0.2"
        return dict.fromkeys(self._heeded, values) if self.ratio == "fixed" else {}

    @property
    def inert(self) -> bool:
        """At ratio 0 the adapter is not in the logits, so no training can change them: the engine skips it."""
        return self.ratio == "fixed" and all(getattr(self, name) == 0 for name in self._heeded)

    @property
    def by_hand(self) -> bool:
        """The visual adapter's gradient at a fixed ratio is written out; the others are autograd's."""
        return self.where == "visual" and self.ratio == "fixed"

    def init(self, task: Task, generator: torch.Generator) -> Params:
        """W1 (D, B) and W2 (B, D) of each adapter, uniform within 1 / sqrt(fan-in) as torch.nn.Linear has it."""
        dim, bottleneck = task.dim, max(1, task.dim // self.reduction)
        params = {}
        for side in {"visual": ("",), "text": ("text_",), "both": ("", "text_")}[self.where]:
            params[side + "down"] = _uniform(dim, bottleneck, generator)
            params[side + "up"] = _uniform(bottleneck, dim, generator)
        if self.ratio != "fixed":
            params["ratio"] = torch.tensor([getattr(self, name) for name in self._heeded]).logit()  # (1 or 2,)
        if self.ratio == "predicted":
            params["q_in"] = _uniform(2 * dim, Q_WIDTH, generator)
            params["q_out"] = torch.zeros(Q_WIDTH, len(self._heeded))
            params["mean_image"] = normalise(task.image).mean(dim=(0, 1))  # (D,)
        return {name: value.to(task.image.device) for name, value in params.items()}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, C) from raw images (N, D)."""
        text = frozen.text
        image = self.embedding(params, image, frozen, hyper)  # (N, D)
        if self.where != "visual":
            beta = self.ratios(params, frozen, hyper)["beta"]
            text = normalise(self._blend(text, params["text_down"], params["text_up"], beta))  # (C, D)
        return cosine_logits(image, text, frozen.logit_scale)  # (N, C)

    def embedding(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, D) images after the visual adapter and its residual; as they are where only text is adapted."""
        if self.where == "text":
            return image
        return self._blend(image, params["down"], params["up"], self.ratios(params, frozen, hyper)["alpha"])

    def ratios(self, params: Params, frozen: Frozen, hyper: Hyper) -> Hyper:
        """alpha, beta or both, () each, as they are after training."""
        if self.ratio == "fixed":
            return hyper
        score = params["ratio"]
        if self.ratio == "predicted":
            means = torch.cat([params["mean_image"], frozen.text.mean(dim=0)])  # (2 D,)
            score = (means @ params["q_in"]).relu() @ params["q_out"] + score
        return dict(zip(self._heeded, torch.sigmoid(score).unbind(), strict=True))

    def _blend(self, rows: Tensor, down: Tensor, up: Tensor, ratio: Tensor) -> Tensor:
        adapted = (rows @ down).relu() @ up
        if self.last == "relu":
            adapted = adapted.relu()
        return ratio * adapted + (1 - ratio) * rows

    def gradient_factors(
        self, params: Params, image: Tensor, label: Tensor, frozen: Frozen, hyper: Hyper
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """The same loss differentiated by hand, stacked: images (R, b, D), labels (R, b)."""
        assert self.by_hand
        alpha = hyper["alpha"].view(-1, 1, 1)
        hidden = torch.bmm(image, params["down"]).relu_()  # (R, b, B)
        adapted = torch.bmm(hidden, params["up"])  # (R, b, D)
        if self.last == "relu":
            adapted = adapted.relu_()
        blend = torch.lerp(image, adapted, alpha)
        to_up = cosine_loss_gradient(blend, label, frozen.text, frozen.logit_scale)
        if self.last == "relu":
            to_up = relu_gradient(to_up, adapted)
        # The factor alpha of `adapted` enters at the bottleneck, which is the narrow side.
        to_down = relu_gradient(torch.bmm(to_up, params["up"].mT).mul_(alpha), hidden)  # (R, b, B)
        return {"down": (image, to_down), "up": (hidden.mul_(alpha), to_up)}


def _uniform(fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    return (torch.rand(fan_in, fan_out, generator=generator) * 2 - 1) / math.sqrt(fan_in)

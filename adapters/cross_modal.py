"""Cross-modal linear probe (Lin et al., CVPR 2023; arXiv 2301.06267): class texts are training shots of another kind.

    logits(x) = logit_scale * unit(x) . w      x an image or a text; w (C, D) is not normalised
    loss = (1 - share) CE(images of the batch) + share CE(class texts)

The head starts at the text weights; only images are classified.

Departures. The authors fill half of each batch with texts drawn at random (share 0.5); here every step takes all C
class texts at that weight, whose gradient is the expectation of theirs, without the sampling's noise. Their texts
are single prompts, one shot a template; ours are the class weights, the templates' mean. Their code searches the
learning rate, weight decay and batch size on the few-shot val images, stops early on them, and also averages the head
with the text weights (WiSE-FT); here the recipe's last step is taken, and of those the rate is searched, over their two
values. A start from text does as well at either; a random one, which has further to go than the steps of the lower rate
reach, needs the higher (genuine features, 70 classes, 16 shots: 85.8 % at 1e-4, 94.9 % at 1e-3, zero-shot 90.0 %).
Preset: `adamw`, their optimiser.
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
from featcache.ops import normalise
from featcache.task import Frozen, Hyper, Params, Task

STARTS = ("text", "random")


@dataclass(frozen=True, kw_only=True)
class CrossModal:
    """A linear head trained on images and class texts alike."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    transfers: ClassVar[bool] = False
    views: ClassVar[str] = "turn"
    post_hoc: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[Mapping[str, str]] = {"lr": "1e-4,1e-3"}
    preset: ClassVar[str] = "adamw"
    constant: ClassVar[tuple[str, ...]] = ()

    share: float = 0.5
    """Weight of the texts in the loss, 0 to 1; 0 trains on images alone. Default: the authors' half of each batch."""
    start: str = "text"
    """`text`, the head starts as zero-shot CLIP (the authors' better choice, and the default); or `random`."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"share is the texts' part of the loss, between 0 and 1; got {self.share:g}")
        if self.start not in STARTS:
            raise ConfigError(f"start is one of {', '.join(STARTS)}; got {self.start!r}")

    @property
    def inert(self) -> bool:
        """Never: the head is all there is."""
        return False

    def init(self, task: Task, generator: torch.Generator) -> Params:
        """The head (C, D): unit text weights, or uniform within 1 / sqrt(D) as torch.nn.Linear has it."""
        if self.start == "text":
            return {"head": task.text.clone()}
        uniform = torch.rand(task.text.shape, generator=generator) * 2 - 1
        return {"head": (uniform / math.sqrt(task.dim)).to(task.text.device)}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:  # noqa: ARG002
        """(N, C) from raw images (N, D)."""
        return frozen.logit_scale * (normalise(image) @ params["head"].mT)  # (N, C)

    def loss(self, params: Params, image: Tensor, label: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """() the two modalities' mean cross-entropies, weighted."""
        images = F.cross_entropy(self.logits(params, image, frozen, hyper), label)
        classes = torch.arange(frozen.num_classes, device=label.device)
        texts = F.cross_entropy(self.logits(params, frozen.text, frozen, hyper), classes)
        return (1 - hyper["share"]) * images + hyper["share"] * texts

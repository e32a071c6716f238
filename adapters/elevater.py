"""ELEVATER's baselines (Li et al., NeurIPS 2022; arXiv 2204.08790), as CLIP-Adapter's Table 4 compares with them.

    two projections: logits = logit_scale * (unit(f P) . w + b)     P (D, D) and w (C, D)
    one projection:  logits = logit_scale * (unit(f) . w + b)       P and w as one matrix

Language-init starts P at the identity, w at the text weights and b at zero, so training starts from zero-shot CLIP;
random-init starts P and w as torch's Linear does.

Departures. ELEVATER's P is the tower's own last projection, of features wider than the embedding. A cache holds the
embeddings behind it: P is a further D x D, and one projection is the product of that P and w, D x C. ELEVATER's code
freezes P with the tower unless the whole model is tuned; CLIP-Adapter counts both as trained, and so do we. The
code's BatchNorm without weights is left out, the logit scale is CLIP's and frozen (both are options there), and its
search over learning rates and weight decays is the user's grid. Preset: `coop`, SGD with momentum as theirs, which
serves both starts (`adamw` moves a random head too little).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import normalise
from featcache.task import Frozen, Hyper, Params, Task

STARTS = ("language", "random")


@dataclass(frozen=True, kw_only=True)
class Elevater:
    """A linear head on the embedding, with or without a projection before it, started from text or at random."""

    needs: ClassVar[frozenset[str]] = frozenset()
    transfers: ClassVar[bool] = False
    views: ClassVar[str] = "turn"
    post_hoc: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[Mapping[str, str]] = {}
    preset: ClassVar[str] = "coop"
    constant: ClassVar[tuple[str, ...]] = ()

    start: str = "language"
    """`language`, identity and text weights; or `random`, which needs no text. Default: ELEVATER's proposal."""
    projections: int = 2
    """2, a projection and a head; or 1, their product. Default: both of CLIP-Adapter's Table 4 have it."""

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise ConfigError(f"start is one of {', '.join(STARTS)}; got {self.start!r}")
        if self.projections not in (1, 2):
            raise ConfigError(f"projections is 1 or 2; got {self.projections}")

    @property
    def inert(self) -> bool:
        """Never: the head is all there is."""
        return False

    def init(self, task: Task, generator: torch.Generator) -> Params:
        """The head (C, D), its bias (C,) and, of two projections, the first (D, D). Raises ConfigError without text."""
        shape = (task.num_classes, task.dim)
        if self.start == "random":
            params = {"head": _uniform(*shape, generator)}
            first = _uniform(task.dim, task.dim, generator)
        elif task.text.shape[1]:
            params = {"head": task.text.clone()}
            first = torch.eye(task.dim)
        else:
            raise ConfigError("start=language needs text weights and this store has none; take start=random")
        params["bias"] = torch.zeros(task.num_classes)
        if self.projections == 2:
            params["projection"] = first
        return {name: value.to(task.image.device) for name, value in params.items()}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:  # noqa: ARG002
        """(N, C) from raw images (N, D)."""
        rows = image @ params["projection"] if self.projections == 2 else image  # (N, D)
        return frozen.logit_scale * (normalise(rows) @ params["head"].mT + params["bias"])  # (N, C)


def _uniform(rows: int, fan_in: int, generator: torch.Generator) -> Tensor:
    return (torch.rand(rows, fan_in, generator=generator) * 2 - 1) / math.sqrt(fan_in)

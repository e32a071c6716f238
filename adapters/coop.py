"""CoOp (Zhou et al., IJCV 2022; arXiv 2109.01134): the words around the class name are learnt, as vectors.

    t_c = text tower([v_1] .. [v_M] [class c] .)      logits = logit_scale * unit(f) . unit(t)      (equations 2, 3)

v (M, W), one for all classes, or (C, M, W), of each class's own, go where word embeddings go, and cross-entropy moves
them through the frozen text tower. Every step encodes C sentences; images are the cached ones and are never encoded.

The authors' code is followed: M vectors drawn with deviation 0.02, or the embeddings of `a photo of a`; the class name
at the end, in the middle of the context (which is halved) or before it, and then a full stop. Departures: the code
trains in float16, this in float32; it ignores class-specific contexts where they start from words, here each class
starts from a copy. Where the tower is causal, the places after a sentence's end, which cannot reach it, are cut off:
the same numbers for about a third of the work. Augmented views are the cached ones, one an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import normalise
from featcache.task import Frozen, Hyper, Params, Task

POSITIONS = ("end", "middle", "front")


@dataclass(frozen=True, kw_only=True)
class CoOp:
    """Text weights from a learnt context around the class names."""

    needs: ClassVar[frozenset[str]] = frozenset({"text", "tower"})
    transfers: ClassVar[bool] = True
    views: ClassVar[str] = "turn"
    post_hoc: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[Mapping[str, str]] = {}
    preset: ClassVar[str] = "coop"
    constant: ClassVar[tuple[str, ...]] = ()

    context: str = "16"
    """How many random vectors, or the words they start from, as `a photo of a`. Default: the authors' N_CTX."""
    position: str = "end"
    """Where the class name stands in the context: `end`, `middle` or `front`. Default: the authors'."""
    own: bool = False
    """Whether each class has a context of its own. Default: one for all, as the authors' CSC False."""

    def __post_init__(self) -> None:
        if self.position not in POSITIONS:
            raise ConfigError(f"position is one of {', '.join(POSITIONS)}; got {self.position!r}")
        if not self.context.strip() or (self._count is not None and not 1 <= self._count <= 64):
            raise ConfigError(f"context is a number of vectors from 1 to 64, or words; got {self.context!r}")

    @property
    def _count(self) -> int | None:
        """How many random vectors; None for words."""
        try:
            return int(self.context)
        except ValueError:
            return None

    @property
    def inert(self) -> bool:
        """Never: the context is in every sentence."""
        return False

    def init(self, task: Task, generator: torch.Generator) -> Params:
        """The context (M, W), or (C, M, W) of each class's own. Raises ConfigError for more than the tower reads."""
        tower = task.tower
        assert tower is not None
        if self._count is None:
            context = tower.embed(self.context)  # (M, W)
            if self.own:
                context = context.expand(task.num_classes, -1, -1).clone()
        else:
            shape = (self._count, tower.width)
            context = 0.02 * torch.randn((task.num_classes, *shape) if self.own else shape, generator=generator)
        tower.sentences(task.names, context.shape[-2], self.position)  # too long a sentence is told before training
        return {"context": context.to(task.image.device)}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, C) from raw images (N, D)."""
        return self.stacked_logits({name: value[None] for name, value in params.items()}, image[None], frozen, hyper)[0]

    def stacked_logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:  # noqa: ARG002
        """(R, N, C) of R runs, whose sentences go through the text tower in one batch."""
        text = self._text(params["context"], frozen)  # (R, C, D)
        return frozen.logit_scale * (normalise(image) @ text.mT)  # (R, N, C)

    def text(self, params: Params, frozen: Frozen) -> Tensor:
        """(C, D) the unit text weights of one run, which other methods can take as theirs."""
        return self._text(params["context"][None], frozen)[0]

    def _text(self, context: Tensor, frozen: Frozen) -> Tensor:
        tower = frozen.tower
        assert tower is not None
        sentences = tower.sentences(frozen.names, context.shape[-2], self.position)
        num_runs = len(context)
        rows = tower.encode(sentences.filled(context), sentences.end.repeat(num_runs))  # (R C, D)
        return normalise(rows).view(num_runs, frozen.num_classes, -1)

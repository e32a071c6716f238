"""Zero-shot CLIP (Radford et al. 2021, arXiv 2103.00020, section 3.1): no training, the text weights classify."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from featcache.ops import cosine_logits
from featcache.task import Frozen, Hyper, Params, Task


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """Cosine of the image embedding to each class's text."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    transfers: ClassVar[bool] = True
    views: ClassVar[str] = "mean"
    post_hoc: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[Mapping[str, str]] = {}

    def solve(self, task: Task, hyper: Hyper) -> Params:  # noqa: ARG002
        """Nothing to fit."""
        return {}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:  # noqa: ARG002
        """(N, C) from raw images (N, D)."""
        return cosine_logits(image, frozen.text, frozen.logit_scale)

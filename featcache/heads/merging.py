"""The linear form of a head, where there is one: found from what the head says, so no method has to state it.

On unit embeddings u a head is linear when logits = W u + b. Then its values at e_i and -e_i, the axes, give column i of
W as half their difference and b as half their sum; whether it is linear at all is seen on other directions and lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from featcache.heads.module import HeadModule, LinearHead

TOLERANCE = 1e-6
"""Of the largest logit, in double precision: far above rounding, far below any method's bend."""


@torch.no_grad()
def merge(module: HeadModule) -> LinearHead | None:
    """The head as one matrix and a bias, or None where it is not linear in the unit embedding."""
    from featcache.heads.module import HeadModule, LinearHead, probe_rows

    double = HeadModule(module.head).double().cpu()
    axes = torch.eye(module.dim, dtype=torch.float64)
    try:
        plus, minus = double.logits(axes), double.logits(-axes)  # (D, C)
    except RuntimeError:  # a method that insists on single precision cannot be told so closely
        return None
    bias = (plus + minus).mean(dim=0) / 2
    linear = LinearHead(((plus - minus) / 2).mT.contiguous(), bias)
    tried = probe_rows(module.dim, 64).double() * 3
    if not _close(linear(tried), double.logits(tried)):
        return None
    like: Tensor = module.get_buffer("text")
    return linear.to(device=like.device, dtype=torch.float32)


def _close(left: Tensor, right: Tensor) -> bool:
    size = right.abs().max().clamp_min(1.0)
    return bool(((left - right).abs().max() <= TOLERANCE * size).item())

"""Maths that methods share. Any leading axes are kept; device and dtype come from the inputs."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-12


def normalise(rows: Tensor) -> Tensor:
    """Unit rows along the last axis; an all-zero row stays zero instead of becoming NaN."""
    unit: Tensor = rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min(EPS)
    return unit


def cosine_logits(image: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """(N, C) logit_scale x cosine of raw images (N, D) to unit text (C, D) (Radford et al. 2021)."""
    return logit_scale * (normalise(image) @ text.mT)

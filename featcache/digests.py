"""One digest of named tensors, for the files that hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def of_tensors(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """SHA-256, in hex, of a text and of every tensor on the CPU: name, dtype, shape, bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"\0{name} {value.dtype} {tuple(value.shape)}\0".encode())
        if value.numel():
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

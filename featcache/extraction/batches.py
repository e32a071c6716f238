"""Pixels -> embeddings, a batch at a time: the one place where images meet a tower."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.backbones import Backbone
from featcache.views import Transform


class BatchEncoder:
    """Encodes views in batches of one fixed shape, so a row does not hang on its neighbours."""

    def __init__(self, backbone: Backbone, transform: Transform, device: torch.device, batch_size: int) -> None:
        self.backbone = backbone
        self.size = transform.size
        self.device = device
        self.batch_size = batch_size
        # The pixels arrive with their channels last; convolutions run faster so (tiny on a CPU: 1.7 times).
        backbone.model.to(device).to(memory_format=torch.channels_last)
        self._mean = torch.tensor(transform.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(transform.std, device=device).view(3, 1, 1)

    def __call__(self, views: Sequence[NDArray[np.uint8]] | Sequence[Tensor]) -> Tensor:
        """(b, D) raw float32 embeddings of at most a batch of views (size, size, 3), arrays or the device's tensors.

        The batch is padded to its full size. A GPU is not waited for: the next views are made ready meanwhile.
        """
        pixels = self._padded(views).permute(0, 3, 1, 2)
        normalised = (pixels.float() / 255 - self._mean) / self._std
        return self.backbone.encode_images(normalised)[: len(views)]

    def _padded(self, views: Sequence[NDArray[np.uint8]] | Sequence[Tensor]) -> Tensor:
        """(batch_size, size, size, 3) bytes on the device."""
        shape = (self.batch_size, self.size, self.size, 3)
        if isinstance(views[0], Tensor):
            there = torch.zeros(shape, dtype=torch.uint8, device=self.device)
            torch.stack([torch.as_tensor(view) for view in views], out=there[: len(views)])
            return there
        on_gpu = self.device.type == "cuda"
        here = torch.zeros(shape, dtype=torch.uint8, pin_memory=on_gpu)
        np.stack(views, out=here.numpy()[: len(views)])
        return here.to(self.device, non_blocking=on_gpu)

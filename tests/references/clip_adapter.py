"""Gao et al., sections 3.2 and 3.3: visual, text or both adapters; ratios fixed, learned or predicted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featcache.task import Params, Task


class ClipAdapter(nn.Module):
    """One run; `given` are the ratios of the adapters there are, or where they start."""

    def __init__(self, start: Params, task: Task, given: dict[str, float], *, last: str = "relu") -> None:
        super().__init__()
        self.mean_image = start.pop("mean_image", None)
        for name, value in start.items():
            self.register_parameter(name, nn.Parameter(value))
        self.task, self.given, self.last = task, given, last

    def adapt(self, rows: Tensor, side: str) -> Tensor:
        """A(rows), row by row."""
        down, up = getattr(self, f"{side}down"), getattr(self, f"{side}up")
        hidden = [torch.clamp(down.T @ row, min=0) for row in rows]
        out = torch.stack([up.T @ row for row in hidden])
        return torch.clamp(out, min=0) if self.last == "relu" else out

    def ratios(self) -> dict[str, Tensor | float]:
        """By adapter."""
        if not hasattr(self, "ratio"):
            return dict(self.given)
        score = self.ratio
        if self.mean_image is not None:
            both = torch.cat([self.mean_image, self.task.text.mean(0)])
            score = F.linear(F.relu(F.linear(both, self.q_in.T)), self.q_out.T, self.ratio)
        return dict(zip(self.given, 1 / (1 + torch.exp(-score)), strict=True))

    def forward(self, image: Tensor) -> Tensor:
        """(b, C) logits of raw images (b, D)."""
        text, ratios = self.task.text, self.ratios()
        if "alpha" in ratios:
            image = ratios["alpha"] * self.adapt(image, "") + (1 - ratios["alpha"]) * image
        if "beta" in ratios:
            text = ratios["beta"] * self.adapt(text, "text_") + (1 - ratios["beta"]) * text
        return self.task.logit_scale * F.cosine_similarity(image[:, None], text[None], dim=-1)

"""CLIP-Adapter on cached features as peers write it: torch's data loader, layers and optimiser, one alpha at a time.

What the stacked grid is timed against. It starts from the engine's weights and is shown the engine's batches, so that
both ways must end alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from featcache import registry
from featcache.recipes import Recipe
from featcache.task import Params, Task
from featcache.training import _epoch_rows


def make_method(alpha: float) -> Any:
    """The engine's method of the same configuration."""
    kind: Any = registry.load("clip_adapter")
    return kind(alpha=alpha)


def begin(task: Task, init_seed: int) -> Params:
    """The starting weights, `down` (D, B) and `up` (B, D): alpha does not enter."""
    params: Params = make_method(0.2).init(task, torch.Generator().manual_seed(init_seed))
    return params


def cached_rows(task: Task) -> TensorDataset:
    """The features as a loop reads them: images (S V, D) and labels (S V,) in main memory."""
    return TensorDataset(task.image.flatten(0, 1).cpu(), task.label.repeat_interleave(task.image.shape[1]).cpu())


def fit_one(
    task: Task, rows: TensorDataset, alpha: float, *, init_seed: int, recipe: Recipe, begun: Params | None = None
) -> Params:
    """The parameters trained at one alpha by SGD, the learning rate set by epoch; `begun`: where else to start."""
    device = task.image.device
    model = Classifier(begun or begin(task, init_seed), task, alpha).to(device)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    order = EpochOrder(task, init_seed, recipe)
    loader = DataLoader(rows, batch_size=recipe.batch_size, sampler=order, pin_memory=device.type == "cuda")
    for epoch in range(recipe.epochs):
        order.epoch = epoch
        optimiser.param_groups[0]["lr"] = recipe.lr_at(epoch, recipe.lr)
        for image, label in loader:
            logits = model(image.to(device, non_blocking=True))
            loss = F.cross_entropy(logits, label.to(device, non_blocking=True))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    down, up = (parameter.detach().mT for parameter in model.parameters())
    return {"down": down, "up": up}


class Classifier(nn.Module):
    """The adapter in front of the frozen classifier, of torch's own layers (arXiv 2110.04544, equations 3 to 5)."""

    def __init__(self, begun: Params, task: Task, alpha: float) -> None:
        super().__init__()
        dim, bottleneck = begun["down"].shape
        self.adapter = nn.Sequential(
            nn.Linear(dim, bottleneck, bias=False), nn.ReLU(), nn.Linear(bottleneck, dim, bias=False), nn.ReLU()
        )
        for parameter, start in zip(self.adapter.parameters(), (begun["down"], begun["up"]), strict=True):
            parameter.data.copy_(start.mT)  # torch keeps (out, in)
        self.text, self.logit_scale, self.alpha = task.text, task.logit_scale, alpha

    def forward(self, image: Tensor) -> Tensor:
        """(b, C) logits of raw images (b, D)."""
        blend = self.alpha * self.adapter(image) + (1 - self.alpha) * image
        logits: Tensor = self.logit_scale * F.normalize(blend, dim=-1) @ self.text.t()
        return logits


class EpochOrder(Sampler[int]):
    """The rows of (S V, D) that the engine shows in `epoch`, in its order."""

    def __init__(self, task: Task, init_seed: int, recipe: Recipe) -> None:
        # The engine's own order, read off a task whose embeddings are their own numbers: exact below 2 ** 53.
        num_images, num_views = task.image.shape[:2]
        numbers = torch.arange(num_images * num_views, dtype=torch.float64).view(num_images, num_views, 1)
        self.numbered = replace(task, image=numbers, label=task.label.cpu())
        self.init_seed, self.recipe, self.epoch = init_seed, recipe, 0

    def __iter__(self) -> Iterator[int]:
        numbers, _ = _epoch_rows(self.numbered, self.init_seed, self.epoch, self.recipe)
        return map(int, numbers[:, 0].tolist())

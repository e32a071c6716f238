"""How a trained method is optimised: named presets, every number with its source."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from featcache.errors import ConfigError, UnknownNameError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser, schedule and batches of one stack of runs."""

    preset: str
    """The preset this began as."""
    optimiser: str
    """`sgd` or `adamw`."""
    lr: float
    """Peak learning rate."""
    momentum: float
    """SGD's momentum; AdamW ignores it."""
    weight_decay: float
    """L2 penalty under SGD, decoupled under AdamW."""
    warmup_lr: float | None
    """The first epoch's constant learning rate; None for no warm-up."""
    schedule: str
    """`cosine` per epoch, or `constant`."""
    batch_size: int
    """Rows a step; a last incomplete batch is dropped where there is a full one, as Dassl does."""
    epochs: int
    """Passes over the draw; each shows every image one of its views."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"lr is a positive number; got {self.lr}")
        if self.batch_size < 1 or self.epochs < 1:
            raise ConfigError(f"batch size and epochs are at least 1; got {self.batch_size} and {self.epochs}")

    def lr_at(self, epoch: int, lr: float) -> float:
        """The learning rate of an epoch for a run of peak `lr`.

        Dassl's ConstantWarmupScheduler over CosineAnnealingLR: the warm-up epoch does not advance the cosine.
        """
        if self.warmup_lr is not None and epoch == 0:
            return self.warmup_lr
        if self.schedule == "constant":
            return lr
        done = epoch - 1 if self.warmup_lr is not None else epoch
        return lr * 0.5 * (1 + math.cos(math.pi * done / self.epochs))


def coop(shots: int, dataset: str) -> Recipe:
    """CoOp's few-shot recipe, which CLIP-Adapter's code takes over (configs/trainers/CoOp/rn50*.yaml)."""
    # CoOp: 50 epochs at 1 shot, 100 at 2 and 4, 200 at 8 and 16; always 50 on ImageNet.
    epochs = 50 if shots == 1 or dataset == "imagenet" else 100 if shots <= 4 else 200
    return Recipe(
        preset="coop",
        optimiser="sgd",
        lr=0.002,
        momentum=0.9,
        weight_decay=5e-4,
        warmup_lr=1e-5,
        schedule="cosine",
        batch_size=32,
        epochs=epochs,
    )


def adamw(shots: int, dataset: str) -> Recipe:  # noqa: ARG001
    """AdamW at 1e-4 in batches of 256: ours, for fewer and larger steps than `coop`."""
    return Recipe(
        preset="adamw",
        optimiser="adamw",
        lr=1e-4,
        momentum=0.0,
        weight_decay=0.01,
        warmup_lr=None,
        schedule="cosine",
        batch_size=256,
        epochs=100,
    )


def paper(shots: int, dataset: str) -> Recipe:
    """As the CLIP-Adapter paper states it: lr 1e-5 throughout and 200 epochs; it barely moves from zero-shot."""
    return replace(coop(shots, dataset), preset="paper", lr=1e-5, warmup_lr=None, schedule="constant", epochs=200)


PRESETS: dict[str, Callable[[int, str], Recipe]] = {"coop": coop, "adamw": adamw, "paper": paper}


def make(preset: str, *, shots: int, dataset: str) -> Recipe:
    """The preset's recipe for a number of shots of a data set; raises UnknownNameError."""
    if preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    return PRESETS[preset](shots, dataset)

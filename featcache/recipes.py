"""How a trained method is optimised: named presets, every number with its source."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from featcache.errors import ConfigError, UnknownNameError

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "cosine-step", "constant")
LAST_BATCH = ("drop", "keep")
PRODUCTS = ("fp32", "tf32", "bf16")
PER_RUN = ("lr", "weight_decay", "momentum")
"""Fields that each run of a stack can have a value of its own of: a grid can search them."""
IMAGENET = "imagenet"
"""What recipes call ImageNet, under whatever name a store knows it (`loading.data_set`)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser, schedule and batches of one stack of runs."""

    preset: str
    """The preset this began as."""
    optimiser: str
    """`sgd`, `adam` or `adamw`."""
    lr: float
    """Peak learning rate."""
    momentum: float
    """SGD's momentum, at least 0 and below 1; Adam and AdamW ignore it."""
    weight_decay: float
    """At least 0: an L2 penalty under SGD and Adam, decoupled under AdamW."""
    eps: float = 1e-8
    """What Adam and AdamW add to the root of the second moment, above 0; SGD ignores it. Default: torch's."""
    warmup_lr: float | None
    """The first epoch's constant learning rate; None for no warm-up."""
    schedule: str
    """`cosine`, which falls by epoch; `cosine-step`, which falls by step; `constant`."""
    batch_size: int
    """Rows a step."""
    last_batch: str = "drop"
    """An epoch's last batch where it is smaller: `keep` makes it a step too; `drop` leaves it out, unless it is the
    only one, as Dassl does (data/data_manager.py: `drop_last=is_train and len(data_source) >= batch_size`)."""
    epochs: int
    """Passes over the draw; each shows every image one of its views."""
    products: str = "fp32"
    """How training multiplies matrices: `fp32`; `tf32` (10 bits of mantissa, CUDA); `bf16` (7 bits, a CPU with such
    instructions). Weights, sums and everything after training stay float32."""

    def __post_init__(self) -> None:
        for name, known in (
            ("optimiser", OPTIMISERS),
            ("schedule", SCHEDULES),
            ("last_batch", LAST_BATCH),
            ("products", PRODUCTS),
        ):
            if getattr(self, name) not in known:
                raise UnknownNameError(name.replace("_", " "), getattr(self, name), known)
        for name in ("lr", "eps"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name} is a positive number; got {getattr(self, name):g}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"weight_decay is a number of at least 0; got {self.weight_decay:g}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum is at least 0 and below 1; got {self.momentum:g}")
        if self.batch_size < 1 or self.epochs < 1:
            raise ConfigError(f"batch size and epochs are at least 1; got {self.batch_size} and {self.epochs}")

    @property
    def heeds(self) -> tuple[str, ...]:
        """Those of PER_RUN that change anything under this optimiser."""
        return tuple(name for name in PER_RUN if name != "momentum" or self.optimiser == "sgd")

    def lr_at(self, done: float, lr: float) -> float:
        """The learning rate after `done` epochs, counted in parts of one, for a run of peak `lr`.

        Dassl's ConstantWarmupScheduler over CosineAnnealingLR: the warm-up epoch does not advance the cosine.
        """
        if self.warmup_lr is not None and done < 1:
            return self.warmup_lr
        if self.schedule == "constant":
            return lr
        if self.schedule == "cosine":
            done = math.floor(done)
        if self.warmup_lr is not None:
            done -= 1
        return lr * 0.5 * (1 + math.cos(math.pi * done / self.epochs))


def coop(shots: int, dataset: str) -> Recipe:
    """CoOp's few-shot recipe, which CLIP-Adapter's code takes over (configs/trainers/CoOp/rn50*.yaml)."""
    # CoOp: 50 epochs at 1 shot, 100 at 2 and 4, 200 at 8 and 16; always 50 on ImageNet.
    epochs = 50 if shots == 1 or dataset == IMAGENET else 100 if shots <= 4 else 200
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


def tip_adapter_f(shots: int, dataset: str) -> Recipe:  # noqa: ARG001
    """Tip-Adapter-F's (gaopengcuhk/Tip-Adapter, main.py and configs/*.yaml): the same at all shots.

    AdamW with torch's weight decay, lr 0.001, eps 1e-4, a cosine by step, batches of 256 of which the last is kept
    (datasets/utils.py), 20 epochs. Not followed: their 100 epochs on EuroSAT, a number for one data set.
    """
    return Recipe(
        preset="tip-adapter-f",
        optimiser="adamw",
        lr=1e-3,
        momentum=0.0,
        weight_decay=0.01,
        eps=1e-4,
        warmup_lr=None,
        schedule="cosine-step",
        batch_size=256,
        last_batch="keep",
        epochs=20,
    )


def ape_t(shots: int, dataset: str) -> Recipe:
    """APE-T's (yangyangyang127/APE, main.py and configs/*.yaml): the same at all shots.

    AdamW with weight decay 0.1, lr 0.001, eps 1e-3, a cosine by step, batches of 256 of which the last is kept
    (datasets/utils.py), 30 epochs, as on most of their data sets; on ImageNet lr 0.0001 and 20 epochs. Not followed,
    for they are numbers for one data set each: 20 epochs on DTD, 60 on Flowers102, 200 on EuroSAT; lr 0.0001 on
    Food101, SUN397 and Pets; eps 0.002 on Pets and 0.01 on Food101 at 1 and 2 shots.
    """
    large = dataset == IMAGENET
    return replace(
        tip_adapter_f(shots, dataset),
        preset="ape-t",
        lr=1e-4 if large else 1e-3,
        weight_decay=0.1,
        eps=1e-3,
        epochs=20 if large else 30,
    )


def taskres(shots: int, dataset: str) -> Recipe:
    """TaskRes's (geekyutao/TaskRes, train_regular.sh and configs/trainers/TaskRes/*.yaml), for text of unit length.

    Theirs: Adam, lr 0.002 (ImageNet 0.0002), a warm-up epoch at 1e-5, a cosine by epoch, batches of 256, 100 epochs at
    1, 2 and 4 shots and 200 at 8 and 16; weight decay 5e-4 (an L2 penalty) and the dropped last batch are Dassl's
    defaults. Their text is about 10 long, ours 1, and logits hang on its direction alone. The same run in our unit
    has a tenth of each learning rate, 100 times the weight decay and 10 times the eps: a residual a tenth as long
    gets gradients ten times as large.
    """
    peak = 2e-4 if dataset == IMAGENET else 2e-3
    return Recipe(
        preset="taskres",
        optimiser="adam",
        lr=peak / 10,
        momentum=0.0,
        weight_decay=5e-4 * 100,
        eps=1e-8 * 10,
        warmup_lr=1e-5 / 10,
        schedule="cosine",
        batch_size=256,
        epochs=100 if shots <= 4 else 200,
    )


PRESETS: dict[str, Callable[[int, str], Recipe]] = {
    "coop": coop,
    "adamw": adamw,
    "paper": paper,
    "tip-adapter-f": tip_adapter_f,
    "ape-t": ape_t,
    "taskres": taskres,
}


def make(preset: str, *, shots: int, dataset: str) -> Recipe:
    """The preset's recipe for a number of shots of a data set, IMAGENET for ImageNet; raises UnknownNameError."""
    if preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    return PRESETS[preset](shots, dataset)

"""What a plan needs to know of a backbone, read off its model, its config and its checkpoint's bytes."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.backbones.clip import open_clip_module
from featcache.backbones.names import FOLDER, HUB, Choice
from featcache.errors import DataError
from featcache.store.spec import Tower, canonical_json

if TYPE_CHECKING:
    import torch

    from featcache.backbones.files import Files

_NAME_LENGTH = 48


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All that a plan needs to know of a backbone, without building it."""

    tower: Tower
    dim: int
    """D, the width of its embeddings."""
    size: int
    """Side of its square input, in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    logit_scale: float
    """Already exponentiated."""
    logit_bias: float


def identify(choice: Choice, files: Files, *, config: dict[str, Any], model: torch.nn.Module) -> Identity:
    """The identity of a built model. Raises DataError for one that featcache cannot feed or scale."""
    preprocess = open_clip_module().model.get_model_preprocess_cfg(model)
    return Identity(
        tower=Tower(
            architecture=_architecture(choice, config),
            activation="quickgelu" if config.get("quick_gelu") else "gelu",
            checkpoint=_sha256(files.checkpoint) if files.checkpoint else choice.weights,
            precision=choice.precision,
        ),
        dim=int(config["embed_dim"]),
        size=_side(choice, preprocess["size"]),
        mean=tuple(preprocess["mean"]),
        std=tuple(preprocess["std"]),
        interpolation=preprocess["interpolation"],
        logit_scale=_finite(choice, "logit_scale", model, default=0.0, turn=math.exp),
        logit_bias=_finite(choice, "logit_bias", model, default=0.0, turn=float),
    )


def _architecture(choice: Choice, config: dict[str, Any]) -> str:
    """open_clip's name; for a config that came with the weights, its repository's name and its digest.

    A name alone would not do there: the file behind it may change. The folder's own name is left out, so that a
    folder may be moved or renamed.
    """
    if not choice.has_config:
        return choice.architecture
    digest = hashlib.sha256(canonical_json(config).encode()).hexdigest()[:12]
    name = "local" if choice.architecture.startswith(FOLDER) else choice.architecture.removeprefix(HUB).split("/")[1]
    return f"{name[:_NAME_LENGTH]}-{digest}"


def _side(choice: Choice, size: Any) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise DataError(f"{choice.architecture} reads images of {size} pixels; featcache makes square ones only")
    return int(sides.pop())


def _finite(choice: Choice, name: str, model: Any, *, default: float, turn: Any) -> float:
    parameter = getattr(model, name, None)
    if parameter is None:
        return float(turn(default))
    try:
        value = float(turn(float(parameter)))
    except (OverflowError, ValueError):  # exp of more than 709; a tensor of several numbers
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"the {name} of {choice.architecture} in the weights {choice.weights} is no finite number; the checkpoint "
            "is damaged or from a diverged training"
        )
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Small random tasks and feature files with a signal in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.ops import normalise
from featcache.task import Task


def task(*, shots: int = 8, views: int = 3, classes: int = 5, dim: int = 32, seed: int = 0) -> Task:
    """A task whose classes are clusters around shifted text rows, so that adapting helps."""
    generator = torch.Generator().manual_seed(seed)
    text = normalise(torch.randn(classes, dim, generator=generator))
    shift = 0.7 * torch.randn(classes, dim, generator=generator) / dim**0.5
    label = torch.arange(classes).repeat_interleave(shots)
    noise = torch.randn(len(label), views, dim, generator=generator) / dim**0.5
    image = 3 * ((text + shift)[label][:, None] + 2.0 * noise)
    return Task(text=text, logit_scale=50.0, image=image, label=label)


def arrays(
    *, classes: int = 6, dim: int = 24, train: int = 20, val: int = 6, test: int = 15, seed: int = 0
) -> dict[str, NDArray[np.generic]]:
    """The arrays of an importable file; `train`, `val` and `test` count rows a class."""
    generator = np.random.default_rng(seed)
    text = generator.normal(size=(classes, dim)) / dim**0.5
    centre = text + 0.9 * generator.normal(size=(classes, dim)) / dim**0.5
    made: dict[str, NDArray[np.generic]] = {
        "text_features": text.astype(np.float32),
        "logit_scale": np.float32(40)[None],
    }
    for split, count in (("train", train), ("val", val), ("test", test)):
        if count:
            label = np.tile(np.arange(classes), count)
            noise = 0.8 * generator.normal(size=(len(label), dim)) / dim**0.5
            made[f"{split}_features"] = (centre[label] + noise).astype(np.float32)
            made[f"{split}_labels"] = label
    return made


def save(path: Path, values: dict[str, NDArray[np.generic]]) -> Path:
    """The file with these arrays."""
    np.savez(path, **values)
    return path

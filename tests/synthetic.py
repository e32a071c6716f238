"""Small random tasks and feature files with a signal in them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from featcache.backbones.clip import open_clip_module
from featcache.backbones.text_tower import TextTower
from featcache.ops import normalise
from featcache.task import Task

NAMES = ("dog", "fire engine", "sea star", "hot air balloon", "t-shirt")


def task(*, shots: int = 8, views: int = 3, classes: int = 5, dim: int = 32, seed: int = 0) -> Task:
    """A task whose classes are clusters around shifted text rows, so that adapting helps."""
    generator = torch.Generator().manual_seed(seed)
    text = normalise(torch.randn(classes, dim, generator=generator))
    shift = 0.7 * torch.randn(classes, dim, generator=generator) / dim**0.5
    label = torch.arange(classes).repeat_interleave(shots)
    noise = torch.randn(len(label), views, dim, generator=generator) / dim**0.5
    image = 3 * ((text + shift)[label][:, None] + 2.0 * noise)
    names = tuple(NAMES[:classes]) if classes <= len(NAMES) else tuple(f"thing {index}" for index in range(classes))
    return Task(text=text, logit_scale=50.0, image=image, label=label, names=names)


@cache
def tower(dim: int = 32) -> TextTower:
    """A small text tower of random weights, built as CLIP's are, with CLIP's tokenizer."""
    open_clip = open_clip_module()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = open_clip.model.CLIP(
            embed_dim=dim,
            vision_cfg={"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16},
            text_cfg={"context_length": 32, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2},
        )
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=32)
    return TextTower(model.eval().requires_grad_(False), tokenizer, "a small tower")


def task_with_tower() -> Task:
    """`task`, for a method that reads class names."""
    return replace(task(), tower=tower())


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

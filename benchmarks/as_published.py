"""One training of CoOp or CLIP-Adapter as published: every image decoded, cropped and encoded anew at every epoch.

    python benchmarks/as_published.py coop LIST      or clip_adapter; LIST is a file of pictures.drawn_list

Written plainly from the papers (arXiv 2109.01134 and 2110.04544) and the published settings; no code of theirs. What
they have in common: SGD at 0.002 with momentum 0.9 and weight decay 5e-4, a first epoch at 1e-5, a cosine by epoch,
batches of 32, random resized crops and flips, a DataLoader of 8 processes as CoOp's configs have it, here at most one a
core, started anew at each epoch. In float32: the authors' float16 is a GPU's.

CoOp: 16 learnt vectors before the class name, one context for all classes. A step encodes the batch's images, and every
class's sentence at the text tower's full length, forward and backward. So does each prediction, without the backward.
CLIP-Adapter: the two-layer bottleneck on the image embedding at alpha 0.2. A step encodes the batch's images. The text
weights are encoded once, as the paper has them frozen; the authors' code encodes them again at every step, which would
only make it slower.

The last line printed is JSON: accuracy on the list's test images, seconds, steps, trainable parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from featcache.backbones import Backbone
from featcache.devices import pick_device
from featcache.recipes import Recipe, coop

NUM_CONTEXT = 16
ALPHA = 0.2
TEST_BATCH = 100
"""As CoOp's configs have it."""
NUM_WORKERS = 8
"""As CoOp's configs have it."""


def main() -> None:
    asked = parsed()
    device = pick_device(asked.device)
    listed = json.loads(asked.list.read_text(encoding="utf-8"))
    torch.manual_seed(asked.init_seed)
    backbone = Backbone(asked.backbone, asked.weights)
    clip = backbone.model.to(device)
    model = METHODS[asked.method](clip, backbone.tokens, listed["classes"], listed["template"]).to(device)
    recipe = coop(asked.shots, "")
    recipe = replace(recipe, epochs=asked.epochs or recipe.epochs, batch_size=asked.batch_size)
    workers = min(NUM_WORKERS, num_cores())
    start = time.perf_counter()
    steps, waited = train(model, images(listed, "train", clip), recipe, workers=workers, device=device)
    trained = time.perf_counter()
    accuracy = test(model, images(listed, "test", clip), workers=workers, device=device)
    told = {
        "accuracy": accuracy,
        "num_params": sum(value.numel() for value in learnt(model)),
        "epochs": recipe.epochs,
        "steps": steps,
        "train_s": trained - start,
        "of which waiting for each epoch's first batch_s": waited,
        "test_s": time.perf_counter() - trained,
    }
    sys.stdout.write(json.dumps(told) + "\n")


class ListedImages(Dataset[tuple[Tensor, int]]):
    """Files decoded and transformed when asked for."""

    def __init__(self, root: Path, items: Sequence[tuple[str, int]], transform: Any) -> None:
        self.root, self.items, self.transform = root, items, transform

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.items[index]
        return self.transform(Image.open(self.root / path).convert("RGB")), label


def images(listed: dict[str, Any], split: str, clip: Any) -> ListedImages:
    """The list's train images under random crops, or its test images squashed to the tower's size."""
    return ListedImages(Path(listed["root"]), listed[split], transform_of(split, clip))


def transform_of(split: str, clip: Any) -> Any:
    """CoOp's of `train` (random resized crop, flip), or its first test transform (both sides squashed)."""
    visual, bicubic = clip.visual, transforms.InterpolationMode.BICUBIC
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    of_split = {
        "train": [
            transforms.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=bicubic),
            transforms.RandomHorizontalFlip(),
        ],
        "test": [transforms.Resize((size, size), interpolation=bicubic)],
    }
    normalise = transforms.Normalize(visual.image_mean, visual.image_std)
    return transforms.Compose([*of_split[split], transforms.ToTensor(), normalise])


class CoOp(nn.Module):
    """Learnt vectors before each class name; images and sentences both go through their towers at each call."""

    def __init__(self, clip: Any, tokenize: Any, names: Sequence[str], template: str) -> None:  # noqa: ARG002
        super().__init__()
        self.clip = clip
        tokens = tokenize([" ".join(["X"] * NUM_CONTEXT) + f" {name}." for name in names])
        weight = clip.token_embedding.weight
        words = F.embedding(tokens.to(weight.device), weight)  # (C, L, W)
        self.register_buffer("start", words[:, :1])
        self.register_buffer("rest", words[:, 1 + NUM_CONTEXT :])
        self.register_buffer("end", tokens.argmax(dim=1))
        self.context = nn.Parameter(0.02 * torch.randn(NUM_CONTEXT, words.shape[2]))

    def text(self) -> Tensor:
        """(C, D) unit rows, each sentence at the tower's full length."""
        clip = self.clip
        words = torch.cat([self.start, self.context.expand(len(self.start), -1, -1), self.rest], dim=1)  # (C, L, W)
        rows = clip.transformer(words + clip.positional_embedding, attn_mask=clip.attn_mask)
        rows = clip.ln_final(rows)[torch.arange(len(rows), device=rows.device), self.end]  # (C, W)
        return F.normalize(rows @ clip.text_projection, dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, C) logits of pixels (b, 3, size, size)."""
        unit = F.normalize(self.clip.encode_image(pixels), dim=1)
        return self.clip.logit_scale.exp() * unit @ self.text().T


class ClipAdapter(nn.Module):
    """A bottleneck on the image embedding, blended with it; images go through their tower at each call."""

    def __init__(self, clip: Any, tokenize: Any, names: Sequence[str], template: str) -> None:
        super().__init__()
        self.clip = clip
        with torch.no_grad():
            tokens = tokenize([template.format(name) for name in names])
            text = clip.encode_text(tokens.to(clip.logit_scale.device), normalize=True)
        self.register_buffer("text", text)
        dim = text.shape[1]
        self.adapter = nn.Sequential(
            nn.Linear(dim, dim // 4, bias=False),
            nn.ReLU(),
            nn.Linear(dim // 4, dim, bias=False),
            nn.ReLU(),
        )

    def logits(self, image: Tensor) -> Tensor:
        """(b, C) of raw image embeddings (b, D)."""
        unit = F.normalize(ALPHA * self.adapter(image) + (1 - ALPHA) * image, dim=1)
        return self.clip.logit_scale.exp() * unit @ self.text.T

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, C) logits of pixels (b, 3, size, size)."""
        return self.logits(self.clip.encode_image(pixels))


METHODS = {"coop": CoOp, "clip_adapter": ClipAdapter}


def learnt(model: nn.Module) -> list[nn.Parameter]:
    """What training moves: the towers are frozen."""
    return [value for value in model.parameters() if value.requires_grad]


def train(
    model: nn.Module, data: ListedImages, recipe: Recipe, *, workers: int, device: torch.device
) -> tuple[int, float]:
    """The number of steps taken, and the seconds spent waiting for the first batch of each epoch."""
    optimiser = torch.optim.SGD(learnt(model), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    pinned = device.type == "cuda"
    loader = DataLoader(
        data,
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=len(data) >= recipe.batch_size,
        num_workers=workers,
        pin_memory=pinned,
    )
    steps, waited = 0, 0.0
    for epoch in range(recipe.epochs):
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr_at(epoch, recipe.lr)
        start = time.perf_counter()
        for step, (pixels, label) in enumerate(loader):
            waited += time.perf_counter() - start if step == 0 else 0.0
            loss = F.cross_entropy(model(pixels.to(device, non_blocking=pinned)), label.to(device))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps += 1
    return steps, waited


@torch.no_grad()
def test(model: nn.Module, data: ListedImages, *, workers: int, device: torch.device) -> float:
    """The share of images whose highest logit is their class."""
    right = sum(
        int((model(pixels.to(device)).argmax(dim=1).cpu() == label).sum())
        for pixels, label in DataLoader(data, batch_size=TEST_BATCH, num_workers=workers)
    )
    return right / len(data)


def num_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parsed() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("method", choices=METHODS)
    made.add_argument("list", type=Path)
    made.add_argument("--backbone", default="tiny")
    made.add_argument("--weights")
    made.add_argument("--shots", type=int, default=16, help="the list's; the number of epochs hangs on it")
    made.add_argument("--epochs", type=int, help="in place of CoOp's: 200 at 16 shots")
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--init-seed", type=int, default=1)
    made.add_argument("--device", default="auto")
    return made.parse_args()


if __name__ == "__main__":
    main()

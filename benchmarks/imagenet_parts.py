"""What a step costs on ImageNet with RN50, part by part; coop.py multiplies it out to 16 shots and 50 epochs.

    python benchmarks/imagenet_parts.py PART[,PART ..]      run by coop.py, each part in a process of its own

RN50 has random weights (its arithmetic is the same), images are JPEG files made here, and the text tower sees some of
the 1000 classes: a sentence costs the same whatever the others, so its time is multiplied. The last line printed is
JSON, by part: the seconds of each repeat, for how many images, sentences or steps they are, and the process's peak
memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import as_published
import common
import torch
import torch.nn.functional as F
from pictures import jpeg_files
from torch import Tensor

from featcache import registry
from featcache.backbones import Backbone
from featcache.backbones.text_tower import TextTower
from featcache.datasets import FileReader
from featcache.ops import normalise
from featcache.recipes import Recipe, coop
from featcache.task import Method, Task
from featcache.training import Run, train
from featcache.views import Transform, view

CLASSES, DIM, SHOTS, EPOCHS = 1000, 1024, 16, 50
STEPS = EPOCHS * (CLASSES * SHOTS // 32)
ALPHAS = tuple(index / 10 for index in range(11))
TEXTS_AT_ONCE = 256
Part = Callable[[argparse.Namespace], tuple[list[float], int]]


def main() -> None:
    asked = parsed()
    told = {}
    for part in asked.parts.split(","):
        torch.manual_seed(0)
        seconds, count = PARTS[part](asked)
        told[part] = {"seconds": seconds, "count": count, "peak_mb": peak_mb(asked.device)}
    sys.stdout.write(json.dumps(told) + "\n")


def image(asked: argparse.Namespace) -> tuple[list[float], int]:
    """The image tower on a batch of ready tensors, as published code has it."""
    return of_tower(asked, asked.batch_size)


def one_image(asked: argparse.Namespace) -> tuple[list[float], int]:
    """The same on a single image."""
    return of_tower(asked, 1)


def encode(asked: argparse.Namespace) -> tuple[list[float], int]:
    """The same as featcache's extraction has it: channels last, batches of 64."""
    model = random_rn50().model.to(asked.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.randn(2 * asked.batch_size, 224, 224, 3, device=asked.device).permute(0, 3, 1, 2)
    return repeated(lambda: encoded(model, pixels), asked), len(pixels)


def text(asked: argparse.Namespace) -> tuple[list[float], int]:
    """CoOp's text side as published, forward and backward, on ready image embeddings."""
    model = published("coop", asked)
    unit, label = normalise(torch.randn(asked.batch_size, DIM, device=asked.device)), labels(asked)

    def step() -> None:
        logits = model.clip.logit_scale.exp() * unit @ model.text().T
        F.cross_entropy(logits, label).backward()

    return repeated(step, asked), asked.classes


def text_inference(asked: argparse.Namespace) -> tuple[list[float], int]:
    """CoOp's text side as published, forward alone: what each prediction does."""
    model = published("coop", asked)
    return repeated(torch.no_grad()(model.text), asked), asked.classes


def text_cached(asked: argparse.Namespace) -> tuple[list[float], int]:
    """A step of featcache's CoOp on cached image embeddings."""
    backbone = random_rn50()
    tower = TextTower(backbone.model.to(asked.device), backbone.tokens, "RN50")
    task = replace(ready_task(asked, asked.batch_size, asked.classes), tower=tower)
    runs = [run_of(registry.load("coop")())]
    return repeated(lambda: train(runs, [task], one_epoch(asked)), asked), asked.classes


def prompts(asked: argparse.Namespace) -> tuple[list[float], int]:
    """featcache's text side: each class's sentence encoded once."""
    backbone = random_rn50()
    sentences = [f"a photo of a {name}." for name in class_names(min(asked.classes, TEXTS_AT_ONCE))]
    return repeated(lambda: backbone.encode_texts(sentences, asked.device), asked), len(sentences)


def head(asked: argparse.Namespace) -> tuple[list[float], int]:
    """CLIP-Adapter's step as published, on ready image embeddings, all 1000 classes."""
    model = published("clip_adapter", asked, CLASSES)
    rows, label = torch.randn(asked.batch_size, DIM, device=asked.device), labels(asked)
    optimiser = torch.optim.SGD(as_published.learnt(model), lr=0.002, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(model.logits(rows), label).backward()
        optimiser.step()

    return repeated(step, asked), 1


def grid(asked: argparse.Namespace) -> tuple[list[float], int]:
    """Steps of the 11-alpha grid on cached embeddings, all 1000 classes."""
    kind: Any = registry.load("clip_adapter")
    task = ready_task(asked, asked.batch_size * asked.steps, CLASSES)
    runs = [run_of(kind(alpha=alpha)) for alpha in ALPHAS]
    return repeated(lambda: train(runs, [task], one_epoch(asked)), asked), asked.steps


def decode(asked: argparse.Namespace) -> tuple[list[float], int]:
    """Processor seconds of decoding an image and cropping it once, as published."""
    with tempfile.TemporaryDirectory() as place:
        items = [(name, 0) for name in jpeg_files(Path(place), "ImageNet-sized", asked.images)]
        data = as_published.ListedImages(Path(place), items, as_published.transform_of("train", random_rn50().model))
        return of_one_core(lambda: [data[index] for index in range(len(items))], asked), asked.images


def decode_views(asked: argparse.Namespace) -> tuple[list[float], int]:
    """Processor seconds of featcache's decoding an image once and drawing view 0 and ten others."""
    identity = random_rn50().identity
    transform = Transform(style="coop", size=identity.size, mean=identity.mean, std=identity.std)
    with tempfile.TemporaryDirectory() as place:
        names, reader = jpeg_files(Path(place), "ImageNet-sized", asked.images), FileReader(Path(place))

        def draw_all() -> None:
            for name in names:
                decoded, _ = reader.read(name)
                for number in range(11):
                    view(decoded, transform, number=number, path=name, seed=0)

        return of_one_core(draw_all, asked), asked.images


PARTS: dict[str, Part] = {
    "image": image,
    "one_image": one_image,
    "encode": encode,
    "text": text,
    "text_inference": text_inference,
    "text_cached": text_cached,
    "prompts": prompts,
    "head": head,
    "grid": grid,
    "decode": decode,
    "decode_views": decode_views,
}


@cache
def random_rn50() -> Backbone:
    """RN50 with random weights: the arithmetic, and nothing learnt."""
    return Backbone("RN50", "random:0")


def class_names(count: int) -> list[str]:
    """Names of two words, about as long in tokens as ImageNet's."""
    return [f"thing number {index}" for index in range(count)]


def published(method: str, asked: argparse.Namespace, num_classes: int | None = None) -> Any:
    backbone = random_rn50()
    names = class_names(num_classes or asked.classes)
    if method == "coop":
        made = as_published.CoOp(backbone.model, backbone.tokens, names, "")
    else:
        # Its text stays as it is, so what it is does not matter, and encoding it is measured elsewhere.
        made = as_published.ClipAdapter(backbone.model, backbone.tokens, names[:1], "{}")
        made.text = normalise(torch.randn(len(names), DIM))
    return made.to(asked.device)


def of_tower(asked: argparse.Namespace, num_images: int) -> tuple[list[float], int]:
    """The image tower on ready tensors, its weights as they were built."""
    model = random_rn50().model.to(asked.device)
    pixels = torch.randn(num_images, 3, 224, 224, device=asked.device)
    return repeated(lambda: encoded(model, pixels), asked), num_images


def encoded(model: Any, pixels: Tensor) -> Tensor:
    """(b, D) of the image tower."""
    with torch.inference_mode():
        return model.encode_image(pixels)


def labels(asked: argparse.Namespace) -> Tensor:
    """(b,) any labels."""
    return torch.arange(asked.batch_size, device=asked.device) % asked.classes


def ready_task(asked: argparse.Namespace, num_images: int, num_classes: int) -> Task:
    """Cached embeddings, random: what they hold changes no time."""
    device = asked.device
    return Task(
        text=normalise(torch.randn(num_classes, DIM)).to(device),
        logit_scale=100.0,
        names=tuple(class_names(num_classes)),
        image=torch.randn(num_images, 1, DIM).to(device),
        label=(torch.arange(num_images) % num_classes).to(device),
    )


def run_of(method: Method) -> Run:
    return Run(method=method, lr=0.002, draw=0, init_seed=1)


def one_epoch(asked: argparse.Namespace) -> Recipe:
    return replace(coop(SHOTS, "imagenet"), epochs=1, batch_size=asked.batch_size)


def repeated(work: Callable[[], Any], asked: argparse.Namespace) -> list[float]:
    """Seconds of each repeat, after one that does not count."""
    seconds, _ = common.turns({"": work}, asked.repeats, asked.device)
    return seconds[""]


def of_one_core(work: Callable[[], Any], asked: argparse.Namespace) -> list[float]:
    """Processor seconds of each repeat on one thread, after one that does not count."""
    torch.set_num_threads(1)
    seconds = []
    for _ in range(1 + asked.repeats):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return seconds[1:]


def peak_mb(device: torch.device) -> float:
    """The most memory held at once: the GPU's on a GPU, as the paper counts it, else the process's."""
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else common.peak_bytes()
    return round(peak / 2**20, 1)


def parsed() -> argparse.Namespace:
    made = common.parser(__doc__ or "")
    common.add_repeats(made, 3)
    common.add_device(made)
    made.add_argument("parts", help=f"some of {', '.join(PARTS)}, by commas")
    made.add_argument("--classes", type=int, default=100, help="sentences through the text tower")
    made.add_argument("--steps", type=int, default=20, help="steps of the grid")
    made.add_argument("--images", type=int, default=48, help="JPEG files decoded")
    made.add_argument("--batch-size", type=int, default=32)
    return common.options(made)


if __name__ == "__main__":
    main()

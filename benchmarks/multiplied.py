"""ImageNet's rows of Table 1: what imagenet_parts.py measures of RN50, multiplied out. coop.py's header says how."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import common
from as_published import num_cores
from imagenet_parts import CLASSES, DIM, PARTS, SHOTS, STEPS

HERE = Path(__file__).parent
COOP, CACHED = "CoOp, as published", "CoOp, on cached images"
ADAPTER, GRID = "CLIP-Adapter, as published, alpha 0.2", "featcache, extraction and 11 alphas"
COLUMNS = ("method", "trained numbers", "training, s", "peak memory, MB", "inference, ms an image", "accuracy %")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is run."""

    epochs: int | None
    """None: CoOp's own 200."""
    num_classes: int | None
    """Classes of shapes; None: all."""
    most: int | None
    """Images a class in each split; None: all."""
    shots: int
    views: int
    text_classes: tuple[int, int]
    """Sentences through RN50's text tower: the second is timed, and the two together tell how memory grows."""
    steps: int
    images: int
    batch_size: int


def imagenet(asked: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Parts measured, and what they come to."""
    few, many = size.text_classes
    measured, smaller = of_parts(tuple(PARTS), many, asked, size), of_parts(("text", "text_cached"), few, asked, size)
    each = {part: median(told["seconds"]) / told["count"] for part, told in measured.items()}
    cores = num_cores()
    together = max if asked.device.type == "cuda" else in_turn
    rows = multiplied(each, cores=cores, batch_size=size.batch_size, together=together)
    for name, part in ((COOP, "text"), (CACHED, "text_cached")):
        grown = (measured[part]["peak_mb"] - smaller[part]["peak_mb"]) / (many - few)
        rows[name]["peak_mb"] = round(measured[part]["peak_mb"] + grown * (CLASSES - many), 1)
    rows["zero-shot"]["peak_mb"] = measured["image"]["peak_mb"]
    rows[ADAPTER]["peak_mb"] = max(measured[part]["peak_mb"] for part in ("image", "head"))
    rows[GRID]["peak_mb"] = max(measured[part]["peak_mb"] for part in ("encode", "grid", "prompts"))
    coop, grid = rows[COOP]["seconds"], rows[GRID]["seconds"]
    test = together(50_000 * each["encode"], 50_000 * each["decode"] / cores)
    return {
        "weights": "random: measured per step and multiplied out, nothing is learnt and no accuracy is told",
        "parts": {
            part: {"seconds": common.summary(told["seconds"]), "count": told["count"], "peak_mb": told["peak_mb"]}
            for part, told in measured.items()
        },
        "seconds each, of an image, a sentence or a step": {
            part: common.three_digits(value) for part, value in each.items()
        },
        "rows": rows,
        "times less than CoOp as published": common.three_digits(coop / grid),
        "times less with the 50,000 test images encoded on both sides": common.three_digits(
            (coop + test) / (grid + test)
        ),
    }


def of_parts(parts: Sequence[str], num_classes: int, asked: argparse.Namespace, size: Size) -> dict[str, Any]:
    """What is told of each part, measured in a process of its own, so that the memory is its own."""
    words = ["--repeats", str(asked.repeats), "--device", asked.device.type, "--classes", str(num_classes)]
    words += ["--steps", str(size.steps), "--images", str(size.images), "--batch-size", str(size.batch_size)]
    groups = [",".join(parts)] if asked.least else parts
    return {
        part: told for group in groups for part, told in common.apart(HERE / "imagenet_parts.py", group, *words).items()
    }


def in_turn(towers: float, loading: float) -> float:
    """Seconds of both where they share the cores; on a GPU the longer hides the other."""
    return towers + loading


def multiplied(
    each: dict[str, float], *, cores: int, batch_size: int, together: Callable[[float, float], float]
) -> dict[str, dict[str, Any]]:
    """The rows of ImageNet at 16 shots from the seconds of one image, sentence or step."""
    image_step, loading_step = batch_size * each["image"], batch_size * each["decode"] / cores
    text_step = CLASSES * each["text"]
    images = CLASSES * (SHOTS + 4)
    towers, loading = images * 11 * each["encode"], images * each["decode_views"] / cores
    extraction = together(towers, loading) + CLASSES * each["prompts"]
    one_image, texts = 1000 * each["one_image"], 1000 * CLASSES * each["text_inference"]
    seconds = {
        "zero-shot": (0, 0.0, one_image),
        "linear probe": (DIM * CLASSES + CLASSES, None, one_image),
        COOP: (16 * 512, STEPS * together(image_step + text_step, loading_step), one_image + texts),
        CACHED: (16 * 512, extraction + CLASSES * STEPS * each["text_cached"], one_image),
        ADAPTER: (DIM * DIM // 2, STEPS * together(image_step + each["head"], loading_step), one_image),
        GRID: (DIM * DIM // 2, extraction + STEPS * each["grid"], one_image),
    }
    rows: dict[str, dict[str, Any]] = {
        name: {
            "num_params": num_params,
            "seconds": None if total is None else common.three_digits(total),
            "inference_ms": common.three_digits(inference),
            "peak_mb": None,
        }
        for name, (num_params, total, inference) in seconds.items()
    }
    rows[GRID] |= {
        "of which extraction_s": common.three_digits(extraction),
        "of which grid_s": common.three_digits(STEPS * each["grid"]),
    }
    return rows


def show_imagenet(result: dict[str, Any]) -> None:
    cells = [
        (
            name,
            f"{row['num_params']:,}",
            "-" if row["seconds"] is None else f"{row['seconds']:,.0f}",
            "-" if row["peak_mb"] is None else f"{row['peak_mb']:,.0f}",
            f"{row['inference_ms']:,.1f}",
            "-",
        )
        for name, row in result["rows"].items()
    ]
    common.show(COLUMNS, cells, f"RN50, ImageNet 16-shot; {result['weights']}")
    for name, value in result.items():
        if name.startswith("times"):
            common.say(f"{name}: {value:g}")

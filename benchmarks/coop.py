"""Claim: a whole search of alpha costs a small part of one CoOp training, at equal or better accuracy.

    python benchmarks/coop.py --write             [--short] [--only tiny|imagenet]

The columns of the CLIP-Adapter paper's Table 1 (arXiv 2110.04544): trainable parameters, training time, peak memory,
inference per image, accuracy; for zero-shot, linear probe, CoOp and CLIP-Adapter as published (as_published.py: images
decoded, cropped and encoded at every epoch, CoOp's sentences through the text tower at every step), CoOp on cached
image embeddings (adapters/coop.py), and featcache's extraction and whole grid of 11 alphas.

tiny: `shapes` written to PNG files, one draw of 16 shots, batches of 32, CoOp's 200 epochs; all is run. Each row is
processes timed from outside, so imports and the test images are in its time, and whoever fits on cached embeddings has
the extraction's time added. The rows take turns, --repeats times. The inference column is measured one image at a time
on ready tensors, in one process in turns: CoOp as published encodes every class's sentence again for each image.
imagenet: RN50 with random weights, measured per step (imagenet_parts.py) and multiplied out to ImageNet at 16 shots:
25,000 steps for the published ones; for featcache 20,000 images (16 shots, and 4 a class held out to choose on) in 11
views, and a step of the grid times 25,000. No accuracy: nothing is learnt. The linear probe's time is left blank, for
the number of its iterations hangs on what embeddings hold. Decoding is shared by all cores, and on a CPU takes turns
with the towers; on a GPU it runs beside them.

Peak memory is that of the largest main process, loading processes apart; of imagenet's CoOp it is drawn on in a line
from two numbers of classes. Speed is claimed only at equal or better accuracy: where CoOp's is higher, both are printed
and the ratio is withheld.

Targets: extraction and grid at least 8x less than CoOp as published with tiny; at least 80x multiplied out.
What was found: docs/performance.md.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import common
import processes
from multiplied import ADAPTER, CACHED, COLUMNS, COOP, GRID, Size, imagenet, show_imagenet
from pictures import Pictures, drawn_list, shapes_files
from processes import Done, found

HERE = Path(__file__).parent
TARGET = 8
OF_PAPER = {
    "zero-shot": (0, "0", 2227, 10.22, 55.41),
    "linear probe": (1.02e6, "13 min", None, None, 53.44),
    "CoOp": (0.01e6, "14 h 40 min", 7193, 299.64, 60.46),
    "CLIP-Adapter": (0.52e6, "50 min", 2227, 10.59, 61.33),
}
"""Table 1: ImageNet, 16 shots, RN50, one A100: trained numbers, training, MiB, ms an image, accuracy."""


FULL = Size(
    epochs=None, num_classes=None, most=None, shots=16, views=10, text_classes=(50, 100), steps=100, images=48,
    batch_size=32,
)  # fmt: skip
SHORT = Size(
    epochs=5, num_classes=None, most=20, shots=16, views=2, text_classes=(10, 20), steps=20, images=16, batch_size=32
)
LEAST = Size(epochs=1, num_classes=3, most=4, shots=2, views=1, text_classes=(2, 4), steps=1, images=2, batch_size=2)


def main() -> None:
    made = common.parser(__doc__ or "")
    common.add_repeats(made, 3)
    common.add_device(made)
    made.add_argument("--only", choices=("tiny", "imagenet"))
    made.add_argument(
        "--least", action="store_true", help="run through as little as possible; the figures mean nothing"
    )
    asked = common.options(made)
    size = LEAST if asked.least else SHORT if asked.short else FULL
    result: dict[str, Any] = {}
    with common.observed(asked.device) as machine:
        if asked.only != "imagenet":
            result["tiny"] = tiny(asked, size)
        if asked.only != "tiny":
            result["imagenet"] = imagenet(asked, size)
    tell(result)
    common.judge(verdicts(result))
    for told in result.values():
        told |= {"machine": machine, "commit": common.commit(), "repeats": asked.repeats}
    held = {part: told for part, told in common.written(asked, "coop").items() if part in ("tiny", "imagenet")}
    common.write(asked, "coop", {**held, **result, "paper": OF_PAPER, **machine})


def tiny(asked: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Every row, run in full; seconds are summaries over turns."""
    turns: list[dict[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pictures = shapes_files(place, num_classes=size.num_classes, most=size.most)
        listed = drawn_list(place, pictures.manifest(), pictures.root, shots=size.shots, shot_seed=1)
        for turn in range(asked.repeats):
            home = place / f"home{turn}"
            turns.append({**cached_rows(asked, size, pictures, home), **published_rows(asked, size, listed, home)})
        inference = common.apart(HERE / "inference.py", str(listed), "--repeats", "3" if asked.least else "50",
                                 "--device", asked.device.type)  # fmt: skip
    rows = {}
    for name, row in turns[0].items():
        seconds = [turn[name]["seconds"] for turn in turns]
        peaks = [turn[name]["peak_mb"] for turn in turns if turn[name]["peak_mb"] is not None]
        rows[name] = {
            **row,
            "seconds": common.summary(seconds),
            "accuracies of each turn": [turn[name]["accuracy"] for turn in turns],
            "peak_mb": max(peaks, default=None),
            "inference_ms": inference[row["inference"]],
        }
    same_draw = [turn[GRID]["seconds"] for turn in turns], [turn[COOP]["seconds"] for turn in turns]
    return {
        "data": {"epochs": size.epochs or 200, "shots": size.shots, "views": size.views, "most": size.most},
        "rows": rows,
        **claim(rows, common.ratios(same_draw[1], same_draw[0])),
    }


def claim(rows: dict[str, Any], ratio: dict[str, float]) -> dict[str, Any]:
    """How many times less than CoOp the grid takes; withheld where CoOp is the better one."""
    ours, theirs = (rows[name]["accuracy"] for name in (GRID, COOP))
    if theirs > ours:
        return {"no speed is claimed": f"CoOp's accuracy is higher: {100 * theirs:.2f} against {100 * ours:.2f} %"}
    return {"times less than CoOp as published": ratio}


def cached_rows(asked: argparse.Namespace, size: Size, pictures: Pictures, home: Path) -> dict[str, dict[str, Any]]:
    """The rows that fit on cached embeddings: one extraction, and a process for each method."""
    device = ("--device", asked.device.type)
    extraction = processes.featcache(
        home, "extract", "--dataset", pictures.dataset, "--backbone", "tiny", "--classnames", str(pictures.classnames),
        "--template", pictures.manifest().template, "--shots", str(size.shots), "--seeds", "1",
        "--views", str(size.views), *device,
    )  # fmt: skip
    epochs = ("--epochs", str(size.epochs)) if size.epochs else ()

    def fitted(adapter: str, *more: str) -> Done:
        return processes.featcache(home, "fit", "--adapter", adapter, "--json", *device, *more)

    probe, zero_shot = fitted("linear_probe"), fitted("zero_shot")
    coop, grid = fitted("coop", *epochs), fitted("clip_adapter", "--alpha-grid", "0:1:0.1", *epochs)
    num_classes = len(pictures.manifest().classes)
    rows = {
        "zero-shot": _cached(zero_shot, extraction, "stored text", num_params=0),
        "linear probe": _cached(probe, extraction, "stored text", num_params=129 * num_classes),  # a bias each
        CACHED: _cached(coop, extraction, "stored text"),
        GRID: _cached(grid, extraction, "adapter"),
    }
    rows["zero-shot"]["seconds"] = 0.0  # nothing is trained
    return rows


def _cached(done: Done, extraction: Done, inference: str, num_params: int | None = None) -> dict[str, Any]:
    made = found(done)
    return {
        "num_params": made.num_params if num_params is None else num_params,
        "seconds": extraction.seconds + done.seconds,
        "of which extraction_s": extraction.seconds,
        "peak_mb": _largest(extraction, done),
        "inference": inference,
        "accuracy": made.accuracy,
        "chosen": made.chosen,
    }


def published_rows(asked: argparse.Namespace, size: Size, listed: Path, home: Path) -> dict[str, dict[str, Any]]:
    """The rows as published, each a script of its own."""
    words = ["--shots", str(size.shots), "--device", asked.device.type, "--batch-size", str(size.batch_size)]
    words += ["--epochs", str(size.epochs)] if size.epochs else []
    rows = {}
    for name, method, inference in (
        (COOP, "coop", "both towers"),
        (ADAPTER, "clip_adapter", "adapter"),
    ):
        done = processes.script("as_published.py", method, str(listed), *words, home=home / method)
        told = processes.last_json(done)
        rows[name] = {
            **told,
            "seconds": done.seconds,
            "peak_mb": _largest(done),
            "inference": inference,
        }
    return rows


def _largest(*done: Done) -> float | None:
    return max((each.peak_mb for each in done if each.peak_mb is not None), default=None)


def verdicts(result: dict[str, Any]) -> list[common.Verdict]:
    """Of tiny in full; RN50's is whole_process.py's."""
    if "tiny" not in result:
        return []
    ratio = result["tiny"].get("times less than CoOp as published")
    cell = f"{common.spread(ratio)}x" if ratio else result["tiny"]["no speed is claimed"]
    reached = bool(ratio) and ratio["median"] >= TARGET
    return [common.Verdict(f"tiny: extraction and grid at least {TARGET}x less than CoOp as published", cell, reached)]


def tell(result: dict[str, Any]) -> None:
    """Both tables, as far as they were measured."""
    if "tiny" in result:
        show_tiny(result["tiny"])
    if "imagenet" in result:
        show_imagenet(result["imagenet"])


def show_tiny(result: dict[str, Any]) -> None:
    cells = [
        (
            name,
            f"{row['num_params']:,}",
            common.spread(row["seconds"]),
            "-" if row["peak_mb"] is None else f"{row['peak_mb']:,.0f}",
            common.spread(row["inference_ms"]),
            f"{100 * row['accuracy']:.2f}",
        )
        for name, row in result["rows"].items()
    ]
    data = result["data"]
    common.show(COLUMNS, cells, f"tiny on shapes, {data['shots']} shots, {data['epochs']} epochs, one draw")
    for name, value in result.items():
        if name.startswith(("times", "no speed")):
            common.say(f"{name}: {value if isinstance(value, str) else common.spread(value)}")


if __name__ == "__main__":
    main()

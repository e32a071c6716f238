"""Claim: neither planning, nor extraction, nor verification takes more memory for more images.

    python benchmarks/extract_memory.py [--rows 1000,10000,100000,1000000] [--layout virtual] [--write [FILE]] [--short]

Each number of training images, and a tenth as many test images, is extracted, then verified, each in a process of its
own, from a source that draws flat 8 x 8 images, through an encoder that projects an image's mean colour to 16 numbers:
neither decoding nor encoding is what is measured. The usual 15 draws are made, and all images are encoded
(`--all-train`), by two decoding processes. The memory told is anonymous memory, sampled twenty times a second: what a
process has taken for itself, without the pages of files, which the system takes back as it likes.

`plan` is the most that reading the list, drawing the shots and making the plan take, `list` what is held once the plan
is made and nothing is encoded; the lists themselves lie on disk. `above it` is how much more extraction takes at its
peak.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import common
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from featcache.backbones import Identity
from featcache.datasets.manifest import Manifest, SourceInfo, source_info, split_of
from featcache.store.spec import Tower

DIM = 16
SIZES = (1000, 10_000, 100_000, 1_000_000)
SHORT = (1000, 10_000)


@dataclass(frozen=True)
class FlatReader:
    """Images of one colour, told by the path."""

    upright: ClassVar[bool] = False
    place: ClassVar[str] = ""

    def read_bytes(self, path: str) -> bytes:
        """The colour."""
        return path.encode()

    def read(self, path: str) -> tuple[Image.Image, SourceInfo]:
        """The image."""
        number = int(path.removesuffix(".png"))
        colour = (number % 251, number // 251 % 251, number // 63001 % 251)
        return Image.new("RGB", (8, 8), colour), source_info(path.encode())


class MeanColour:
    """Stands in for a backbone: an image's mean colour, and a sentence's length, as DIM numbers."""

    name = "mean-colour"
    weights = "none"
    identity = Identity(
        tower=Tower(architecture="mean-colour", activation="none", checkpoint="none", precision="fp32"),
        dim=DIM,
        size=8,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        logit_scale=1.0,
        logit_bias=0.0,
    )

    def __init__(self) -> None:
        self.model = nn.Identity()
        self._map = torch.randn(3, DIM, generator=torch.Generator().manual_seed(0))

    def tokens(self, sentences: Any) -> Tensor:
        """Nothing that matters."""
        return torch.zeros(len(sentences), 1)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(b, 3, 8, 8) -> (b, DIM)"""
        return pixels.mean(dim=(2, 3)) @ self._map

    def encode_texts(self, sentences: Any, _: torch.device) -> NDArray[np.float32]:
        """(T, DIM)"""
        made: NDArray[np.float32] = (self._map[0] * torch.tensor([[len(text)] for text in sentences])).numpy()
        return made


def manifest(rows: int) -> Manifest:
    """A data set of `rows` training images, and a tenth as many of test."""
    splits = {
        "train": split_of((f"{row:09d}.png", row % 10) for row in range(rows)),
        "test": split_of((f"{row:09d}.png", row % 10) for row in range(rows, rows + rows // 10)),
    }
    classes = tuple(f"colour {index}" for index in range(10))
    return Manifest(name="flat", classes=classes, template="{}", splits=splits, source="made here", reader=FlatReader())


def extract(rows: int, layout: str) -> dict[str, float]:
    """What an extraction of `rows` images in this process takes."""
    from featcache.extraction import Request, carry_out, make_plan
    from featcache.extraction.encode import Machine

    backbone: Any = MeanColour()
    request = Request(num_views=0, all_train=True, layout=layout, name="flat")
    before = held_mb()
    with sampled() as planning:
        plan = make_plan(manifest(rows), backbone.identity, request)
    known = held_mb()
    machine = Machine(device=torch.device("cpu"), batch_size=256, workers=2)
    start = time.perf_counter()
    with sampled() as peak:
        carry_out(plan, backbone, machine, provenance={}, progress=lambda _: None)
    return {
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
        "plan_mb": round(planning[0] - before, 1),
        "list_mb": round(known - before, 1),
        "above_mb": round(peak[0] - known, 1),
    }


def verify(rows: int) -> dict[str, float]:
    """What `cache verify` takes of the store that `extract` made."""
    from featcache.store import Store
    from featcache.store.damage import find_damage
    from featcache.store.places import resolve

    before, start = held_mb(), time.perf_counter()
    with sampled() as peak, Store(resolve("flat")) as store:
        damage = find_damage(store)
        assert (store.num_rows("train"), store.num_rows("test")) == (rows, rows // 10)
    if damage.problems:
        raise SystemExit(f"the store is damaged: {damage.problems}")
    seconds = time.perf_counter() - start
    return {"rows": rows, "seconds": round(seconds, 1), "above_mb": round(peak[0] - before, 1)}


def held_mb() -> float:
    """This process's anonymous memory now."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


@contextmanager
def sampled() -> Iterator[list[float]]:
    """The most that `held_mb` comes to inside, in a list of one."""
    peak, over = [held_mb()], threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            peak[0] = max(peak[0], held_mb())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
        peak[0] = max(peak[0], held_mb())


def main() -> None:
    parser = common.parser(__doc__ or "")
    parser.add_argument("--rows", help="numbers of rows, by commas")
    parser.add_argument("--layout", default="whole", help="whole or virtual")
    asked = common.options(parser)
    sizes = [int(text) for text in asked.rows.split(",")] if asked.rows else SHORT if asked.short else SIZES
    figures: dict[str, list[dict[str, float]]] = {"extract": [], "verify": []}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as home:
            os.environ["FEATCACHE_HOME"] = home
            figures["extract"].append(common.apart(__file__, "--one", "extract", str(rows), asked.layout))
            figures["verify"].append(common.apart(__file__, "--one", "verify", str(rows)))
        common.say(f"{rows:,} rows: extract {figures['extract'][-1]}, verify {figures['verify'][-1]}")
    common.show(
        ["training images", "extract s", "plan MB", "list MB", "above it MB", "verify s", "above MB"],
        [
            [
                f"{one['rows']:,}",
                f"{one['seconds']:g}",
                f"{one['plan_mb']:g}",
                f"{one['list_mb']:g}",
                f"{one['above_mb']:g}",
                f"{two['seconds']:g}",
                f"{two['above_mb']:g}",
            ]
            for one, two in zip(figures["extract"], figures["verify"], strict=True)
        ],
        f"anonymous memory of the main process, layout {asked.layout}",
    )
    result = {"layout": asked.layout, "dim": DIM, **figures, "versions": common.versions("torch", "numpy", "h5py")}
    common.write(asked, "extract_memory", result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        rows = int(sys.argv[3])
        found = extract(rows, sys.argv[4]) if sys.argv[2] == "extract" else verify(rows)
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        main()

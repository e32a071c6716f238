"""Claim: the memory an extraction takes does not grow with the number of images.

    python benchmarks/extract_memory.py [ROWS ..]        default: 1000 10000 100000

Each number of rows is extracted in a process of its own through `tiny`, from a source that draws flat 8 x 8 images (a
cheap one: decoding is not what is measured), with two decoding processes. Printed is the peak resident memory of the
main process and of the largest decoding one. What must grow is the list of paths and labels: it is measured alone,
too, as the memory a process holds once the data set is known and nothing is encoded yet.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from featcache.datasets.manifest import Manifest, SourceInfo, Split, source_info


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


def manifest(rows: int) -> Manifest:
    """A data set of `rows` test images and 20 train images."""
    paths = tuple(f"{row:09d}.png" for row in range(rows + 20))
    label = np.arange(rows + 20, dtype=np.int64) % 10
    splits = {
        "train": Split(path=paths[rows:], label=label[:20]),
        "test": Split(path=paths[:rows], label=label[:rows]),
    }
    classes = tuple(f"colour {index}" for index in range(10))
    return Manifest(name="flat", classes=classes, template="{}", splits=splits, source="made here", reader=FlatReader())


def extract(rows: int) -> dict[str, float]:
    """Peak megabytes of an extraction of `rows` images in this process."""
    import torch

    from featcache.backbones import Backbone
    from featcache.extraction import Request, carry_out, make_plan
    from featcache.extraction.encode import Machine

    backbone = Backbone("tiny")
    backbone.model  # noqa: B018 (built before the first measurement)
    before = _resident_mb()
    plan = make_plan(manifest(rows), backbone.identity, Request(shots=(1,), shot_seeds=(1,), num_views=0))
    known = _resident_mb()
    machine = Machine(device=torch.device("cpu"), batch_size=64, workers=2)
    carry_out(plan, backbone, machine, provenance={}, progress=lambda _: None)
    return {
        "rows": rows,
        "data set and plan, MB": round(known - before, 1),
        "peak, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "decoding process, MB": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
    }


def main(sizes: list[int]) -> None:
    """One process a size."""
    for rows in sizes:
        with tempfile.TemporaryDirectory() as home:
            environment = {**os.environ, "FEATCACHE_HOME": home}
            command = [sys.executable, __file__, "--one", str(rows)]
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        sys.stdout.write(done.stdout)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.stdout.write(json.dumps(extract(int(sys.argv[2]))) + "\n")
    else:
        main([int(rows) for rows in sys.argv[1:]] or [1000, 10_000, 100_000])

"""Image files for the benchmarks, made here: `shapes` as PNG files, and JPEG files of photographs' sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache.bundled import shapes
from featcache.datasets import Manifest, load
from featcache.fewshot import draw

TEXTURES = 48
"""JPEG files that differ; the rest are copies of them under other names, as costly to read and decode."""
SIZES: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "DTD-sized": ((300, 640), (300, 640)),
    "ImageNet-sized": ((500, 500), (375, 375)),
}
"""The range of widths and the range of heights."""
_GRAIN = 11.0
"""Its standard deviation, in levels of 255."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """`shapes`, or a part of it, as PNG files of the same pixels."""

    root: Path
    classnames: Path
    """One name a line, in the order of the folders' names."""

    @property
    def dataset(self) -> str:
        """What `--dataset` takes."""
        return f"folder:{self.root}"

    def manifest(self) -> Manifest:
        """The list of images that featcache makes of the folder."""
        return load(self.dataset, data=None, template=shapes.TEMPLATE, classnames=self.classnames)


def shapes_files(place: Path, *, num_classes: int | None = None, most: int | None = None) -> Pictures:
    """The first classes of `shapes`, all when None, with at most `most` images of each in each split, as files."""
    root = place / "shapes"
    names: dict[str, str] = {}
    for split in ("train", "val", "test"):
        for path, label in shapes.paths(split):
            number = int(Path(path).stem)
            if (num_classes is None or label < num_classes) and (most is None or number < most):
                put_shape(root, path)
                names[Path(path).parent.name] = shapes.CLASSES[label]
    classnames = place / "classnames.txt"
    classnames.write_text("".join(f"{names[folder]}\n" for folder in sorted(names)), encoding="utf-8")
    return Pictures(root=root, classnames=classnames)


def put_shape(root: Path, path: str) -> None:
    """Write one image of `shapes`, lossless, so that who reads the file sees the rendered pixels."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(shapes.read(path)).save(file, compress_level=1)


def drawn_list(place: Path, manifest: Manifest, root: Path, *, shots: int, shot_seed: int) -> Path:
    """A file that lists a draw's training images and all test images, for code that knows nothing of featcache."""
    train, test = manifest.splits["train"], manifest.splits["test"]
    val_label = manifest.splits["val"].label if "val" in manifest.splits else None
    drawn = draw(train.label, val_label, shots=shots, shot_seed=shot_seed)
    listed = {
        "root": str(root),
        "classes": list(manifest.classes),
        "template": manifest.template,
        "train": [[train.path[row], int(train.label[row])] for row in drawn.train.tolist()],
        "test": [[path, int(label)] for path, label in zip(test.path, test.label.tolist(), strict=True)],
    }
    file = place / "list.json"
    file.write_text(json.dumps(listed), encoding="utf-8")
    return file


def jpeg_files(root: Path, kind: str, count: int) -> Sequence[str]:
    """Names of `count` JPEG files below `root`, of a size in SIZES: clouds under grain, quality 90.

    The grain gives them 0.44 bytes a pixel; the files of DTD's first ten classes have 0.45. Without it they had a third
    of that, and decoded too soon.
    """
    generator = np.random.default_rng(0)
    widths, heights = SIZES[kind]
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{number:06d}.jpg" for number in range(count)]
    for name in names[:TEXTURES]:
        width, height = (int(generator.integers(low, high + 1)) for low, high in (widths, heights))
        Image.fromarray(_clouds(generator, width, height)).save(root / name, quality=90)
    for number, name in enumerate(names[TEXTURES:]):
        (root / name).write_bytes((root / names[number % TEXTURES]).read_bytes())
    return names


def _clouds(generator: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """(height, width, 3) random pixels whose contrast falls with fineness, as a photograph's does."""
    total = np.zeros((height, width, 3), dtype=np.float32)
    weight = 1.0
    for cells in (4, 8, 16, 32, 64, 128):
        coarse = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight * (np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) - 127.5)
        weight *= 0.6
    grain = generator.normal(0, _GRAIN, (height, width, 1)).astype(np.float32)  # of brightness, as a camera's
    return np.clip(127.5 + 0.6 * total + grain, 0, 255).astype(np.uint8)

"""The bundled data set `shapes`: 24 classes of drawn shapes, rendered from an image's path; nothing is stored.

It is a synthetic benchmark for learning the tool and testing it. The bundled `tiny` backbone was trained on drawings of
the same kind, though of none of these classes and in other words (see captions.py), and the names were chosen so that
zero-shot leaves room for an adapter. Figures on it say nothing about CLIP or about photographs.
"""

from __future__ import annotations

from featcache.bundled.captions import HELD_OUT, class_subject
from featcache.bundled.drawing import Stream, key_of
from featcache.bundled.rendering import Image, render
from featcache.bundled.scenes import Scene, compose
from featcache.errors import DataError

CLASSES: tuple[str, ...] = tuple(HELD_OUT)
TEMPLATE = "a drawing of a {}."
SPLITS: dict[str, int] = {"train": 64, "val": 20, "test": 50, "sketch": 50, "noise": 50}
"""Split -> images a class. `sketch` and `noise` are shifted test sets."""

_FOLDERS = tuple(name.replace(" ", "-") for name in CLASSES)


def paths(split: str) -> list[tuple[str, int]]:
    """Every image of a split as (path, class index), class by class; paths look like `train/star-of-stripes/0007.png`.

    Raises DataError where there is no such split.
    """
    if split not in SPLITS:
        raise DataError(f"shapes has no split {split!r}; it has {', '.join(SPLITS)}")
    return [
        (f"{split}/{folder}/{number:04d}.png", label)
        for label, folder in enumerate(_FOLDERS)
        for number in range(SPLITS[split])
    ]


def read(path: str) -> Image:
    """The image at `path`, rendered: (72, 80, 3) uint8, RGB, the same pixels on every machine.

    Raises DataError where `paths` lists no such path.
    """
    return render(scene_at(path))


def scene_at(path: str) -> Scene:
    """What the image at `path` shows; every choice is hashed from the path. Raises DataError as `read` does."""
    split, folder = _parsed(path)
    stream = Stream(key_of(f"shapes/1/{path}"))
    subject = class_subject(CLASSES[_FOLDERS.index(folder)], stream)
    return compose(subject, stream, look=split if split in ("sketch", "noise") else "natural")


def _parsed(path: str) -> tuple[str, str]:
    parts = path.split("/")
    if len(parts) == 3:
        split, folder, name = parts
        number = name.removesuffix(".png")
        known = split in SPLITS and folder in _FOLDERS and len(number) == 4 and name.endswith(".png")
        if known and number.isascii() and number.isdigit() and int(number) < SPLITS[split]:
            return split, folder
    raise DataError(
        f"shapes has no image {path!r}; its paths look like train/{_FOLDERS[0]}/0007.png "
        f"and featcache.bundled.shapes.paths lists them"
    )

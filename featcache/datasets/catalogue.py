"""The catalogue: a data set's name -> its entry, which says where it lies, how it is read and how it is got.

To add a data set, add one entry; its class does the reading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Protocol

from featcache.datasets import entries_coop, entries_imagenet
from featcache.datasets.about import About
from featcache.datasets.manifest import Manifest
from featcache.datasets.rendered import Rendered


class Source(Protocol):
    """One entry of the catalogue."""

    @property
    def folder(self) -> str:
        """The data set's own folder below the data root; empty where nothing is on disk."""
        ...

    @property
    def about(self) -> About:
        """Where the data set comes from, how big it is, how to get it."""
        ...

    @property
    def template(self) -> str:
        """The data set's single prompt."""
        ...

    @property
    def layout(self) -> tuple[str, ...]:
        """What lies in the data set's own folder: its image folders, with a slash, and its split file."""
        ...

    def manifest(self, name: str, data: Path | None) -> Manifest:
        """The data set's manifest under `name`; `data` is the folder that holds data sets, where one was given."""
        ...


def _shapes(title: str, splits: dict[str, str], sizes: dict[str, int]) -> Rendered:
    about = About(
        title=title, licence="MIT, as featcache", link="featcache.bundled.shapes", num_classes=24, sizes=sizes
    )
    return Rendered(splits=splits, about=about)


CATALOGUE: Final[dict[str, Source]] = {
    "shapes": _shapes(
        "Drawn shapes (rendered by featcache)",
        {"train": "train", "val": "val", "test": "test"},
        {"train": 1536, "val": 480, "test": 1200},
    ),
    "shapes-sketch": _shapes("Drawn shapes, as sketches", {"test": "sketch"}, {"test": 1200}),
    "shapes-noise": _shapes("Drawn shapes, noisy", {"test": "noise"}, {"test": 1200}),
    # The eleven, in the order of CoOp's and CLIP-Adapter's papers, and ImageNet's shifts.
    "imagenet": entries_imagenet.IMAGENET,
    "stanford_cars": entries_coop.STANFORD_CARS,
    "ucf101": entries_coop.UCF101,
    "caltech101": entries_coop.CALTECH101,
    "oxford_flowers": entries_coop.OXFORD_FLOWERS,
    "sun397": entries_coop.SUN397,
    "dtd": entries_coop.DTD,
    "eurosat": entries_coop.EUROSAT,
    "fgvc_aircraft": entries_coop.FGVC_AIRCRAFT,
    "oxford_pets": entries_coop.OXFORD_PETS,
    "food101": entries_coop.FOOD101,
    "imagenetv2": entries_imagenet.IMAGENETV2,
    "imagenet-sketch": entries_imagenet.IMAGENET_SKETCH,
    "imagenet-a": entries_imagenet.IMAGENET_A,
    "imagenet-r": entries_imagenet.IMAGENET_R,
}

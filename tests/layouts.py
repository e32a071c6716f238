"""Small folders laid out as data sets are."""

from __future__ import annotations

from pathlib import Path

from featcache import datasets
from featcache.datasets import Manifest

FULL_SPLITS = {"caltech101": "Caltech101", "dtd": "DescribableTextures", "eurosat": "EuroSAT"}
"""Data sets of which the real data hold CoOp's whole split file, as split_zhou_<this>.full.json."""


def put(folder: Path, *paths: str) -> None:
    """Files that stand for images; manifests do not decode them."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"\xff\xd8")


def load(name: str, data: Path) -> Manifest:
    return datasets.load(name, data=data)

"""`featcache predict`: what a head says of images."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from featcache import console
from featcache.commands.running import stoppable
from featcache.datasets.listing import SUFFIXES
from featcache.errors import ConfigError, InputError
from featcache.heads.files import load_module
from featcache.heads.predicting import Prediction, Predictor, Said

FORMATS = ("table", "csv", "json")


def predict(
    head: Path,
    images: Sequence[str],
    *,
    top: int,
    form: str,
    device: str,
    backbone: str | None,
    weights: str | None,
    style: str | None,
) -> int:
    """Print what the head says of every image; returns how many could not be read, each of which is named."""
    from featcache.devices import pick_device

    if form not in FORMATS:
        raise ConfigError(f"--format {form} is not known; use one of {', '.join(FORMATS)}")
    module = load_module(head)
    files = list(_files(images))
    if not files:
        raise InputError(f"there is no image in {', '.join(images)}; images end in {', '.join(SUFFIXES)}")
    predictor = Predictor(
        module,
        device=pick_device(device),
        backbone=backbone,
        weights=weights,
        style=style,
        num_images=len(files),
    )
    with stoppable("what was said is above"), console.progress("classifying", "images", rate="images") as advance:
        said = _counted(predictor.each(files, top=top), advance, len(files))
        failed = {"table": _as_table, "csv": _as_csv, "json": _as_json}[form](said)
    if failed:
        console.fail(f"{failed} of {len(files)} images could not be read, as named above")
    return failed


def _counted(said: Iterable[Said], advance: Any, total: int) -> Iterator[Said]:
    for item in said:
        advance(1, total)
        if item.error:
            console.warn(f"{item.image}: {item.error}")
        yield item


def _as_table(said: Iterable[Said]) -> int:
    items = list(said)
    good = [item for item in items if not item.error]
    rows = []
    for item in good:
        for rank, (_, name, chance) in enumerate(item.predictions):
            rows.append([_shown(item.image) if rank == 0 else "", _shown(name), f"{100 * chance:.1f}"])
    if rows:
        console.table(["image", "class", "%"], rows)
    return len(items) - len(good)


def _as_csv(said: Iterable[Said]) -> int:
    """As it goes along, for a list of any length."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "rank", "number", "class", "probability"])
    failed = 0
    for item in said:
        failed += bool(item.error)
        for rank, (number, name, chance) in enumerate(item.predictions, start=1):
            writer.writerow([item.image, rank, number, name, f"{chance:.6g}"])
    return failed


def _as_json(said: Iterable[Said]) -> int:
    items = list(said)
    plain = [
        {"image": item.image, "error": item.error}
        if item.error
        else {"image": item.image, "predictions": [_plain(prediction) for prediction in item.predictions]}
        for item in items
    ]
    console.raw(json.dumps(plain, indent=2))
    return sum(bool(item.error) for item in items)


def _plain(said: Prediction) -> dict[str, Any]:
    return {"class": said.name, "number": said.number, "probability": round(said.probability, 6)}


def _files(images: Sequence[str]) -> Iterator[str]:
    """Every image named: a file, a folder's images at any depth, or `-` for a list on stdin, one a line."""
    for name in images:
        if name == "-":
            yield from _listed()
        elif os.path.isdir(name):  # noqa: PTH112 (pathlib's raises for a name too long to be one)
            found = sorted(_in_folder(Path(name)))
            if not found:
                console.warn(f"{name} holds no image; images end in {', '.join(SUFFIXES)}")
            yield from found
        else:
            yield name


def _listed() -> Iterator[str]:
    """The paths on stdin, one a line or, as `find -print0` writes them, a zero byte after each."""
    try:
        lines = [line for raw in sys.stdin for line in raw.rstrip("\r\n").split("\0")]
    except UnicodeDecodeError as error:
        raise InputError(f"- reads a list of paths, one a line, and stdin is no text ({error})") from error
    yield from (line for line in lines if line)


def _in_folder(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield str(path)


def _shown(text: str) -> str:
    """The text with what would steer a terminal written out."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)

"""Data sets in CoOp's folder layout: an image folder and a split_zhou_NAME.json that lists every image.

The file is {"train" | "val" | "test": [[path below the image folder, class index, class name], ..]}; the class names in
it are the ones CoOp prompts with, already renamed where CoOp renames them (EuroSAT, Caltech101).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from featcache.datasets.manifest import FileReader, Manifest, Split, split_of
from featcache.errors import DataError

SPLITS: Final = ("train", "val", "test")
NUM_NAMED: Final = 3  # how many of many faulty entries a message names

Entry = tuple[str, int, str]  # path below the image folder, class index, class name


@dataclass(frozen=True)
class CoopLayout:
    """Where one of CoOp's data sets lies below the data root."""

    folder: str
    """The data set's own folder."""
    images: str
    """The image folder in it."""
    split: str
    """The split file's name is split_zhou_<this>.json."""
    template: str = "a photo of a {}."
    """CoOp's single prompt."""

    def manifest(self, name: str, data: Path | None) -> Manifest:
        """The manifest under `name`. Raises DataError unless every listed image is there and the split is sound."""
        if data is None:
            raise DataError(
                f"data set {name} needs the folder that holds {self.folder}/, and none was given; {_ROOT_HINT}"
            )
        root = data.expanduser().absolute() / self.folder
        split_file = root / f"split_zhou_{self.split}.json"
        for place in (root, root / self.images):
            if not place.is_dir():
                raise DataError(f"data set {name} needs the folder {place}, which is not there; {_ROOT_HINT}")
        entries = {split: _entries(items, split_file, split) for split, items in _read_json(split_file).items()}
        names = _class_names(entries, split_file)
        splits = {split: self._split(items) for split, items in entries.items() if items}
        _check_unique(splits, split_file)
        _check_present(splits, root, split_file)
        return Manifest(
            name=name,
            classes=names,
            template=self.template,
            splits=splits,
            source=split_file.name,
            reader=FileReader(root),
        )

    def _split(self, entries: list[Entry]) -> Split:
        return split_of([((PurePosixPath(self.images) / path).as_posix(), label) for path, label, _ in entries])


_ROOT_HINT: Final = "--data ROOT or FEATCACHE_DATA sets the folder that holds all data sets"


def _read_json(file: Path) -> dict[str, list[Any]]:
    """The file's lists, by split; val may be absent."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"split file {file} is not there; {_ROOT_HINT}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"split file {file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or set(content) - {"val"} != {"train", "test"}:
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"split file {file} must be an object with train, test and perhaps val; found {found}")
    for split in SPLITS:
        items = content.setdefault(split, [])
        if not isinstance(items, list) or not (items or split == "val"):
            raise DataError(f"split file {file}: {split} must be a list with at least one entry")
    return content


def _entries(items: list[Any], file: Path, split: str) -> list[Entry]:
    """The split's entries, their types and paths checked."""
    for position, item in enumerate(items):
        match item:
            case [str(path), int(label), str(_)] if label >= 0 and not isinstance(label, bool):
                if _leaves_folder(path):
                    raise DataError(f"split file {file}: {split} entry {position} leaves the image folder: {path!r}")
            case _:
                raise DataError(
                    f"split file {file}: {split} entry {position} must be [path, class index, class name]; "
                    f"found {item!r}"
                )
    return [(path, label, name) for path, label, name in items]


def _leaves_folder(path: str) -> bool:
    # Windows' rules are the stricter ones and cover POSIX: both separators, drives, shares.
    parts = PureWindowsPath(path)
    return not path or "\0" in path or bool(parts.anchor) or ".." in parts.parts


def _class_names(entries: dict[str, list[Entry]], file: Path) -> tuple[str, ...]:
    """One name for each index 0 .. C-1, each with train images."""
    names: dict[int, str] = {}
    for split in SPLITS:
        for path, label, name in entries[split]:
            if names.setdefault(label, name) != name:
                raise DataError(f"split file {file}: class {label} is called {names[label]!r}, but {name!r} at {path}")
    gap = next(label for label in range(len(names) + 1) if label not in names)
    if gap < len(names):
        raise DataError(
            f"split file {file}: class indices must run from 0 without a gap, but {gap} is not used while "
            f"{max(names)} is"
        )
    untrained = sorted(set(names) - {label for _, label, _ in entries["train"]})
    if untrained:
        listed = _first(f"{label} ({names[label]})" for label in untrained)
        raise DataError(f"split file {file}: {len(untrained)} classes have no train image: {listed}")
    return tuple(names[label] for label in range(len(names)))


def _check_unique(splits: dict[str, Split], file: Path) -> None:
    """Raises DataError for an image listed twice: in two splits it would leak from one into the other."""
    seen: dict[str, str] = {}
    for name, split in splits.items():
        for path in split.path:
            if path in seen:
                raise DataError(f"split file {file} lists {path} twice: in {seen[path]} and in {name}")
            seen[path] = name


def _check_present(splits: dict[str, Split], root: Path, file: Path) -> None:
    """Raises DataError that counts and names listed images which are not there, reading each folder's names once."""
    wanted: dict[PurePosixPath, set[str]] = {}
    for split in splits.values():
        for path in map(PurePosixPath, split.path):
            wanted.setdefault(path.parent, set()).add(path.name)
    missing = [
        (folder / name).as_posix()
        for folder, names in wanted.items()
        for name in sorted(names - _file_names(root / folder))
    ]
    if missing:
        raise DataError(
            f"{len(missing)} of {sum(map(len, wanted.values()))} images are listed in {file.name} but not found under "
            f"{root}: {_first(missing)}; restore them, or take them out of the split file"
        )


def _file_names(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}: {error.strerror}") from error


def _first(items: Iterable[str]) -> str:
    """The first few items, and a sign that there are more."""
    listed = list(items)
    return ", ".join(listed[:NUM_NAMED]) + (", .." if len(listed) > NUM_NAMED else "")

"""What the readers of listed images share: where a data set lies, and the checks that every list must pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final, NamedTuple

from featcache.datasets.manifest import Split
from featcache.errors import DataError
from featcache.remote import as_url

SPLITS: Final = ("train", "val", "test")
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ROOT_HINT: Final = "--data ROOT or FEATCACHE_DATA sets the folder that holds all data sets"
_NUM_NAMED: Final = 3  # how many of many faulty entries a message names

Entry = tuple[str, int, str]
"""Path below the image folder, class index, class name."""


class Listed(NamedTuple):
    """What a data set's lists say, before anything is checked."""

    entries: dict[str, list[Entry]]
    """The entries of each split."""
    source: str
    """Which lists they are and how the splits were made, in a few words."""


def own_folder(name: str, data: Path | None, folder: str, *inner: str) -> Path:
    """The absolute path of data/`folder`. Raises DataError where it, or one of `inner` in it, is not there."""
    if data is None:
        raise DataError(f"data set {name} needs the folder that holds {folder}/, and none was given; {ROOT_HINT}")
    if url := as_url(data):
        raise DataError(
            f"data set {name} is read from a folder of this machine alone, not from {url}; copy it, or extract "
            "folder:URL with --classnames FILE"
        )
    root = data.expanduser().absolute() / folder
    for place in (root, *(root / path for path in inner)):
        if not place.is_dir():
            raise DataError(
                f"data set {name} needs the folder {place}, which is not there; {ROOT_HINT}, and "
                f"`featcache datasets prepare {name}` gets it or says how to"
            )
    return root


def class_names(entries: Mapping[str, list[Entry]], where: str) -> tuple[str, ...]:
    """One name for each index 0 .. C-1. Raises DataError for a class with two names, a gap, or no train image."""
    names: dict[int, str] = {}
    for split in SPLITS:
        for path, label, name in entries.get(split, []):
            if names.setdefault(label, name) != name:
                raise DataError(f"{where}: class {label} is called {names[label]!r}, but {name!r} at {path}")
    gap = next(label for label in range(len(names) + 1) if label not in names)
    if gap < len(names):
        raise DataError(
            f"{where}: class indices must run from 0 without a gap, but {gap} is not used while {max(names)} is"
        )
    untrained = sorted(set(names) - {label for _, label, _ in entries["train"]})
    if untrained:
        listed = first_few(f"{label} ({names[label]})" for label in untrained)
        raise DataError(f"{where}: {len(untrained)} classes have no train image: {listed}")
    return tuple(names[label] for label in range(len(names)))


def check_inside(entries: Mapping[str, list[Entry]], where: str) -> None:
    """Raises DataError for a path that leads out of the image folder."""
    for split, items in entries.items():
        for position, (path, _, _) in enumerate(items):
            if leaves_folder(path):
                raise DataError(f"{where}: {split} entry {position} leaves the image folder: {path!r}")


def leaves_folder(path: str) -> bool:
    """Whether a listed path is no path below the folder it is relative to."""
    # Windows' rules are the stricter ones and cover POSIX: both separators, drives, shares.
    parts = PureWindowsPath(path)
    return not path or "\0" in path or bool(parts.anchor) or ".." in parts.parts


def check_unique(splits: Mapping[str, Split], where: str) -> None:
    """Raises DataError for an image listed twice: in two splits it would leak from one into the other."""
    seen: dict[str, str] = {}
    for name, split in splits.items():
        for path in split.path:
            if path in seen:
                raise DataError(f"{where} lists {path} twice: in {seen[path]} and in {name}")
            seen[path] = name


def check_present(splits: Mapping[str, Split], root: Path, where: str) -> None:
    """`check_listed` for a folder of this machine."""
    check_listed(splits, lambda folder: file_names(root / folder), where, str(root))


def check_listed(splits: Mapping[str, Split], names_in: Callable[[str], set[str]], where: str, root: str) -> None:
    """Raises DataError that counts and names listed images which are not there, reading each folder's names once."""
    wanted: dict[PurePosixPath, set[str]] = {}
    for split in splits.values():
        for path in map(PurePosixPath, split.path):
            wanted.setdefault(path.parent, set()).add(path.name)
    missing = [
        (folder / name).as_posix()
        for folder, names in wanted.items()
        for name in sorted(names - names_in(folder.as_posix()))
    ]
    if missing:
        raise DataError(
            f"{len(missing)} of {sum(map(len, wanted.values()))} images are listed in {where} but not found under "
            f"{root}: {first_few(missing)}; restore them, or take them out of the list"
        )


def sub_folders(folder: Path) -> list[str]:
    """Names of the visible folders in a folder, sorted; links to folders count."""
    return sorted(entry.name for entry in _visible(folder) if entry.is_dir())


def image_names(folder: Path) -> list[str]:
    """Names of the visible image files in a folder, sorted."""
    return sorted(entry.name for entry in _visible(folder) if entry.name.lower().endswith(SUFFIXES) and entry.is_file())


def first_few(items: Iterable[str]) -> str:
    """The first few items, and a sign that there are more."""
    listed = list(items)
    return ", ".join(listed[:_NUM_NAMED]) + (", .." if len(listed) > _NUM_NAMED else "")


def file_names(folder: Path) -> set[str]:
    """Names of all files in a folder; none where it is not there. Raises DataError where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}: {error.strerror}") from error


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}: {error.strerror}") from error

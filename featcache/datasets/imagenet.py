"""ImageNet and its shifts: one folder a class, named by its WordNet id, or, in ImageNetV2, by its number.

As in CoOp, a class's index is its folder's position among those that are there, so a subset in the same layout works,
and the 200 classes of ImageNet-A and ImageNet-R are 0 .. 199; the manifest's ids tell which of ImageNet's they are.
Images of a class come by name. CoOp takes them as os.listdir gives them, an order that the file system decides and that
its few-shot draws depend on: ours equal CoOp's where that order is by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from featcache.bounded import read_text
from featcache.datasets.about import About
from featcache.datasets.listing import first_few, image_names, own_folder, sub_folders
from featcache.datasets.manifest import FileReader, Manifest, Split, split_of
from featcache.errors import DataError
from featcache.open_clip_lists import imagenet_classes

TEMPLATE: Final = "a photo of a {}."
NAMES_FILE: Final = "classnames.txt"
IMAGENET: Final = "imagenet"
"""ImageNet's own folder, whose classnames.txt names the shifts' classes too."""


@dataclass(frozen=True, kw_only=True)
class WordNetFolders:
    """A data set whose class folders are named by WordNet ids."""

    folder: str
    """The data set's own folder."""
    splits: Mapping[str, str]
    """Split -> the folder, in that one, that holds its class folders."""
    about: About
    """Where it comes from, and how big it is."""

    template: ClassVar[str] = TEMPLATE

    @property
    def layout(self) -> tuple[str, ...]:
        """The folder of each split."""
        return tuple(f"{folder}/" for folder in self.splits.values())

    def manifest(self, name: str, data: Path | None) -> Manifest:
        """The manifest under `name`, ids being the WordNet ids.

        Raises DataError for a missing folder, an empty class, a class without a name, and splits whose classes differ.
        """
        root = own_folder(name, data, self.folder, *self.splits.values())
        ids = _same_classes(root, self.splits)
        names, source = _names(root)
        unnamed = [wnid for wnid in ids if wnid not in names]
        if unnamed:
            raise DataError(
                f"{len(unnamed)} class folders of {name} have no class name: {first_few(unnamed)}; ImageNet's 1000 ids "
                f"are known, others are named by lines `id name` in {root / NAMES_FILE}"
            )
        return Manifest(
            name=name,
            classes=tuple(names[wnid] for wnid in ids),
            ids=ids,
            template=TEMPLATE,
            splits={split: _scan(root, where, ids) for split, where in self.splits.items()},
            source=f"{' and '.join(f'{where}/' for where in self.splits.values())}, {source}",
            reader=FileReader(root),
        )


@dataclass(frozen=True, kw_only=True)
class NumberedFolders:
    """A test set whose class folders 0 .. 999 count ImageNet's classes in the order of their WordNet ids."""

    folder: str
    """The data set's own folder."""
    images: str
    """The folder, in that one, that holds the class folders."""
    about: About
    """Where it comes from, and how big it is."""

    template: ClassVar[str] = TEMPLATE

    @property
    def layout(self) -> tuple[str, ...]:
        """The image folder."""
        return (f"{self.images}/",)

    def manifest(self, name: str, data: Path | None) -> Manifest:
        """The manifest under `name`, ids being the WordNet ids. Raises DataError as `WordNetFolders` does."""
        root = own_folder(name, data, self.folder, self.images)
        numbered = {str(number): wnid for number, wnid in enumerate(imagenet_classes())}
        folders = _class_folders(root, self.images)
        if unknown := [folder for folder in folders if folder not in numbered]:
            raise DataError(
                f"{root / self.images} has class folders that are no number from 0 to {len(numbered) - 1}: "
                f"{first_few(unknown)}; remove them"
            )
        folders.sort(key=int)
        ids = tuple(numbered[folder] for folder in folders)
        names, source = _names(root)
        return Manifest(
            name=name,
            classes=tuple(names[wnid] for wnid in ids),
            ids=ids,
            template=TEMPLATE,
            splits={"test": _scan(root, self.images, folders)},
            source=f"{self.images}/, {source}",
            reader=FileReader(root),
        )


def _same_classes(root: Path, splits: Mapping[str, str]) -> tuple[str, ...]:
    """The class folders, sorted. Raises DataError unless all splits have the same."""
    first, *others = splits.values()
    ids = _class_folders(root, first)
    for other in others:
        if differing := sorted(set(ids) ^ set(_class_folders(root, other))):
            have = sum(wnid in ids for wnid in differing)
            raise DataError(
                f"{root / first} and {root / other} must hold the same class folders, but {have} are only in {first} "
                f"and {len(differing) - have} only in {other}: {first_few(differing)}; unpack or remove them in both"
            )
    return tuple(ids)


def _class_folders(root: Path, where: str) -> list[str]:
    """Names of the class folders, sorted as text. Raises DataError where there are none."""
    folders = sub_folders(root / where)
    if not folders:
        raise DataError(
            f"{root / where} has no class folders; each class's images must lie in a folder of their own, as "
            "n01440764/ILSVRC2012_val_00000293.JPEG"
        )
    return folders


def _scan(root: Path, where: str, folders: tuple[str, ...] | list[str]) -> Split:
    """Every image of the class folders, class by class."""

    def items() -> Iterator[tuple[str, int]]:
        for label, folder in enumerate(folders):
            names = image_names(root / where / folder)
            if not names:
                raise DataError(f"a class with no images: {root / where / folder}; add its images or remove the folder")
            yield from ((f"{where}/{folder}/{name}", label) for name in names)

    return split_of(items())


def _names(root: Path) -> tuple[dict[str, str], str]:
    """WordNet id -> class name, and where the names come from.

    classnames.txt in the data set's folder wins, then ImageNet's; what the file leaves out, open_clip names.
    """
    for file in (root / NAMES_FILE, root.parent / IMAGENET / NAMES_FILE):
        if file.is_file():
            return imagenet_classes() | _read_names(file), f"class names of {file.parent.name}/{file.name}"
    return imagenet_classes(), "class names of open_clip"


def _read_names(file: Path) -> dict[str, str]:
    """WordNet id -> class name. Raises DataError for a line without a name and for an id that is listed twice."""
    try:
        lines = read_text(file).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read class names from {file}: {error}") from error
    names: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, lines), start=1):
        wnid, _, name = line.partition(" ")
        if line and not name:
            raise DataError(f"{file}, line {number} must be a WordNet id, a blank and a class name; found {line!r}")
        if wnid in names:
            raise DataError(f"{file}, line {number} names {wnid} a second time")
        if line:
            names[wnid] = name.strip()
    return names

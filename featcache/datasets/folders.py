"""A plain folder of class directories as a data set, with its own splits or with ours."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Final

from featcache.datasets.manifest import FileReader, Manifest, split_of
from featcache.errors import DataError

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SPLIT_SEED: Final = 1
VAL_SHARE: Final = 0.2
TEST_SHARE: Final = 0.2
TEMPLATE: Final = "a photo of a {}."

Images = dict[str, list[str]]  # class directory -> POSIX paths of its images relative to the data set's folder


def read_folder(path: str) -> Manifest:
    """The manifest of folder:`path`. Class names are the directories' names, class indices their order.

    Where train/ and test/ (and perhaps val/) hold the class directories, they are the splits. Else each class is split
    60/20/20 by a generator of its own, so that new images in one class move no image of another. Hidden files and files
    that are no images are passed over. Raises DataError for a missing folder, fewer than two classes, a class with no
    images, with sub-folders or with too few images to split, and a class that only val or test has.
    """
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise DataError(f"no folder at {path!r}: folder:PATH takes a folder whose sub-folders are the classes")
    if _directories(root / "train") and _directories(root / "test"):
        images = {split: _class_images(root, split) for split in ("train", "val", "test") if (root / split).is_dir()}
        source = f"the folders {'/, '.join(images)}/"
    else:
        images = _split_classes(_class_images(root, ""))
        source = f"class folders, split by seed {SPLIT_SEED}: 60/20/20"
    return _manifest(root, images, source)


def _manifest(root: Path, images: dict[str, Images], source: str) -> Manifest:
    classes = list(images["train"])
    if len(classes) < 2:
        raise DataError(f"{root} has {len(classes)} class folders ({', '.join(classes)}); a data set needs at least 2")
    for split, by_class in images.items():
        if unknown := sorted(set(by_class) - set(classes)):
            raise DataError(f"{root / split} has classes that train/ lacks: {', '.join(unknown)}")
    index = {name: position for position, name in enumerate(classes)}
    splits = {
        split: split_of([(path, index[name]) for name, paths in by_class.items() for path in paths])
        for split, by_class in images.items()
        if any(by_class.values())
    }
    return Manifest(
        name=f"folder:{root.resolve().name}",
        classes=tuple(classes),
        template=TEMPLATE,
        splits=splits,
        source=source,
        reader=FileReader(root.resolve()),
    )


def _class_images(root: Path, split: str) -> Images:
    """The images of each class directory below root/split, directories and paths sorted."""
    found: Images = {}
    for name in _directories(root / split):
        folder = root / split / name
        if inner := _directories(folder):
            raise DataError(
                f"class folder {folder} holds folders ({inner[0]}, ..); images must lie directly in their class's "
                "folder, and a split needs both train/ and test/"
            )
        found[name] = [(Path(split) / name / file).as_posix() for file in _image_names(folder)]
        if not found[name]:
            raise DataError(
                f"a class with no images: {folder} holds no file that ends in {', '.join(SUFFIXES)}; add images or "
                "remove the folder"
            )
    return found


def _split_classes(images: Images) -> dict[str, Images]:
    """Each class's images, 60/20/20, with at least one of train and test."""
    splits: dict[str, Images] = {"train": {}, "val": {}, "test": {}}
    for name, paths in images.items():
        num_images = len(paths)
        if num_images < 2:
            raise DataError(
                f"class {name} has {num_images} image ({paths[0]}); it takes 2 to have one for train and one for test"
            )
        num_test = max(1, round(TEST_SHARE * num_images))
        num_val = round(VAL_SHARE * num_images)  # 0 where that would leave none for train: 2 images
        shuffled = list(paths)
        random.Random(f"{SPLIT_SEED} {name}").shuffle(shuffled)
        splits["test"][name] = sorted(shuffled[:num_test])
        splits["val"][name] = sorted(shuffled[num_test : num_test + num_val])
        splits["train"][name] = sorted(shuffled[num_test + num_val :])
    return splits


def _directories(folder: Path) -> list[str]:
    """Names of the folder's visible sub-folders, sorted; none where the folder itself is not there."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in _scan(folder) if entry.is_dir())


def _image_names(folder: Path) -> list[str]:
    """Names of the folder's visible image files, sorted."""
    return sorted(entry.name for entry in _scan(folder) if entry.name.lower().endswith(SUFFIXES) and entry.is_file())


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}: {error.strerror}") from error

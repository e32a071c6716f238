"""A plain folder of class directories as a data set, with its own splits or with ours."""

from __future__ import annotations

import posixpath
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from featcache.datasets.listing import SUFFIXES
from featcache.datasets.manifest import Manifest, Split, split_of
from featcache.datasets.trees import LocalTree, RemoteTree, Tree
from featcache.errors import DataError
from featcache.remote import is_url

VAL_NAMES: Final = ("val", "valid", "validation", "dev")
SPLIT_SEED: Final = 1
VAL_SHARE: Final = 0.2
TEST_SHARE: Final = 0.2
SEEDED: Final = f"split by seed {SPLIT_SEED}: 60/20/20"
TEMPLATE: Final = "a photo of a {}."

Images = dict[str, list[str]]  # class -> its images' paths, as the manifest has them


def read_folder(path: str) -> Manifest:
    """The manifest of folder:`path`, a folder here or the URL of one elsewhere.

    Class names are the directories' names, class indices their order.

    Where train/ and test/ (and perhaps val/, valid/, validation/ or dev/) hold the class directories, they are the
    splits; a folder with test/ alone is a data set to evaluate on. Else each class is split 60/20/20 by a generator of
    its own, so that new images in one class move no image of another. Hidden files and files that are no images are
    passed over. Raises DataError for a missing folder, fewer than two classes, a class with no images, with sub-folders
    or with too few images to split, a class that only val or test has, and two folders for val.
    """
    tree = tree_at(path)
    if folders := _split_folders(tree):
        images = {split: _class_images(tree, folder) for split, folder in folders.items()}
        source = f"the folders {'/, '.join(folders.values())}/"
    else:
        images = split_classes(_class_images(tree, ""))
        source = f"class folders, {SEEDED}"
    classes = list(images.get("train", images["test"]))
    if len(classes) < 2:
        found = f"1 class folder, {classes[0]}" if classes else "no class folder"
        loose = len(tree.images(""))
        found += f", and {loose} images that lie in none" if loose else ""
        raise DataError(
            f"{tree.where()} has {found}; each class's images must lie in a folder of its own, of 2 classes or more"
        )
    for split, by_class in images.items():
        if unknown := sorted(set(by_class) - set(classes)):
            raise DataError(f"{tree.where(folders[split])} has classes that train/ lacks: {', '.join(unknown)}")
    return Manifest(
        name=f"folder:{tree.name}",
        classes=tuple(classes),
        template=TEMPLATE,
        splits=splits_of(images, classes),
        source=source,
        reader=tree.reader(),
    )


def tree_at(path: str) -> Tree:
    """The folder at a path or URL. Raises DataError where there is none."""
    if is_url(path):
        tree = RemoteTree(path)
        if tree.folders():
            return tree
        raise DataError(f"no folder with folders in it at {path!r}: folder:URL takes a folder of class folders")
    root = user_path(path)
    if not path or not root.is_dir():
        raise DataError(f"no folder at {path!r}: folder:PATH takes a folder whose sub-folders are the classes")
    return LocalTree(root)


def user_path(text: str) -> Path:
    """The path, a leading ~ replaced by a home folder. Raises DataError for a user that does not exist."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(f"cannot find the home folder in {text!r}; write the whole path") from error


def split_classes(images: Images, *, val_share: float = VAL_SHARE) -> dict[str, Images]:
    """Each class's images as train, val and test, with at least one of train and test, by SPLIT_SEED and class name.

    What a class's split is hangs on its own paths alone, in their order. Raises DataError for a class of one image.
    """
    splits: dict[str, Images] = {"train": {}, "val": {}, "test": {}}
    for name, paths in images.items():
        num_images = len(paths)
        if num_images < 2:
            raise DataError(
                f"class {name} has {num_images} image ({paths[0]}); it takes 2 to have one for train and one for test"
            )
        num_test = max(1, round(TEST_SHARE * num_images))
        num_val = round(val_share * num_images)  # 0 where that would leave none for train: 2 images
        shuffled = list(paths)
        random.Random(f"{SPLIT_SEED} {name}").shuffle(shuffled)
        splits["test"][name] = sorted(shuffled[:num_test])
        splits["val"][name] = sorted(shuffled[num_test : num_test + num_val])
        splits["train"][name] = sorted(shuffled[num_test + num_val :])
    return splits


def splits_of(images: dict[str, Images], classes: Sequence[str]) -> dict[str, Split]:
    """The splits that have images, each class by class; `classes` gives the class indices."""
    index = {name: position for position, name in enumerate(classes)}
    return {
        split: split_of((path, index[name]) for name, paths in by_class.items() for path in paths)
        for split, by_class in images.items()
        if any(by_class.values())
    }


def _split_folders(tree: Tree) -> dict[str, str]:
    """Split -> the folder that holds its class directories; empty where the root itself holds them."""
    own = tree.folders()
    if "test" not in own or not tree.folders("test"):
        return {}
    if own == ["test"]:
        return {"test": "test"}
    if "train" not in own or not tree.folders("train"):
        return {}
    val = [name for name in VAL_NAMES if name in own]
    if len(val) > 1:
        raise DataError(
            f"{tree.where()} has the folders {' and '.join(val)}, and each could be val; rename or move one"
        )
    return {"train": "train", **({"val": val[0]} if val else {}), "test": "test"}


def _class_images(tree: Tree, split: str) -> Images:
    """The images of each class directory below root/split, whose name may be empty; directories and paths sorted."""
    found: Images = {}
    for name in tree.folders(split):
        folder = posixpath.join(split, name)
        if inner := tree.folders(folder):
            raise DataError(
                f"class folder {tree.where(folder)} holds folders ({inner[0]}, ..); images must lie directly in their "
                "class's folder, and a data set with its own splits needs train/ and test/ (or test/ alone)"
            )
        found[name] = [posixpath.join(folder, file) for file in tree.images(folder)]
        if not found[name]:
            raise DataError(
                f"a class with no images: {tree.where(folder)} holds no file that ends in {', '.join(SUFFIXES)}; add "
                "images or remove the folder"
            )
    return found

"""The lists that the data sets themselves bring, read as CoOp reads them where its split file is not there.

Each reader takes the data set's own folder and returns what is listed; class names, their order and the order of images
follow CoOp's datasets/*.py. CoOp then cuts with Python's global generator, whose state at that point is not recorded,
so no rule gives its published split files back. Ours is a generator of its own with a fixed seed: the same cut
everywhere, of the same sizes as CoOp's, but not CoOp's.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from featcache.bounded import parse_json, read_text
from featcache.datasets.listing import Entry, Listed, image_names, sub_folders
from featcache.datasets.mat import read_rows
from featcache.errors import DataError

SPLIT_SEED: Final = 1
TRAIN_SHARE: Final = 0.5  # of a class, where CoOp cuts all three splits
VAL_SHARE: Final = 0.2  # of a class, or of its trainval images
_VAL_RULE: Final = f"val cut from trainval by CoOp's rule (20 % of each class) with our seed {SPLIT_SEED}"
_ALL_RULE: Final = f"cut 50/20/30 in each class by CoOp's rule with our seed {SPLIT_SEED}"


class ClassImages(NamedTuple):
    """One class and its images, before they are cut."""

    label: int
    name: str
    paths: list[str]


def class_folders(
    root: Path, *, images: str, ignored: frozenset[str] = frozenset(), renamed: Mapping[str, str] | None = None
) -> Listed:
    """Every image in the class folders of root/`images`: Caltech101, DTD, EuroSAT, Food101.

    Images are taken by name before they are shuffled, where CoOp takes the file system's order. `ignored` folders are
    no classes; `renamed` maps a folder to its class name.
    """
    folders = [name for name in sub_folders(root / images) if name not in ignored]
    if not folders:
        raise DataError(f"{root / images} has no class folders")
    classes = [
        ClassImages(
            label, (renamed or {}).get(name, name), [f"{name}/{file}" for file in image_names(root / images / name)]
        )
        for label, name in enumerate(folders)
    ]
    return Listed(cut_classes(classes), f"the class folders of {images}/, {_ALL_RULE}")


def oxford_flowers(root: Path) -> Listed:
    """imagelabels.mat gives the class of each numbered image, cat_to_name.json the classes' names."""
    (labels,) = read_rows((root / "imagelabels.mat", "labels"))
    names = _read_json(root / "cat_to_name.json")
    classes: dict[int, ClassImages] = {}  # in order of first appearance
    for number, label in enumerate(_integers(labels, root / "imagelabels.mat"), start=1):
        if str(label) not in names:
            raise DataError(f"imagelabels.mat has class {label}, which {root / 'cat_to_name.json'} does not name")
        found = classes.setdefault(label, ClassImages(label - 1, str(names[str(label)]), []))
        found.paths.append(f"image_{number:05d}.jpg")
    return Listed(cut_classes(classes.values()), f"imagelabels.mat and cat_to_name.json, {_ALL_RULE}")


def oxford_pets(root: Path) -> Listed:
    """annotations/trainval.txt and test.txt: a line is image, class from 1, species, breed."""
    trainval, test = (_pets(root / "annotations" / f"{name}.txt") for name in ("trainval", "test"))
    return Listed(_cut_val(trainval, test), f"annotations/trainval.txt and test.txt, {_VAL_RULE}")


def _pets(file: Path) -> list[Entry]:
    entries: list[Entry] = []
    for place, line in _lines(file):
        match line.split():
            case [image, label, _, _] if label.isdecimal() and int(label) > 0 and "_" in image:
                entries.append((f"{image}.jpg", int(label) - 1, image.rpartition("_")[0].lower()))
            case _:
                raise DataError(f"{place}: expected image, class, species and breed; found {line!r}")
    return entries


def stanford_cars(root: Path) -> Listed:
    """The .mat files of the devkit and of the test labels; the year moves to the front of a class name."""
    meta = root / "devkit" / "cars_meta.mat"
    train_file, test_file = root / "devkit" / "cars_train_annos.mat", root / "cars_test_annos_withlabels.mat"
    named, *records = read_rows((meta, "class_names"), (train_file, "annotations"), (test_file, "annotations"))
    names = [_year_first(_text(name, meta)) for name in named]
    trainval = _cars(records[0], train_file, "cars_train", names)
    test = _cars(records[1], test_file, "cars_test", names)
    return Listed(
        _cut_val(trainval, test), f"devkit/cars_train_annos.mat and cars_test_annos_withlabels.mat, {_VAL_RULE}"
    )


def _cars(records: list[Any], file: Path, folder: str, names: list[str]) -> list[Entry]:
    entries: list[Entry] = []
    for record in records:
        try:
            image, label = _text(record["fname"], file), int(record["class"])
        except (LookupError, ValueError, TypeError) as error:
            raise DataError(f"{file} is not as the data set has it: each annotation needs fname and class") from error
        if not 1 <= label <= len(names):
            raise DataError(f"{file} gives {image} the class {label}, but cars_meta.mat names {len(names)}")
        entries.append((f"{folder}/{image}", label - 1, names[label - 1]))
    return entries


def _year_first(name: str) -> str:
    words = name.split(" ")
    return " ".join([words[-1], *words[:-1]])


def ucf101(root: Path) -> Listed:
    """ucfTrainTestlist/: classInd.txt and the first of the three published splits; one middle frame a video."""
    folder = root / "ucfTrainTestlist"
    actions: list[str] = []
    for place, line in _lines(folder / "classInd.txt"):
        match line.split():
            case [number, action] if number == str(len(actions) + 1):
                actions.append(action)
            case _:
                raise DataError(f"{place}: expected {len(actions) + 1} and an action; found {line!r}")
    labels = _index(actions, folder / "classInd.txt")
    trainval, test = (_ucf101(folder / f"{name}list01.txt", labels) for name in ("train", "test"))
    return Listed(_cut_val(trainval, test), f"ucfTrainTestlist/trainlist01.txt and testlist01.txt, {_VAL_RULE}")


def _ucf101(file: Path, labels: dict[str, int]) -> list[Entry]:
    entries: list[Entry] = []
    for place, line in _lines(file):
        action, _, video = line.split()[0].partition("/")
        name = "_".join(re.findall("[A-Z][^A-Z]*", action))
        entries.append((f"{name}/{video.removesuffix('.avi')}.jpg", _label(action, labels, place), name))
    return entries


def sun397(root: Path) -> Listed:
    """ClassName.txt and the first of the ten published splits; indoor and outdoor move to the front of a class name."""
    classes = [line.removeprefix("/") for _, line in _lines(root / "ClassName.txt")]
    labels = _index(classes, root / "ClassName.txt")
    trainval, test = (_sun397(root / f"{name}_01.txt", labels) for name in ("Training", "Testing"))
    return Listed(_cut_val(trainval, test), f"Training_01.txt and Testing_01.txt, {_VAL_RULE}")


def _sun397(file: Path, labels: dict[str, int]) -> list[Entry]:
    entries: list[Entry] = []
    for place, line in _lines(file):
        path = PurePosixPath(line.removeprefix("/"))  # a/apartment_building/outdoor/sun_x.jpg
        name = " ".join(reversed(path.parent.parts[1:]))
        entries.append((path.as_posix(), _label(path.parent.as_posix(), labels, place), name))
    return entries


def fgvc_aircraft(root: Path) -> Listed:
    """variants.txt and the published lists of all three splits: a line is image, then variant."""
    labels = _index([line for _, line in _lines(root / "variants.txt")], root / "variants.txt")
    entries: dict[str, list[Entry]] = {}
    for split in ("train", "val", "test"):
        entries[split] = []
        for place, line in _lines(root / f"images_variant_{split}.txt"):
            image, _, variant = line.partition(" ")
            entries[split].append((f"{image}.jpg", _label(variant, labels, place), variant))
    return Listed(entries, "images_variant_train.txt, images_variant_val.txt and images_variant_test.txt")


def _cut_val(trainval: list[Entry], test: list[Entry]) -> dict[str, list[Entry]]:
    """CoOp's `split_trainval` (datasets/oxford_pets.py): a fifth of each class, classes in order of appearance."""
    generator = random.Random(SPLIT_SEED)
    classes: dict[int, list[Entry]] = {}
    for entry in trainval:
        classes.setdefault(entry[1], []).append(entry)
    splits: dict[str, list[Entry]] = {"train": [], "val": [], "test": test}
    for label, entries in classes.items():
        num_val = round(len(entries) * VAL_SHARE)
        if num_val == 0:
            raise DataError(
                f"class {label} ({entries[0][2]}) has {len(entries)} images for train and val; it takes 3 to cut val"
            )
        generator.shuffle(entries)
        splits["val"] += entries[:num_val]
        splits["train"] += entries[num_val:]
    return splits


def cut_classes(classes: Iterable[ClassImages]) -> dict[str, list[Entry]]:
    """CoOp's `read_and_split_data` (datasets/dtd.py): half of each class to train, a fifth to val, the rest to test."""
    generator = random.Random(SPLIT_SEED)
    splits: dict[str, list[Entry]] = {"train": [], "val": [], "test": []}
    for label, name, paths in classes:
        entries = [(path, label, name) for path in paths]
        generator.shuffle(entries)
        num_train, num_val = round(len(entries) * TRAIN_SHARE), round(len(entries) * VAL_SHARE)
        if 0 in (num_train, num_val, len(entries) - num_train - num_val):
            raise DataError(f"class {label} ({name}) has {len(entries)} images; it takes 4 to cut train, val and test")
        splits["train"] += entries[:num_train]
        splits["val"] += entries[num_train : num_train + num_val]
        splits["test"] += entries[num_train + num_val :]
    return splits


def _index(names: list[str], file: Path) -> dict[str, int]:
    """Name -> its position. Raises DataError for a name that is listed twice."""
    labels: dict[str, int] = {}
    for name in names:
        if name in labels:
            raise DataError(f"{file} lists the class {name!r} twice")
        labels[name] = len(labels)
    return labels


def _label(name: str, labels: dict[str, int], place: str) -> int:
    if name not in labels:
        raise DataError(f"{place}: unknown class {name!r}; the data set lists {len(labels)} classes")
    return labels[name]


def _lines(file: Path) -> list[tuple[str, str]]:
    """(place for messages, text) of each line that is not empty. Raises DataError where there are none."""
    try:
        text = read_text(file, "utf-8")
    except FileNotFoundError as error:
        raise DataError(f"{file} is not there") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    lines = [(f"{file}, line {number}", line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    if not any(line for _, line in lines):
        raise DataError(f"{file} is empty")
    return [(place, line) for place, line in lines if line]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_text(file, "utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{file} is not there") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} must be an object that maps class numbers to names; found {type(content).__name__}")
    return content


def _integers(row: Any, file: Path) -> list[int]:
    try:
        return [int(value) for value in row]
    except (TypeError, ValueError) as error:
        raise DataError(f"{file} must hold one class number for each image") from error


def _text(cell: Any, file: Path) -> str:
    """The text in a cell of a MATLAB file."""
    if not isinstance(cell, str):
        raise DataError(f"{file} is not as the data set has it: a text is expected, found {cell!r}")
    return cell

"""A table of images as a data set: one row an image, with its path, its label and perhaps its split."""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from featcache import remote
from featcache.bounded import read_text
from featcache.datasets.folders import SEEDED, TEMPLATE, VAL_NAMES, split_classes, splits_of, user_path
from featcache.datasets.listing import SPLITS, check_listed, first_few, leaves_folder
from featcache.datasets.manifest import Manifest, Split, split_of
from featcache.datasets.trees import LocalTree, RemoteTree, Tree
from featcache.errors import DataError
from featcache.remote import is_url

SPLIT_NAMES: Final = {"train": "train", **dict.fromkeys(VAL_NAMES, "val"), "test": "test"}  # as written -> ours
_INTEGER: Final = re.compile(r"[+-]?\d{1,18}", re.ASCII)
_SUSPECT: Final = re.compile(
    r"^$|^/|\.\.|[\\:\0]"
)  # in a path that leads out of its folder; quicker than to take it apart
_FORM: Final = "the first line names the columns, path and label and perhaps split, in any order"


class _Table:
    """A table's place, here or elsewhere; as text what messages call it."""

    def __init__(self, place: str, folder: Tree) -> None:
        self._place = place
        self.folder = folder
        """What its paths are relative to."""

    def __str__(self) -> str:
        return self._place

    @property
    def name(self) -> str:
        """The file's own name."""
        return PurePath(self._place).name

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return PurePath(self._place).stem

    @property
    def suffix(self) -> str:
        """The file's ending."""
        return PurePath(self._place).suffix


def _table_at(path: str) -> _Table:
    if is_url(path):
        return _Table(path, RemoteTree(remote.parent(path)))
    file = user_path(path)
    return _Table(str(file), LocalTree(file.parent.resolve()))


class _Row(NamedTuple):
    """One image of the table."""

    line: int
    path: str
    """POSIX, below the table's folder."""
    label: str
    split: str
    """Ours; empty where the table has no such column."""


def read_table(path: str) -> Manifest:
    """The manifest of csv:`path`, here or at a URL: a table in UTF-8 with commas, or with tabs (.tsv), and a header.

    Its columns are path (below the table's own folder), label (the class's name) and split (train, val or test; valid,
    validation and dev mean val); others are passed over. Class indices follow the names' order, or the numbers' where
    all labels are integers. Rows keep their order. Without a split column each class is split 60/20/20 as folder:
    splits it, so that a table which lists a folder of class directories is the same data set. A table with test rows
    alone is a data set to evaluate on. Raises DataError for a table that is not readable or not so made, listed images
    that are absent, listed twice or outside the folder, and a class with no train image or too few to split.
    """
    file = _table_at(path)
    rows = list(_rows(file))
    classes = class_order(row.label for row in rows)
    if len(classes) < 2:
        raise DataError(f"{file} has {len(classes)} labels ({', '.join(classes)}); a data set needs at least 2")
    _check_unique(rows, file)
    splits, source = _splits(rows, classes, file)
    check_listed(splits, file.folder.files, str(file), file.folder.where())
    return Manifest(
        name=f"csv:{file.stem}",
        classes=classes,
        template=TEMPLATE,
        splits=splits,
        source=source,
        reader=file.folder.reader(),
    )


def class_order(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels, sorted; by their numbers where all are integers. Raises DataError for 1 beside 01."""
    distinct = sorted(set(labels))
    if not all(map(_INTEGER.fullmatch, distinct)):
        return tuple(distinct)
    by_number: dict[int, str] = {}
    for label in distinct:
        if (other := by_number.setdefault(int(label), label)) != label:
            raise DataError(f"the labels {other!r} and {label!r} are one number; write each class's label in one way")
    return tuple(by_number[number] for number in sorted(by_number))


def _splits(rows: list[_Row], classes: tuple[str, ...], file: _Table) -> tuple[dict[str, Split], str]:
    """The splits, and where they come from."""
    if not rows[0].split:
        by_class: dict[str, list[str]] = {name: [] for name in classes}
        for row in rows:
            by_class[row.label].append(row.path)
        images = split_classes({name: sorted(paths) for name, paths in by_class.items()})
        return splits_of(images, classes), f"{file.name}, {SEEDED}"
    index = {name: position for position, name in enumerate(classes)}
    items = {split: [(row.path, index[row.label]) for row in rows if row.split == split] for split in SPLITS}
    if not items["test"]:
        raise DataError(f"{file} has no row with split test; mark some, or leave out the column to have it split")
    trained = {label for _, label in items["train"]}
    if items["val"] and not trained:
        raise DataError(f"{file} has rows with split val but none with split train")
    if trained and (untrained := [name for name in classes if index[name] not in trained]):
        raise DataError(f"{file}: {len(untrained)} classes have no train image: {first_few(untrained)}")
    return {split: split_of(listed) for split, listed in items.items() if listed}, f"the split column of {file.name}"


def _rows(file: _Table) -> Iterator[_Row]:
    """The table's rows, each checked by itself. Raises DataError for one without rows."""
    header, lines = _read(file)
    at = {name: header.index(name) for name in ("path", "label", "split") if name in header}
    number = 0
    for number, fields in lines:
        if len(fields) != len(header):
            raise DataError(f"{file} line {number} has {len(fields)} fields, but the header has {len(header)}")
        path, label = fields[at["path"]], fields[at["label"]].strip()
        if not label:
            raise DataError(f"{file} line {number} has an empty label; every image needs a class")
        if _SUSPECT.search(path) and leaves_folder(path):
            raise DataError(
                f"{file} line {number}: path {path!r} does not lie below the table's folder; paths are relative to "
                f"{file.folder.where()}, so put the table into a folder that holds all its images"
            )
        split = SPLIT_NAMES.get(fields[at["split"]].strip().lower()) if "split" in at else ""
        if split is None:
            raise DataError(
                f"{file} line {number}: unknown split {fields[at['split']]!r}; known: {', '.join(SPLIT_NAMES)}"
            )
        yield _Row(number, posixpath.normpath(path), label, split)
    if not number:
        raise DataError(f"{file} lists no image; {_FORM}, and each further line is an image")


def _read(file: _Table) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The header's names in lower case, and the other lines' fields with their numbers."""
    try:
        text = remote.read_bytes(str(file)).decode("utf-8-sig") if is_url(str(file)) else read_text(Path(str(file)))
    except FileNotFoundError as error:
        raise DataError(f"no table at {str(file)!r}: csv:FILE takes a table of images; {_FORM}") from error
    except OSError as error:
        raise DataError(f"cannot read the table {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the table {file} is not UTF-8 ({error}); save it as CSV in UTF-8") from error
    if "\0" in text:
        raise DataError(f"the table {file} holds NUL bytes, so it is no text; save it as CSV in UTF-8")
    first = text.partition("\n")[0]
    tabs = file.suffix.lower() == ".tsv" or ("\t" in first and "," not in first)
    lines = _fields(text, "\t" if tabs else ",", file)
    header = [name.strip().lower() for name in next(lines, (0, []))[1]]
    if not {"path", "label"} <= set(header) or len(set(header)) < len(header):
        raise DataError(f"the table {file} begins with {', '.join(header)[:200] or 'nothing'}; {_FORM}, each once")
    return header, lines


def _fields(text: str, delimiter: str, file: _Table) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line that has any, with the line's number."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise DataError(f"{file} line {reader.line_num} is no table row ({error}); mind the quotes") from error


def _check_unique(rows: list[_Row], file: _Table) -> None:
    """Raises DataError for an image listed twice: in two splits it would leak from one into the other."""
    first: dict[str, int] = {}
    twice = []
    for row in rows:
        if (line := first.setdefault(row.path, row.line)) != row.line:
            twice.append(f"{row.path} (lines {line} and {row.line})")
    if twice:
        raise DataError(f"{file} lists {len(twice)} images twice: {first_few(twice)}; take one of each out")

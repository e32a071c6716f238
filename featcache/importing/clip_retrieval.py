"""The folder that clip-retrieval's inference writes.

    img_emb/img_emb_<n>.npy            (N, D) float16 unit embeddings
    metadata/metadata_<n>.parquet      one row an embedding: image_path, and more that is passed over
    text_emb/text_emb_<n>.npy          embeddings of captions, which belong to images and not to classes: passed over

It knows no classes. An image's class is the directory it lies in, and its split the directory above that one where it
is called train, val or test, so `.../train/cat/1.jpg` is a cat to train on; test alone is something to evaluate on.
Without such directories each class is split 60/20/20 by seed, as folder:PATH splits it. Images inside webdataset shards
have no directory: they are refused.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.datasets.folders import SEEDED, VAL_NAMES, Images, split_classes
from featcache.errors import ConfigError, DataError
from featcache.importing.common import UNKNOWN, Found, FoundSplit, Stated, class_names, files_digest, holds, prompt_name
from featcache.prompts import TextSet
from featcache.store.reading import SPLITS

_FILES = (("img_emb", re.compile(r"img_emb_(\d+)\.npy")), ("metadata", re.compile(r"metadata_(\d+)\.parquet")))
_SPLIT_OF = {"train": "train", "test": "test", **dict.fromkeys(VAL_NAMES, "val")}
_BY_FOLDER = "the directories train/, val/ and test/"
_BY_SEED = f"class directories, {SEEDED}"
_MIN_PYARROW = 15  # before 14.0.1 a parquet file's schema could carry pickled code


@dataclass(frozen=True)
class NpyRows:
    """The rows of some .npy files (N_i, D), one file after the other."""

    files: tuple[Path, ...]

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return (int(self._ends[-1]), int(_map(self.files[0]).shape[1]))

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The widest of the files' types."""
        return np.result_type(*(_map(file).dtype for file in self.files))

    def take(self, at: NDArray[np.int64]) -> NDArray[Any]:
        """(n, D) rows at these positions."""
        rows = np.empty((len(at), self.shape[1]), dtype=self.dtype)
        source = np.searchsorted(self._ends, at, side="right")
        for index in np.unique(source):
            inside = np.flatnonzero(source == index)
            # Mapped anew each time: the pages of a mapping that stays open pile up.
            mapped = _map(self.files[index])
            rows[inside] = mapped[at[inside] - (self._ends[index] - len(mapped))]
        return rows

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """The number of rows up to and with each file."""
        return np.cumsum([len(_map(file)) for file in self.files])


def read(folder: Path, stated: Stated) -> Found:
    """What the folder holds. Raises DataError for files that are lacking or do not fit, and images without class."""
    arrays, tables = _pairs(folder)
    rows = NpyRows(arrays)
    row_of = _row_of(arrays, tables)
    splits, origin = _splits(row_of, folder)
    root = _root(row_of, 3 if origin == _BY_FOLDER else 2, folder)
    classes = sorted(splits.get("train", splits["test"]))
    return Found(
        source=folder.resolve().name,
        format="clip-retrieval",
        digest=files_digest(folder, (*arrays, *tables)),
        classes=_names(classes, stated.classnames, folder),
        splits={
            split: _found_split(by_class, classes, rows=rows, row_of=row_of, root=root, folder=folder)
            for split, by_class in splits.items()
            if any(by_class.values())
        },
        backbone=stated.backbone or UNKNOWN,
        text=_text(stated.classifier, len(classes), rows.shape[1]),
        notes={"labels": "the directory of each image", "splits": origin},
    )


def _pairs(folder: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The arrays and their tables, by number. Raises DataError where one lacks the other."""
    found: list[dict[int, Path]] = []
    for name, pattern in _FILES:
        if not (folder / name).is_dir():
            raise DataError(f"no folder {name}/: this is not an output folder of clip-retrieval; {holds(folder)}")
        files = sorted((folder / name).iterdir())
        found.append({int(match[1]): file for file in files if (match := pattern.fullmatch(file.name))})
    arrays, tables = found
    if not arrays or arrays.keys() != tables.keys():
        odd = [str((arrays | tables)[number].relative_to(folder)) for number in sorted(arrays.keys() ^ tables.keys())]
        raise DataError(
            f"{folder} must hold img_emb/img_emb_<n>.npy and metadata/metadata_<n>.parquet for the same numbers; "
            + (f"without the other: {', '.join(odd[:5])}" if odd else holds(folder / "img_emb"))
        )
    return tuple(arrays[number] for number in sorted(arrays)), tuple(tables[number] for number in sorted(arrays))


def _map(file: Path) -> NDArray[Any]:
    """The matrix of floats in a .npy file, read where it is touched. Raises DataError for anything else."""
    try:
        # Unlike np.load it never turns to pickle.
        mapped: NDArray[Any] = np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # numpy parses the header as Python, so damage makes it trip over anything
        raise DataError(f"{file} cannot be read as a plain .npy array: {error}") from error
    if mapped.ndim != 2 or mapped.dtype.kind != "f" or 0 in mapped.shape:
        raise DataError(f"{file} must hold floats (1 row or more, width); found {mapped.dtype} {mapped.shape}")
    return mapped


def _row_of(arrays: Sequence[Path], tables: Sequence[Path]) -> dict[str, int]:
    """Each image's path -> the number of its row. Raises DataError where a path comes twice or counts differ."""
    row_of: dict[str, int] = {}
    width = _map(arrays[0]).shape[1]
    for array, table in zip(arrays, tables, strict=True):
        shape = _map(array).shape
        if shape[1] != width:
            raise DataError(f"{array} is {shape[1]} wide, but {arrays[0]} is {width}")
        paths = _paths(table, array, shape[0])
        for path in paths:
            if row_of.setdefault(path, len(row_of)) != len(row_of) - 1:
                raise DataError(f"{table} names {path} a second time; each image must have one row")
    return row_of


def _paths(table: Path, array: Path, num_rows: int) -> list[str]:
    """The image paths of an array's metadata file, tidied.

    Raises DataError where it has none or another number of them, ConfigError without pyarrow.
    """
    parquet = _parquet()
    try:
        with parquet.ParquetFile(table) as opened:
            if "image_path" not in opened.schema_arrow.names:
                raise DataError(
                    f"{table} has no column image_path, so its rows cannot be told apart; its columns: "
                    f"{', '.join(opened.schema_arrow.names)}"
                )
            if opened.metadata.num_rows != num_rows:  # which it may claim in trillions, in a few bytes
                raise DataError(f"{array} holds {num_rows} rows, but {table} names {opened.metadata.num_rows} images")
            paths = opened.read(columns=["image_path"]).column("image_path").to_pylist()
    except DataError:
        raise
    except Exception as error:  # damage makes the reader trip over anything
        raise DataError(f"{table} cannot be read as parquet: {str(error)[:200]}") from error
    bad = [path for path in paths if not isinstance(path, str)]
    if bad:
        raise DataError(f"{table}: image_path must be text in every row; found {bad[0]!r} in {len(bad)} rows")
    return [posixpath.normpath(path) for path in paths]


def _parquet() -> Any:
    try:
        version = int(import_module("pyarrow").__version__.split(".")[0])
        if version >= _MIN_PYARROW:
            return import_module("pyarrow.parquet")
        found = f"version {version} is installed"
    except ImportError:
        found = "it is not installed"
    raise ConfigError(
        f"clip-retrieval's metadata is parquet, which takes pyarrow {_MIN_PYARROW} or newer, and {found}; "
        'install it with: pip install "featcache[data]"'
    )


def _splits(paths: Iterable[str], folder: Path) -> tuple[dict[str, Images], str]:
    """Split -> class -> paths, sorted as folder:PATH sorts them, and where the splits come from."""
    named: dict[str, Images] = {split: {} for split in SPLITS}
    other: Images = {}
    for path in sorted(paths):
        name, above = posixpath.basename(_above(path, 1)), posixpath.basename(_above(path, 2))
        named.get(_SPLIT_OF.get(above, ""), other).setdefault(name, []).append(path)
    # A class may be called train, but not all of them.
    no_class = {"", ".."} if other.keys() - _SPLIT_OF.keys() else {"", "..", *_SPLIT_OF}
    if lost := sorted(no_class & other.keys()):
        raise DataError(
            f"{folder}: the image {other[lost[0]][0]} lies in no class directory, so it has no label; when "
            "clip-retrieval reads them, images must lie in <class>/ or in <train|val|test>/<class>/ (in a webdataset "
            "they do not)"
        )
    given = {split: by_class for split, by_class in named.items() if by_class}
    if given:
        _check_given(given, other, folder)
        return given, _BY_FOLDER
    if len(other) < 2:
        raise DataError(
            f"{folder}: all images lie in one directory, {next(iter(other))}, but directories are the classes"
        )
    return split_classes(other), _BY_SEED


def _check_given(given: dict[str, Images], other: Images, folder: Path) -> None:
    """Raises DataError unless every image is in a split, test is there, and train (or test alone) has all classes."""
    if other or "test" not in given or given.keys() == {"val", "test"}:
        counts = {**given, "elsewhere": other}
        told = ", ".join(f"{name} {sum(map(len, images.values()))}" for name, images in counts.items() if images)
        raise DataError(
            f"{folder}: where images lie in train/, val/ or test/, all must, with some in train/ and test/ or in test/ "
            f"alone; found: {told}"
        )
    classes = given.get("train", given["test"])
    if len(classes) < 2:
        raise DataError(f"{folder}: the only class directory is {next(iter(classes))}; a data set needs at least 2")
    for split, by_class in given.items():
        if unknown := sorted(set(by_class) - set(classes)):
            raise DataError(f"{folder}: {split} has classes that train lacks: {', '.join(unknown[:5])}")


def _root(paths: Iterable[str], levels: int, folder: Path) -> str:
    """The deepest directory above all images' class (and split) directories: paths in the store start below it."""
    try:
        return posixpath.commonpath({_above(path, levels) for path in paths})
    except ValueError as error:
        raise DataError(
            f"{folder}: some images have absolute paths and some have not, so their place is unknown"
        ) from error


def _names(classes: Sequence[str], file: Path | None, folder: Path) -> tuple[str, ...]:
    """Names as prompts use them: the file's, else the directories'."""
    if file is not None:
        return class_names(len(classes), file)
    names = tuple(prompt_name(name) for name in classes)
    twice = [name for name, count in Counter(names).items() if count > 1 or not name]
    if twice:
        raise DataError(
            f"{folder}: two class directories are both called {twice[0]!r} in prompts; name them with --classnames"
        )
    return names


def _found_split(
    by_class: Images, classes: Sequence[str], *, rows: NpyRows, row_of: dict[str, int], root: str, folder: Path
) -> FoundSplit:
    """The split's rows, class by class."""
    paths = [path for name in classes for path in by_class.get(name, ())]
    sizes = [len(by_class.get(name, ())) for name in classes]
    return FoundSplit(
        rows=rows,
        label=np.repeat(np.arange(len(classes)), sizes),
        rows_from=str(folder / "img_emb"),
        label_from=f"the class directories of {folder}",
        at=np.array([row_of[path] for path in paths], dtype=np.int64),
        path=tuple(path.removeprefix(root).lstrip("/") for path in paths),
    )


def _text(classifier: Path | None, num_classes: int, dim: int) -> TextSet | None:
    if classifier is None:
        return None
    from featcache.importing.tensors import load_classifier  # torch, which nothing else here needs

    return load_classifier(classifier, num_classes, dim)


def _above(path: str, levels: int) -> str:
    """The path without its last `levels` parts."""
    for _ in range(levels):
        path = posixpath.dirname(path)
    return path

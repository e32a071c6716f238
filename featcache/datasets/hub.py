"""A data set of the Hugging Face library `datasets`: from the hub, from its cache, or from a folder.

    hf:NAME                     a data set of the hub, most often with its owner: hf:ylecun/mnist
    hf:NAME:CONFIG@REVISION     with its configuration, or its branch, tag or commit, or both, in this order
    hf:PATH                     a folder that `save_to_disk` made, or a copy of a hub repository; begins with /, . or ~

A path in the manifest is SPLIT/STATE/ROW: the library's name of the split, 16 digits that stand for its content, and
the row. The state is there because a manifest's digest covers paths and classes alone: rows are numbers, so without it
other images under the same labels would pass for these. It is made of the library's fingerprint of the split, which
changes with the revision and with every step that made it, and of the length of each image's bytes, since a fingerprint
may cover no more than the names of the files that images were taken from. No image's bytes are read for it.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache.bounded import IMAGE_BYTES, read_bytes
from featcache.datasets.folders import (
    SEEDED,
    SPLIT_SEED,
    TEMPLATE,
    TEST_SHARE,
    Images,
    split_classes,
    splits_of,
    user_path,
)
from featcache.datasets.listing import SPLITS, first_few
from featcache.datasets.manifest import Manifest, SourceInfo, Split, decode_named, source_info, split_of
from featcache.datasets.tables import SPLIT_NAMES, class_order
from featcache.errors import DataError
from featcache.quieting import quiet

LABEL_NAMES: Final = ("label", "labels", "class", "fine_label")  # the first that is there is taken
_PLAIN_LABELS: Final = (
    "string",
    "large_string",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
_NAME: Final = re.compile(r"(?P<source>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^:@/]+))?(@(?P<revision>[^:@]+))?", re.ASCII)
_FORM: Final = (
    "hf: takes NAME, NAME:CONFIG, NAME@REVISION or NAME:CONFIG@REVISION, or a folder that begins with /, . or ~"
)
_INSTALL: Final = "pip install 'featcache[data]'"


@dataclass(frozen=True)
class HubReader:
    """Reads images out of the Arrow files of `datasets`, in place; each process opens them when it first needs one.

    The library itself is not loaded: Arrow suffices, and a loader process starts in a tenth of the time.
    """

    title: str
    """The data set, for messages."""
    column: str
    """The column of images."""
    files: Mapping[str, tuple[str, ...]]
    """Split -> its Arrow files, in order."""
    upright: ClassVar[bool] = True
    place: ClassVar[str] = ""

    def read_bytes(self, path: str) -> bytes:
        """The image as it is stored, not decoded."""
        try:
            split, state, row = path.split("/")
            stored = _kept_column(self.files[split], self.column, state)[int(row)].as_py() or {}
            if stored.get("bytes") is None and stored.get("path"):
                return read_bytes(Path(stored["path"]), IMAGE_BYTES)  # kept as a file beside the Arrow files
        except (KeyError, ValueError, IndexError) as error:
            raise DataError(f"image {path} is not in {self.title}") from error
        except OSError as error:
            raise DataError(f"image {path} of {self.title} is not readable: {error}") from error
        data: bytes | None = stored.get("bytes")
        if data is None:
            raise DataError(f"image {path} of {self.title} is empty: its row holds neither bytes nor a path")
        return data

    def read(self, path: str) -> tuple[Image.Image, SourceInfo]:
        """The decoded image."""
        data = self.read_bytes(path)
        return decode_named(data, f"{path} of {self.title}", upright=self.upright), source_info(data)


@dataclass(frozen=True, kw_only=True)
class _Content:
    """What the library has, its images not read."""

    reader: HubReader
    label_column: str
    states: Mapping[str, str]
    """Split -> 16 digits that stand for its content."""
    classes: tuple[str, ...]
    labels: Mapping[str, NDArray[np.int64]]
    """Split -> (N,) index into `classes`; -1 is no label."""

    def items(self, split: str) -> list[tuple[str, int]]:
        """Path and class index of each row."""
        state = self.states[split]
        return [(f"{split}/{state}/{row:08d}", label) for row, label in enumerate(self.labels[split].tolist())]


def read_hub(name: str) -> Manifest:
    """The manifest of hf:`name`; the module says what a name is.

    The image column is the only one of type Image; the label column the only one of type ClassLabel, else one called
    label, labels, class or fine_label. A ClassLabel's names are the classes, less those that no image has; other labels
    are sorted as csv: sorts them. train, validation (or val, valid, dev) and test are the splits. Where there is no
    test, folder:'s rule cuts it: 20% of train beside a validation split; a single split is cut 60/20/20. test alone is
    a data set to evaluate on. Splits without labels (all -1) and those of other names are left out, which the source
    says. Raises DataError without the library, for what it cannot load, for columns that leave a choice, for rows
    without a label and for classes without a train image. No code that comes with a data set is run.
    """
    title = f"hf:{user_path(name).resolve().name}" if _is_path(name) else f"hf:{name}"
    content = _content(name, title)
    used, left_out = _used_splits(content, title)
    content = _without_unused_classes(content, used.values(), title)
    items = {ours: content.items(theirs) for ours, theirs in used.items()}
    splits, how = _splits(items, content.classes, title)
    _check_trained(splits, content.classes, title)
    source = f"{', '.join(used.values())} of {title}, {how}; labels from column {content.label_column}"
    return Manifest(
        name=title,
        classes=content.classes,
        template=TEMPLATE,
        splits=splits,
        source=source + (f"; left out: {', '.join(left_out)}" if left_out else ""),
        reader=content.reader,
    )


# --- from the library's splits to ours


def _used_splits(content: _Content, title: str) -> tuple[dict[str, str], list[str]]:
    """Our splits -> the library's, and what is left out. Raises DataError for two names of one split."""
    labelled = [split for split, label in content.labels.items() if (label >= 0).any()]
    if len(labelled) == 1 and labelled != ["test"]:
        used = {"train": labelled[0]}
    else:
        used = {}
        for split in labelled:
            ours = SPLIT_NAMES.get(split)
            if ours in used:
                raise DataError(f"{title} has the splits {used[ours]} and {split}, and each could be {ours}")
            if ours:
                used[ours] = split
    if not {"train", "test"} & set(used):
        raise DataError(f"{title} has no split train or test with labels; it has {', '.join(content.labels)}")
    for split in used.values():
        if unlabelled := int((content.labels[split] < 0).sum()):
            raise DataError(f"{title}: {unlabelled} of {len(content.labels[split])} rows of {split} have no label")
    return used, [split for split in content.labels if split not in used.values()]


def _without_unused_classes(content: _Content, splits: Iterable[str], title: str) -> _Content:
    """The content with the classes that these splits have, their order kept."""
    present = np.unique(np.concatenate([content.labels[split] for split in splits]))
    if len(present) < 2:
        raise DataError(f"{title} has images of {len(present)} classes; a data set needs at least 2")
    if present[-1] >= len(content.classes):
        raise DataError(f"{title} has the label {present[-1]}, but names only {len(content.classes)} classes")
    labels = {split: np.searchsorted(present, label) for split, label in content.labels.items()}
    return replace(content, classes=tuple(content.classes[index] for index in present.tolist()), labels=labels)


def _splits(
    items: dict[str, list[tuple[str, int]]], classes: tuple[str, ...], title: str
) -> tuple[dict[str, Split], str]:
    """The manifest's splits, and how they came about."""
    if "test" in items:
        if set(items) == {"val", "test"}:
            raise DataError(f"{title} has validation and test with labels but no train")
        return {split: split_of(items[split]) for split in SPLITS if split in items}, "as they are"
    by_class: Images = {}
    for path, label in items["train"]:
        by_class.setdefault(classes[label], []).append(path)
    if "val" not in items:
        return splits_of(split_classes(by_class), classes), SEEDED
    cut = splits_of(split_classes(by_class, val_share=0), classes)
    return {"train": cut["train"], "val": split_of(items["val"]), "test": cut["test"]}, (
        f"test is {TEST_SHARE:.0%} of train by seed {SPLIT_SEED}"
    )


def _check_trained(splits: Mapping[str, Split], classes: tuple[str, ...], title: str) -> None:
    if "train" in splits:
        trained = set(splits["train"].label.tolist())
        if untrained := [name for label, name in enumerate(classes) if label not in trained]:
            raise DataError(f"{title}: {len(untrained)} classes have no train image: {first_few(untrained)}")


# --- from the library to its splits


def _content(name: str, title: str) -> _Content:
    library = _library()
    loaded = _load(name, library)
    image, label = _columns(loaded, library, title)
    files = {split: _arrow_files(dataset, label, title) for split, dataset in loaded.items()}
    feature = next(iter(loaded.values())).features[label]
    classes, labels = _labels({split: _column(files[split], label) for split in loaded}, feature, library)
    return _Content(
        reader=HubReader(title, image, files),
        label_column=label,
        states={split: _state(_column(files[split], image), loaded[split], title) for split in loaded},
        classes=classes,
        labels=labels,
    )


def _library() -> ModuleType:
    """`datasets`, which takes seconds to import. Raises DataError where it is absent or old."""
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(f"hf: needs the package datasets ({error}); {_INSTALL}") from error
    if int(library.__version__.split(".")[0]) < 4:  # 4 is the first that runs no code of a data set
        raise DataError(f"hf: needs the package datasets, 4 or newer; found {library.__version__}; {_INSTALL}")
    return library


def _is_path(name: str) -> bool:
    return name.startswith((".", "~")) or Path(name).is_absolute()


def _load(name: str, library: ModuleType) -> dict[str, Any]:
    """The library's splits that have rows, by its own names."""
    source, config, revision = _parse(name)
    saved = any((Path(source) / mark).is_file() for mark in ("dataset_dict.json", "state.json"))
    try:
        with quiet():
            if saved:
                loaded = library.load_from_disk(source, keep_in_memory=False)
            else:
                loaded = library.load_dataset(source, config, revision=revision, keep_in_memory=False)
    except Exception as error:  # the library raises what its file systems, parsers and network calls raise
        raise DataError(f"cannot load hf:{name}: {type(error).__name__}: {str(error)[:600]}") from error
    splits = {"train": loaded} if isinstance(loaded, library.Dataset) else dict(loaded)
    splits = {split: dataset for split, dataset in splits.items() if len(dataset)}
    if not splits:
        raise DataError(f"hf:{name} has no rows")
    return splits


def _parse(name: str) -> tuple[str, str | None, str | None]:
    """Folder or hub name, configuration, revision."""
    if _is_path(name):
        folder = user_path(name)
        if not folder.is_dir():
            raise DataError(f"no folder at {str(folder)!r}: hf:PATH takes one that save_to_disk made; {_FORM}")
        return str(folder), None, None
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise DataError(f"cannot read hf:{name}; {_FORM}")
    if Path(parts["source"]).exists():  # the library would take it, and nothing would say so
        raise DataError(f"{parts['source']} also lies in this folder; write hf:./{parts['source']} for that one")
    return parts["source"], parts["config"], parts["revision"]


def _columns(loaded: Mapping[str, Any], library: ModuleType, title: str) -> tuple[str, str]:
    """The columns of images and of labels. Raises DataError where there is none or a choice."""
    features = next(iter(loaded.values())).features
    listed = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    images = [name for name, feature in features.items() if isinstance(feature, library.Image)]
    if len(images) != 1:
        raise DataError(f"{title} has {len(images)} columns of type Image, and it takes exactly one; it has {listed}")
    typed = [name for name, feature in features.items() if isinstance(feature, library.ClassLabel)]
    named = typed if len(typed) == 1 else [name for name in LABEL_NAMES if name in (typed or features)]
    if not named:
        raise DataError(
            f"{title} leaves open which column holds the label: it takes one of type ClassLabel, or one called "
            f"{', '.join(LABEL_NAMES)}; it has {listed}"
        )
    feature = features[named[0]]
    if not isinstance(feature, library.ClassLabel) and getattr(feature, "dtype", "") not in _PLAIN_LABELS:
        raise DataError(f"{title}: column {named[0]} holds no class of an image: {feature}; it has {listed}")
    for split, dataset in loaded.items():
        if any(dataset.features.get(name) != features[name] for name in (images[0], named[0])):
            raise DataError(f"{title}: {split} has other columns or class names than the rest; it has {listed}")
    return images[0], named[0]


def _arrow_files(dataset: Any, column: str, title: str) -> tuple[str, ...]:
    """The files that hold the split's rows. Raises DataError where they hold others, or the same in another order."""
    files = tuple(str(Path(entry["filename"]).absolute()) for entry in dataset.cache_files)
    if dataset._indices is not None or not files or len(_column(files, column)) != len(dataset):
        raise DataError(f"{title} does not lie in Arrow files row by row; save it again with save_to_disk")
    return files


def _state(images: Any, dataset: Any, title: str) -> str:
    """16 digits for the fingerprint and every image's length, which Arrow keeps apart from the images."""
    compute = importlib.import_module("pyarrow.compute")
    try:
        stored = compute.binary_length(compute.struct_field(images, "bytes"))
        length = compute.fill_null(stored, -1).to_numpy().astype("<i8")  # (N,)
        for row in np.flatnonzero(length < 0).tolist():
            file = (images[row].as_py() or {}).get("path")
            length[row] = Path(file).stat().st_size if file else -1
    except OSError as error:
        raise DataError(f"{title} names an image file that is not there: {error}") from error
    return hashlib.sha256(dataset._fingerprint.encode() + b" " + length.tobytes()).hexdigest()[:16]


def _labels(
    columns: Mapping[str, Any], feature: Any, library: ModuleType
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]]]:
    """The class names, and each split's class indices (N,), -1 where a row has none."""
    if isinstance(feature, library.ClassLabel):
        indices = {split: column.fill_null(-1).to_numpy().astype(np.int64) for split, column in columns.items()}
        return tuple(feature.names), indices
    texts = {
        split: ["" if value is None else str(value) for value in column.to_pylist()]
        for split, column in columns.items()
    }
    classes = class_order(text for listed in texts.values() for text in listed if text)
    index = {"": -1, **{name: position for position, name in enumerate(classes)}}
    return classes, {split: np.array([index[text] for text in listed]) for split, listed in texts.items()}


def _column(files: tuple[str, ...], name: str) -> Any:
    """The column as an Arrow array in chunks, mapped into memory, not read."""
    arrow = importlib.import_module("pyarrow")
    ipc = importlib.import_module("pyarrow.ipc")
    options = ipc.IpcReadOptions(use_threads=False)  # loader processes are forks, in which Arrow's threads are gone
    tables = [ipc.open_stream(arrow.memory_map(file), options=options).read_all() for file in files]
    return arrow.chunked_array([chunk for table in tables for chunk in table.column(name).chunks])


@lru_cache(maxsize=8)
def _kept_column(files: tuple[str, ...], name: str, state: str) -> Any:  # noqa: ARG001 (another state, another array)
    """The column, kept open by this process for as long as the split's content is the same."""
    return _column(files, name)

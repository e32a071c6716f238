"""An .npz of arrays: `{train,val,test}_features` (N, D), `{train,val,test}_labels` (N,), text and scale.

val may be absent; so may `text_features` (C, D), `class_names` (C,), `logit_scale` () and `backbone` ().
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.bounded import check_npz
from featcache.errors import DataError
from featcache.importing.common import (
    UNKNOWN,
    Found,
    FoundSplit,
    check_labels,
    class_names,
    count_classes,
    file_digest,
    text_set,
)
from featcache.store.reading import SPLITS

_KNOWN = (
    *(f"{split}_{what}" for split in SPLITS for what in ("features", "labels")),
    *("text_features", "class_names", "logit_scale", "backbone"),
)
_NPY = b"\x93NUMPY"
"""How a single array begins, which has no names."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ArrayRows:
    """The rows of an array (N, D) in memory."""

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return (int(self.array.shape[0]), int(self.array.shape[1]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's."""
        return self.array.dtype

    def take(self, at: NDArray[np.int64]) -> NDArray[Any]:
        """(n, D) rows at these positions."""
        rows: NDArray[Any] = self.array[at]
        return rows


def read(file: Path) -> Found:
    """What the file holds; raises DataError for a file that does not hold what it must."""
    arrays = _read(file)
    classes, dim = _classes(arrays, file), _dim(arrays, file)
    splits = {split: _split(arrays, split, dim, file) for split in SPLITS if f"{split}_features" in arrays}
    for split, part in splits.items():
        check_labels(part, len(classes), split=split)  # first: where the text is at fault, it miscounts the classes
    digest = file_digest(file)
    text = None
    if "text_features" in arrays:
        text = text_set(arrays["text_features"], len(classes), dim, digest=digest, what=f"{file}: text_features")
    return Found(
        source=file.name,
        format="npz",
        digest=digest,
        classes=classes,
        splits=splits,
        backbone=_backbone(arrays, file),
        text=text,
        logit_scale=_logit_scale(arrays, file),
    )


def _read(file: Path) -> Arrays:
    """The file's arrays that an import knows; others, of whatever kind, are passed over."""
    try:
        # Opened here: np.load leaves its own handle open when the zip is damaged.
        with file.open("rb") as opened:
            if opened.read(len(_NPY)) == _NPY:
                found, arrays = [], {}
            else:
                found = check_npz(file, _KNOWN)
                opened.seek(0)
                loaded = np.load(opened, allow_pickle=False)
                arrays = {name: loaded[name] for name in found if name in _KNOWN}
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except DataError:
        raise
    except Exception as error:  # a damaged or hostile file makes zipfile and numpy trip over anything
        raise DataError(f"{file} cannot be read as an .npz of plain arrays: {str(error)[:300]}") from error
    _check_names(found, file)
    return arrays


def _check_names(found: list[str], file: Path) -> None:
    needed = [f"{split}_{what}" for split in ("train", "test") for what in ("features", "labels")]
    if ("val_features" in found) != ("val_labels" in found):
        needed += ["val_features", "val_labels"]
    lacking = [name for name in needed if name not in found]
    if lacking:
        raise DataError(f"{file} lacks {', '.join(lacking)}; it holds: {', '.join(sorted(found)) or 'no named arrays'}")


def _classes(arrays: Arrays, file: Path) -> tuple[str, ...]:
    if "class_names" in arrays:
        # Names may repeat: ImageNet has two classes called "crane".
        return _strings(arrays["class_names"], "class_names", file)
    if "text_features" in arrays:
        return class_names(len(np.atleast_1d(arrays["text_features"])), None)
    labels = arrays["train_labels"]
    return class_names(count_classes(labels, f"{file}: train_labels") if labels.dtype.kind in "iu" else 0, None)


def _strings(array: NDArray[Any], name: str, file: Path) -> tuple[str, ...]:
    """The array's strings; bytes are read as UTF-8."""
    if array.dtype.kind not in "US":
        raise DataError(f"{file}: {name} must be strings; found {array.dtype} {array.shape}")
    try:
        strings = [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]
        "".join(strings).encode()
    except (UnicodeError, SystemError) as error:  # the latter from numpy, for what is no character
        raise DataError(f"{file}: {name} holds text that is not valid Unicode: {error}") from error
    return tuple(strings)


def _dim(arrays: Arrays, file: Path) -> int:
    shape = arrays["train_features"].shape
    if len(shape) != 2 or 0 in shape:
        raise DataError(f"{file}: train_features must be (rows, width); found {shape}")
    return int(shape[1])


def _split(arrays: Arrays, split: str, dim: int, file: Path) -> FoundSplit:
    features, labels = arrays[f"{split}_features"], arrays[f"{split}_labels"]
    if features.ndim != 2 or features.shape[1] != dim or not len(features) or features.dtype.kind != "f":
        raise DataError(
            f"{file}: {split}_features must be floats (1 row or more, {dim}); found {features.dtype} {features.shape}"
        )
    if labels.shape != (len(features),) or labels.dtype.kind not in "iu":
        raise DataError(f"{file}: {split}_labels must be {len(features)} integers; found {labels.dtype} {labels.shape}")
    return FoundSplit(
        rows=ArrayRows(features),
        label=labels.astype(np.int64),
        rows_from=f"{file}: {split}_features",
        label_from=f"{file}: {split}_labels",
    )


def _logit_scale(arrays: Arrays, file: Path) -> float | None:
    if "logit_scale" not in arrays:
        return None
    value = arrays["logit_scale"]
    if (
        value.size != 1
        or value.dtype.kind not in "fiu"
        or not np.isfinite(value).all()
        or float(value.reshape(())) <= 0
    ):
        raise DataError(f"{file}: logit_scale must be one positive number, already exponentiated; found {value!r}")
    return float(value.reshape(()))


def _backbone(arrays: Arrays, file: Path) -> str:
    return next(iter(_strings(arrays["backbone"], "backbone", file)), UNKNOWN) if "backbone" in arrays else UNKNOWN

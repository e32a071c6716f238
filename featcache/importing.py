"""Precomputed features become a store: an .npz file of arrays, no images needed."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import DataError
from featcache.prompts import DEFAULT, TextSet
from featcache.store import Block, Contents, Spec, SplitContents, Tower, write_store
from featcache.store.places import check_name, store_path
from featcache.store.reading import BLOCK_ROWS, SPLITS
from featcache.store.spec import canonical_json
from featcache.store.writing import to_stored

CLIP_LOGIT_SCALE = 100.0
"""OpenAI's CLIP models end at this multiplier (the training's upper bound); used where a file states none."""
_KNOWN = (
    *(f"{split}_{what}" for split in SPLITS for what in ("features", "labels")),
    *("text_features", "class_names", "logit_scale", "backbone"),
)
# NotImplementedError and RuntimeError: zip members of a kind, or under a password, that zipfile does not read.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def import_npz(file: Path, *, name: str, dataset: str | None = None) -> Path:
    """The path of the store made from `file`; raises DataError for a file that does not hold what it must.

    Arrays: `{train,val,test}_features` (N, D) and `{train,val,test}_labels` (N,), val optional; optional
    `text_features` (C, D), `class_names` (C,), `logit_scale` (), `backbone` ().
    """
    check_name(name)
    arrays = _read(file)
    classes, dim = _classes(arrays, file), _dim(arrays, file)
    splits = {split: _split(arrays, split, len(classes), file) for split in SPLITS if f"{split}_features" in arrays}
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    dtype = "float16" if arrays["train_features"].dtype == np.float16 else "float32"
    spec = Spec(
        tower=Tower(
            architecture=_backbone(arrays, file),
            activation="unknown",
            checkpoint=f"file:{digest}",
            precision="unknown",
        ),
        transform={"style": "import"},
        view_seed=0,
        dtype=dtype,
        manifest=_manifest_digest({split: labels for split, (_, labels) in splits.items()}),
    )
    path = store_path(name, spec.key)
    contents = Contents(
        spec=spec,
        classes=classes,
        dim=dim,
        logit_scale=_logit_scale(arrays, file),
        norm="unit" if all(_is_unit(features) for features, _ in splits.values()) else "raw",
        provenance={
            "kind": "import",
            "dataset": dataset or name,
            "backbone": spec.tower.architecture,
            "source": file.name,
            "logit_scale": "from the file" if "logit_scale" in arrays else "not stated: CLIP's 100 assumed",
            "draws": _draws(splits["train"][1], has_val="val" in splits),
        },
        splits={split: _contents(split, *pair, dtype) for split, pair in splits.items()},
        text=_text(arrays, len(classes), dim, digest, file),
    )
    write_store(path, contents)
    return path


def _read(file: Path) -> dict[str, NDArray[Any]]:
    """The file's arrays that an import knows; others, of whatever kind, are passed over."""
    try:
        # Opened here: np.load leaves its own handle open when the zip is damaged.
        with file.open("rb") as opened:
            loaded = np.load(opened, allow_pickle=False)
            found = [] if isinstance(loaded, np.ndarray) else list(loaded.files)
            arrays = {name: loaded[name] for name in found if name in _KNOWN}
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except _UNREADABLE as error:
        raise DataError(f"{file} cannot be read as an .npz of plain arrays: {error}") from error
    _check_names(found, file)
    return arrays


def _check_names(found: list[str], file: Path) -> None:
    needed = [f"{split}_{what}" for split in ("train", "test") for what in ("features", "labels")]
    if ("val_features" in found) != ("val_labels" in found):
        needed += ["val_features", "val_labels"]
    lacking = [name for name in needed if name not in found]
    if lacking:
        raise DataError(f"{file} lacks {', '.join(lacking)}; it holds: {', '.join(sorted(found)) or 'no named arrays'}")


def _classes(arrays: dict[str, NDArray[Any]], file: Path) -> tuple[str, ...]:
    if "class_names" in arrays:
        # Names may repeat: ImageNet has two classes called "crane".
        return _strings(arrays["class_names"], "class_names", file)
    if "text_features" in arrays:
        count = len(np.atleast_1d(arrays["text_features"]))
    else:
        labels = arrays["train_labels"]
        count = int(labels.max()) + 1 if labels.dtype.kind in "iu" and labels.size else 0
        if count > labels.size:
            raise DataError(
                f"{file}: train_labels reach {count - 1}, but {labels.size} rows cannot fill that many classes"
            )
    return tuple(f"class {index}" for index in range(count))


def _strings(array: NDArray[Any], name: str, file: Path) -> tuple[str, ...]:
    """The array's strings; bytes are read as UTF-8."""
    if array.dtype.kind not in "US":
        raise DataError(f"{file}: {name} must be strings; found {array.dtype} {array.shape}")
    try:
        strings = [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]
        "".join(strings).encode()
    except UnicodeError as error:
        raise DataError(f"{file}: {name} holds text that is not valid Unicode: {error}") from error
    return tuple(strings)


def _dim(arrays: dict[str, NDArray[Any]], file: Path) -> int:
    shape = arrays["train_features"].shape
    if len(shape) != 2 or 0 in shape:
        raise DataError(f"{file}: train_features must be (rows, width); found {shape}")
    return int(shape[1])


def _split(
    arrays: dict[str, NDArray[Any]], split: str, num_classes: int, file: Path
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    features, labels = arrays[f"{split}_features"], arrays[f"{split}_labels"]
    width = arrays["train_features"].shape[1]
    if features.ndim != 2 or features.shape[1] != width or not len(features) or features.dtype.kind != "f":
        raise DataError(
            f"{file}: {split}_features must be floats (1 row or more, {width}); found {features.dtype} {features.shape}"
        )
    if labels.shape != (len(features),) or labels.dtype.kind not in "iu":
        raise DataError(f"{file}: {split}_labels must be {len(features)} integers; found {labels.dtype} {labels.shape}")
    bad = np.flatnonzero(~(np.abs(features) <= np.finfo(np.float32).max).all(axis=1))
    if len(bad):
        raise DataError(
            f"{file}: {split}_features holds NaN, infinity or what float32 cannot hold, first in row {bad[0]}; "
            "mend or drop those rows"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(
            f"{file}: {split}_labels run from {labels.min()} to {labels.max()}, but there are {num_classes} classes"
        )
    if split == "train" and len(np.unique(labels)) < num_classes:
        empty = sorted(set(range(num_classes)) - set(labels.tolist()))
        raise DataError(f"{file}: {len(empty)} of {num_classes} classes have no training row, class {empty[0]} first")
    return features, labels.astype(np.int64)


def _contents(split: str, features: NDArray[Any], labels: NDArray[np.int64], dtype: str) -> SplitContents:
    return SplitContents(
        path=tuple(f"{split}/{row:07d}" for row in range(len(labels))),
        label=labels,
        row=np.arange(len(labels)),
        num_views=1,
        blocks=_blocks(features, dtype),
    )


def _blocks(features: NDArray[Any], dtype: str) -> Iterator[Block]:
    for start in range(0, len(features), BLOCK_ROWS):
        image = to_stored(features[start : start + BLOCK_ROWS, None].astype(np.float32), dtype)
        yield Block(
            image=image,
            crop=np.zeros((len(image), 1, 5), dtype=np.int32),
            source=np.zeros((len(image), 2), dtype=np.uint64),
        )


def _text(arrays: dict[str, NDArray[Any]], num_classes: int, dim: int, digest: str, file: Path) -> dict[str, TextSet]:
    if "text_features" not in arrays:
        return {}
    text = arrays["text_features"]
    if text.shape != (num_classes, dim) or text.dtype.kind != "f" or not np.isfinite(text).all():
        raise DataError(
            f"{file}: text_features must be finite floats ({num_classes}, {dim}); found {text.dtype} {text.shape}"
        )
    if not (np.linalg.norm(text.astype(np.float32), axis=1) > 0).all():
        raise DataError(f"{file}: text_features has a row of zeros, which points at no class")
    labels = np.arange(num_classes, dtype=np.int32)
    return {
        DEFAULT: TextSet(
            embedding=text.astype(np.float32),
            label=labels,
            template=np.zeros_like(labels),
            templates=("{}",),
            origin=f"file:{digest}",
        )
    }


def _logit_scale(arrays: dict[str, NDArray[Any]], file: Path) -> float:
    if "logit_scale" not in arrays:
        return CLIP_LOGIT_SCALE
    value = arrays["logit_scale"]
    if (
        value.size != 1
        or value.dtype.kind not in "fiu"
        or not np.isfinite(value).all()
        or float(value.reshape(())) <= 0
    ):
        raise DataError(f"{file}: logit_scale must be one positive number, already exponentiated; found {value!r}")
    return float(value.reshape(()))


def _backbone(arrays: dict[str, NDArray[Any]], file: Path) -> str:
    return next(iter(_strings(arrays["backbone"], "backbone", file)), "unknown") if "backbone" in arrays else "unknown"


def _is_unit(features: NDArray[Any]) -> bool:
    # Half-precision rows that were normalised before rounding are off by less than this.
    return bool(np.allclose(np.linalg.norm(features.astype(np.float32), axis=1), 1, atol=5e-3))


def _manifest_digest(labels: dict[str, NDArray[np.int64]]) -> str:
    content = {split: values.tolist() for split, values in labels.items()}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _draws(train_label: NDArray[np.int64], *, has_val: bool) -> list[list[int]]:
    """The draws a fit takes by default: every row where no class has more than 16, else 16 shots of three seeds.

    Without val, the most shots that leave min(shots, 4) further rows of a class to choose on.
    """
    most = int(np.bincount(train_label).max())
    if has_val and most <= 16:
        return [[most, 1]]
    fitting = [shots for shots in (16, 8, 4, 2, 1) if has_val or shots + min(shots, 4) <= most]
    return [[shots, seed] for shots in fitting[:1] for seed in (1, 2, 3)]

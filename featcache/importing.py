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


def import_npz(file: Path, *, name: str, dataset: str | None = None) -> Path:
    """The path of the store made from `file`; raises DataError for a file that does not hold what it must.

    Arrays: `{train,val,test}_features` (N, D) and `{train,val,test}_labels` (N,), val optional; optional
    `text_features` (C, D), `class_names` (C,), `logit_scale` (), `backbone` ().
    """
    check_name(name)
    arrays = _read(file)
    classes, dim = _classes(arrays, file), _dim(arrays, file)
    splits = {split: _split(arrays, split, len(classes), file) for split in SPLITS if f"{split}_features" in arrays}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    dtype = "float16" if arrays["train_features"].dtype == np.float16 else "float32"
    spec = Spec(
        tower=Tower(
            architecture=_scalar(arrays, "backbone", "unknown"),
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
            "draws": _draws(splits["train"][1]),
        },
        splits={split: _contents(split, *pair, dtype) for split, pair in splits.items()},
        text=_text(arrays, len(classes), dim, digest, file),
    )
    write_store(path, contents)
    return path


def _read(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(file, allow_pickle=False) as loaded:
            if not hasattr(loaded, "files"):
                raise DataError(
                    f"{file} holds a single array; an import needs an .npz with train_features, train_labels, ..."
                )
            arrays = {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} cannot be read as an .npz of plain arrays: {error}") from error
    needed = [f"{split}_{what}" for split in ("train", "test") for what in ("features", "labels")]
    lacking = [name for name in needed if name not in arrays]
    if lacking:
        raise DataError(f"{file} lacks {', '.join(lacking)}; it holds: {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays


def _classes(arrays: dict[str, NDArray[Any]], file: Path) -> tuple[str, ...]:
    if "class_names" in arrays:
        names = tuple(str(name) for name in arrays["class_names"].reshape(-1))
        if len(set(names)) < len(names):
            raise DataError(f"{file}: class_names names a class twice")
        return names
    labels = arrays["train_labels"]
    highest = int(labels.max(initial=-1)) if labels.dtype.kind in "iu" else -1
    count = len(arrays["text_features"]) if "text_features" in arrays else highest + 1
    return tuple(f"class {index}" for index in range(count))


def _dim(arrays: dict[str, NDArray[Any]], file: Path) -> int:
    shape = arrays["train_features"].shape
    if len(shape) != 2 or 0 in shape:
        raise DataError(f"{file}: train_features must be (rows, width); found {shape}")
    return int(shape[1])


def _split(
    arrays: dict[str, NDArray[Any]], split: str, num_classes: int, file: Path
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    features, labels = arrays[f"{split}_features"], arrays.get(f"{split}_labels")
    if labels is None:
        raise DataError(f"{file} has {split}_features but no {split}_labels")
    width = arrays["train_features"].shape[1]
    if features.ndim != 2 or features.shape[1] != width or features.dtype.kind != "f":
        raise DataError(
            f"{file}: {split}_features must be floats (rows, {width}); found {features.dtype} {features.shape}"
        )
    if labels.shape != (len(features),) or labels.dtype.kind not in "iu":
        raise DataError(f"{file}: {split}_labels must be {len(features)} integers; found {labels.dtype} {labels.shape}")
    if not np.isfinite(features).all():
        bad = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise DataError(f"{file}: {split}_features holds NaN or infinity, first in row {bad}; mend or drop those rows")
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
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


def _scalar(arrays: dict[str, NDArray[Any]], name: str, default: str) -> str:
    return str(arrays[name].reshape(-1)[0]) if name in arrays and arrays[name].size else default


def _is_unit(features: NDArray[Any]) -> bool:
    # Half-precision rows that were normalised before rounding are off by less than this.
    return bool(np.allclose(np.linalg.norm(features.astype(np.float32), axis=1), 1, atol=5e-3))


def _manifest_digest(labels: dict[str, NDArray[np.int64]]) -> str:
    content = {split: values.tolist() for split, values in labels.items()}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _draws(train_label: NDArray[np.int64]) -> list[list[int]]:
    """The draw a fit takes by default: every row where no class has more than 16, else 16 shots of three seeds."""
    most = int(np.bincount(train_label).max())
    return [[most, 1]] if most <= 16 else [[16, seed] for seed in (1, 2, 3)]

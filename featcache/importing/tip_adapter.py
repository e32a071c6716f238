"""The cache folder of Tip-Adapter (and of the many methods built on its code), as its code writes it.

    keys_<K>shots.pt      (D, S) unit means over the augmented views of each training image, one column an image
    values_<K>shots.pt    (S, C) one-hot labels
    val_f.pt, val_l.pt    (N, D) unit embeddings and (N,) labels; absent for ImageNet
    test_f.pt, test_l.pt  likewise

Text is not in it: Tip-Adapter encodes its prompts anew in each run. Other files (fine-tuned keys) are passed over.
"""

from __future__ import annotations

import re
from pathlib import Path

from featcache.errors import ConfigError, DataError
from featcache.importing.common import UNKNOWN, Found, FoundSplit, Stated, check_shape, class_names, files_digest, holds
from featcache.importing.tensors import TensorRows, load_classifier, load_labels, load_matrix, load_one_hot, load_rows

_KEYS = re.compile(r"keys_(\d+)shots\.pt")


def read(folder: Path, stated: Stated) -> Found:
    """What the folder holds at `stated.shots`, which may be left out where it holds one. Raises DataError."""
    shots = _shots(folder, stated.shots)
    files = _files(folder, shots)
    train, num_classes = _train(*files["train"])
    dim = train.rows.shape[1]
    splits = {"train": train} | {split: _held_out(*files[split]) for split in files if split != "train"}
    for part in splits.values():
        check_shape(part, dim)
    return Found(
        source=folder.resolve().name,
        format="tip-adapter",
        digest=files_digest(folder, (file for pair in files.values() for file in pair)),
        classes=class_names(num_classes, stated.classnames),
        splits=splits,
        backbone=stated.backbone or UNKNOWN,
        text=load_classifier(stated.classifier, num_classes, dim) if stated.classifier else None,
        notes={"train_rows": f"Tip-Adapter's keys of {shots} shots: each the unit mean of an image's augmented views"},
    )


def _shots(folder: Path, asked: int | None) -> int:
    held = holds(folder)
    found = sorted(int(match[1]) for file in folder.iterdir() if (match := _KEYS.fullmatch(file.name)))
    if not found:
        raise DataError(f"no keys_<K>shots.pt: this is not a cache folder of Tip-Adapter; {held}")
    if asked is None and len(found) > 1:
        listed = ", ".join(map(str, found))
        raise ConfigError(f"{folder} holds keys of {listed} shots; say which with --shots")
    if asked is not None and asked not in found:
        raise DataError(f"there is no keys_{asked}shots.pt; {held}")
    return found[0] if asked is None else asked


def _files(folder: Path, shots: int) -> dict[str, tuple[Path, Path]]:
    """The two files of each split; raises DataError where one is lacking."""
    pairs = {
        "train": (folder / f"keys_{shots}shots.pt", folder / f"values_{shots}shots.pt"),
        "val": (folder / "val_f.pt", folder / "val_l.pt"),
        "test": (folder / "test_f.pt", folder / "test_l.pt"),
    }
    if not any(file.exists() for file in pairs["val"]):
        del pairs["val"]  # ImageNet's folder has none
    lacking = [file.name for pair in pairs.values() for file in pair if not file.is_file()]
    if lacking:
        raise DataError(f"{folder} lacks {', '.join(lacking)}; {holds(folder)}")
    return pairs


def _train(keys: Path, values: Path) -> tuple[FoundSplit, int]:
    matrix = load_matrix(keys)
    label, num_classes = load_one_hot(values)
    if 0 in matrix.shape or matrix.shape[1] != len(label):
        raise DataError(
            f"{keys} must be (width, {len(label)}), one column for each row of {values.name}; found "
            f"{tuple(matrix.shape)}"
        )
    train = FoundSplit(
        rows=TensorRows(matrix.T), label=label, rows_from=str(keys), label_from=f"the labels in {values}"
    )
    return train, num_classes


def _held_out(features: Path, labels: Path) -> FoundSplit:
    return FoundSplit(
        rows=load_rows(features),
        label=load_labels(labels),
        rows_from=str(features),
        label_from=f"the labels in {labels}",
    )

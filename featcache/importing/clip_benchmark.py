"""The feature folder of CLIP_benchmark's linear probe: <feature_root>/<model>-<pretrained>-<dataset>/.

    features_<split>.pt  (N, D) unit embeddings (raw under --normalize False)
    targets_<split>.pt   (N,) class indices

Splits are train, test and, where one was asked for, val. Folders made before val splits came in (2023) have train and
val only, and that val is the split evaluated on: it is read as test. Text is not in it; the classifier that
`--save_clf` writes, (D, C), can be given beside it.
"""

from __future__ import annotations

from pathlib import Path

from featcache.errors import DataError
from featcache.importing.common import (
    UNKNOWN,
    Found,
    FoundSplit,
    Stated,
    check_shape,
    class_names,
    count_classes,
    files_digest,
    holds,
)
from featcache.importing.tensors import load_classifier, load_labels, load_rows


def read(folder: Path, stated: Stated) -> Found:
    """What the folder holds. Raises DataError for lacking files and for what a store cannot hold."""
    named = _splits(folder)
    files = {split: (folder / f"features_{name}.pt", folder / f"targets_{name}.pt") for split, name in named.items()}
    splits = {
        split: FoundSplit(
            rows=load_rows(features),
            label=load_labels(targets),
            rows_from=str(features),
            label_from=f"the labels in {targets}",
        )
        for split, (features, targets) in files.items()
    }
    dim = splits["train"].rows.shape[1]
    for part in splits.values():
        check_shape(part, dim)
    num_classes = count_classes(splits["train"].label, splits["train"].label_from)
    return Found(
        source=folder.resolve().name,
        format="clip-benchmark",
        digest=files_digest(folder, (file for pair in files.values() for file in pair)),
        classes=class_names(num_classes, stated.classnames),
        splits=splits,
        backbone=stated.backbone or UNKNOWN,
        text=load_classifier(stated.classifier, num_classes, dim) if stated.classifier else None,
        notes={"split_files": ", ".join(f"{split} from features_{name}.pt" for split, name in named.items())},
    )


def _splits(folder: Path) -> dict[str, str]:
    """Our split -> theirs. Raises DataError where a file is lacking."""
    held = holds(folder)
    present = {file.name for file in folder.iterdir()}

    def some(split: str) -> bool:
        return bool({f"features_{split}.pt", f"targets_{split}.pt"} & present)

    named = {"train": "train", "val": "val", "test": "test"}
    if not some("test") and some("val"):
        named = {"train": "train", "test": "val"}
    elif not some("val"):
        del named["val"]
    needed = [f"{what}_{name}.pt" for name in named.values() for what in ("features", "targets")]
    lacking = [name for name in needed if name not in present]
    if lacking:
        inner = [name for name in sorted(present) if (folder / name / "features_train.pt").is_file()]
        hint = f"; give the path of one folder, such as {folder / inner[0]}" if inner else ""
        raise DataError(f"{folder} lacks {', '.join(lacking)}{hint}; {held}")
    return named

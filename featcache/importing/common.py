"""What every import shares: checks, digests, and the way from rows found somewhere to a store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featcache.bounded import read_text
from featcache.errors import DataError
from featcache.prompts import DEFAULT, TextSet
from featcache.store import Block, Contents, Spec, SplitContents, Tower, write_store
from featcache.store.claims import turn
from featcache.store.places import check_name, store_path
from featcache.store.reading import BLOCK_ROWS
from featcache.store.spec import canonical_json
from featcache.store.writing import to_stored

CLIP_LOGIT_SCALE = 100.0
"""OpenAI's CLIP models end at this multiplier (the training's upper bound); used where a source states none."""
UNKNOWN = "unknown"
Progress = Callable[[int, int], None]
"""Told how many rows were read just now, and how many reads of a row there are in all: each is checked, then stored."""
_NUM_NAMED = 12  # how many of a folder's entries a message names


class Rows(Protocol):
    """(N, D) embeddings, in memory or on disk."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type that `take` gives."""
        ...

    def take(self, at: NDArray[np.int64]) -> NDArray[Any]:
        """(n, D) rows at these positions, in this order."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What a user says of features that do not say it themselves."""

    backbone: str | None = None
    """The name of the encoder, as `--backbone` takes it."""
    classnames: Path | None = None
    """Text file with one class name a line, by class index."""
    classifier: Path | None = None
    """A tensor (D, C) of text embeddings, saved by torch.save."""
    shots: int | None = None
    """Which of a Tip-Adapter folder's caches."""


@dataclass(frozen=True, kw_only=True)
class FoundSplit:
    """One split as a reader found it."""

    rows: Rows
    label: NDArray[np.int64]
    """(N,)"""
    rows_from: str
    """How messages call the rows: a file, or a file's array."""
    label_from: str
    """How messages call the labels."""
    at: NDArray[np.int64] | None = None
    """(N,) the position in `rows` of each row of the split; None: all, in order."""
    path: tuple[str, ...] | None = None
    """(N,) the images' paths; None where they are not known: rows are then numbered."""

    @property
    def positions(self) -> NDArray[np.int64]:
        """(N,)"""
        return np.arange(self.rows.shape[0]) if self.at is None else self.at


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything a reader found, ready to become a store."""

    source: str
    """The file's or folder's own name."""
    format: str
    """What `--from` calls it."""
    digest: str
    """SHA-256 over the bytes of every file that was read for rows or labels."""
    classes: tuple[str, ...]
    splits: Mapping[str, FoundSplit]
    """train and test, and val where there is one; test alone is something to evaluate on."""
    backbone: str = UNKNOWN
    text: TextSet | None = None
    logit_scale: float | None = None
    """The multiplier, already exponentiated; None where nothing states it."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What else provenance says: what the reader took for what."""


def unseen(_rows: int, _total: int) -> None:
    """A Progress that nobody looks at."""


def save(found: Found, *, name: str, dataset: str | None, progress: Progress = unseen) -> Path:
    """The path of the store made of what was found. Raises DataError before anything is written."""
    check_name(name)
    for split, part in found.splits.items():
        check_labels(part, len(found.classes), split=split)
    total = 2 * sum(len(part.positions) for part in found.splits.values())

    def blocks_of(part: FoundSplit) -> Iterator[tuple[int, NDArray[Any]]]:
        for start, rows in _blocks_of(part):
            yield start, rows
            progress(len(rows), total)

    unit = [_scan(part, blocks_of(part)) for part in found.splits.values()]
    halves = all(part.rows.dtype == np.float16 for part in found.splits.values())
    dtype = "float16" if halves else "float32"
    tower = Tower(architecture=found.backbone, activation=UNKNOWN, checkpoint=f"file:{found.digest}", precision=UNKNOWN)
    spec = Spec(
        tower=tower, transform={"style": "import"}, view_seed=0, dtype=dtype, manifest=_manifest_digest(found.splits)
    )
    path = store_path(name, spec.key)
    contents = Contents(
        spec=spec,
        classes=found.classes,
        dim=found.splits["test"].rows.shape[1],
        logit_scale=CLIP_LOGIT_SCALE if found.logit_scale is None else found.logit_scale,
        norm="unit" if all(unit) else "raw",
        provenance=_provenance(found, dataset or name),
        splits={split: _contents(split, part, blocks_of(part), dtype) for split, part in found.splits.items()},
        text={} if found.text is None else {DEFAULT: found.text},
    )
    with turn(path):
        write_store(path, contents)
    return path


def _provenance(found: Found, dataset: str) -> dict[str, Any]:
    return {
        "kind": "import",
        "format": found.format,
        "dataset": dataset,
        "backbone": found.backbone,
        "source": found.source,
        "logit_scale": "not stated: CLIP's 100 assumed" if found.logit_scale is None else "from the file",
        "draws": _draws(found.splits["train"].label, has_val="val" in found.splits) if "train" in found.splits else [],
        **found.notes,
    }


def check_labels(part: FoundSplit, num_classes: int, *, split: str) -> None:
    """Raises DataError for labels outside the classes, and for a class that train lacks."""
    low, high = part.label.min(), part.label.max()
    if low < 0 or high >= num_classes:
        raise DataError(f"{part.label_from} run from {low} to {high}, but there are {num_classes} classes")
    if split == "train" and len(np.unique(part.label)) < num_classes:
        empty = sorted(set(range(num_classes)) - set(part.label.tolist()))
        raise DataError(
            f"{part.label_from}: {len(empty)} of {num_classes} classes have no training row, class {empty[0]} first"
        )


def count_classes(train_label: NDArray[Any], label_from: str) -> int:
    """The number of classes that train labels speak of. Raises DataError where there are fewer rows than that."""
    count = int(train_label.max()) + 1 if train_label.size else 0
    if count > train_label.size:
        raise DataError(f"{label_from} reach {count - 1}, but {train_label.size} rows cannot fill that many classes")
    return count


def check_shape(part: FoundSplit, dim: int) -> None:
    """Raises DataError unless there is a row or more, all `dim` wide, and a label for each."""
    if 0 in part.rows.shape or part.rows.shape[1] != dim:
        raise DataError(
            f"{part.rows_from} must hold 1 row or more, each {dim or 'some'} numbers wide; found {part.rows.shape}"
        )
    if len(part.label) != len(part.positions):
        raise DataError(
            f"{part.rows_from} holds {len(part.positions)} rows, but there are {len(part.label)} of {part.label_from}"
        )


def class_names(count: int, file: Path | None) -> tuple[str, ...]:
    """Names as prompts use them: the file's, one a line by class index, else "class N"."""
    if file is None:
        return tuple(f"class {index}" for index in range(count))
    try:
        lines = read_text(file).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read class names from {file}: {error}") from error
    if len(lines) != count:
        raise DataError(f"{file} has {len(lines)} lines, but there are {count} classes; give one name a line")
    # Names may repeat: ImageNet has two classes called "crane".
    names = tuple(prompt_name(line) for line in lines)
    if not all(names):
        raise DataError(f"{file}: line {names.index('') + 1} is empty; give one name a line, by class index")
    return names


def prompt_name(name: str) -> str:
    """The name as prompts use it: underscores are spaces."""
    return " ".join(name.replace("_", " ").split())


def text_set(embedding: NDArray[Any], num_classes: int, dim: int, *, digest: str, what: str) -> TextSet:
    """One sentence a class, of unknown words. Raises DataError for what is not finite floats (C, D) without 0-rows."""
    if embedding.shape != (num_classes, dim) or embedding.dtype.kind != "f" or not np.isfinite(embedding).all():
        raise DataError(
            f"{what} must be finite floats ({num_classes}, {dim}); found {embedding.dtype} {embedding.shape}"
        )
    if not (np.linalg.norm(embedding.astype(np.float32), axis=1) > 0).all():
        raise DataError(f"{what} has a row of zeros, which points at no class")
    label = np.arange(num_classes, dtype=np.int32)
    return TextSet(
        embedding=embedding.astype(np.float32),
        label=label,
        template=np.zeros_like(label),
        templates=("{}",),
        origin=f"file:{digest}",
    )


def file_digest(file: Path) -> str:
    """SHA-256, in hex, of the file's bytes."""
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError:
        raise DataError(f"there is no file {file}") from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error


def files_digest(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256, in hex, over each file's path below the folder and its bytes: moving the folder changes nothing."""
    lines = sorted(f"{file.relative_to(folder).as_posix()} {file_digest(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def holds(folder: Path) -> str:
    """What a folder holds, in words, for messages. Raises DataError where it is no folder."""
    try:
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot list the folder {folder}: {error.strerror}") from error
    more = f", .. ({len(names)} in all)" if len(names) > _NUM_NAMED else ""
    return f"{folder} holds: {', '.join(names[:_NUM_NAMED]) or 'nothing'}{more}"


def _scan(part: FoundSplit, blocks: Iterable[tuple[int, NDArray[Any]]]) -> bool:
    """Whether every row of the split has unit length. Raises DataError for a row that float32 cannot hold."""
    unit = True
    for start, rows in blocks:
        bad = np.flatnonzero(~(np.abs(rows) <= np.finfo(np.float32).max).all(axis=1))
        if len(bad):
            first = start + int(bad[0])
            named = f" ({part.path[first]})" if part.path else ""
            raise DataError(
                f"{part.rows_from} holds NaN, infinity or what float32 cannot hold, first in row "
                f"{part.positions[first]}{named}; mend or drop those rows"
            )
        # Half-precision rows that were normalised before rounding are off by less than this.
        unit &= bool(np.allclose(np.linalg.norm(rows.astype(np.float32), axis=1), 1, atol=5e-3))
    return unit


def _blocks_of(part: FoundSplit) -> Iterator[tuple[int, NDArray[Any]]]:
    positions = part.positions
    for start in range(0, len(positions), BLOCK_ROWS):
        yield start, part.rows.take(positions[start : start + BLOCK_ROWS])


def _contents(split: str, part: FoundSplit, blocks: Iterable[tuple[int, NDArray[Any]]], dtype: str) -> SplitContents:
    return SplitContents(
        path=part.path or tuple(f"{split}/{row:07d}" for row in range(len(part.label))),
        label=part.label,
        row=np.arange(len(part.label)),
        num_views=1,
        blocks=_stored_blocks(blocks, dtype),
    )


def _stored_blocks(blocks: Iterable[tuple[int, NDArray[Any]]], dtype: str) -> Iterator[Block]:
    for _, rows in blocks:
        image = to_stored(rows[:, None].astype(np.float32), dtype)
        yield Block(
            image=image,
            crop=np.zeros((len(image), 1, 5), dtype=np.int32),
            source=np.zeros((len(image), 2), dtype=np.uint64),
        )


def _manifest_digest(splits: Mapping[str, FoundSplit]) -> str:
    if all(part.path is None for part in splits.values()):
        labels = {split: part.label.tolist() for split, part in splits.items()}
        return hashlib.sha256(canonical_json(labels).encode()).hexdigest()
    images = {split: [list(part.path or ()), part.label.tolist()] for split, part in splits.items()}
    return hashlib.sha256(canonical_json(images).encode()).hexdigest()


def _draws(train_label: NDArray[np.int64], *, has_val: bool) -> list[list[int]]:
    """The draws a fit takes by default: every row where no class has more than 16, else 16 shots of three seeds.

    Without val, the most shots that leave min(shots, 4) further rows of a class to choose on.
    """
    most = int(np.bincount(train_label).max())
    if has_val and most <= 16:
        return [[most, 1]]
    fitting = [shots for shots in (16, 8, 4, 2, 1) if has_val or shots + min(shots, 4) <= most]
    return [[shots, seed] for shots in fitting[:1] for seed in (1, 2, 3)]

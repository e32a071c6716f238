"""From a store and a draw to tensors: the only place where stored rows become what methods see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featcache.errors import ConfigError, DataError, InputError, MissingRowsError, UnknownNameError
from featcache.fewshot import Draw, base_size, draw
from featcache.ops import normalise
from featcache.prompts import DEFAULT, classifier, mean_classifier
from featcache.recipes import IMAGENET
from featcache.store import Store
from featcache.task import Frozen, Task
from featcache.text_sources import Sources

if TYPE_CHECKING:
    from featcache.backbones.text_tower import TextTower


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows to evaluate on: view 0 only."""

    image: Tensor
    """(N, D) raw embeddings."""
    label: Tensor
    """(N,) class indices."""


VIEWS = ("turn", "all", "mean")
"""Ways of taking a draw's augmented views."""
CLASSES = ("all", "base", "new")
"""All classes, or one of the halves that CoOp trains and tests on apart."""


def class_range(store: Store, which: str) -> range:
    """The class indices that `all`, `base` or `new` means. Raises UnknownNameError, ConfigError for under 2 classes."""
    num_classes = len(store.classes)
    half = base_size(num_classes)
    ranges = {"all": range(num_classes), "base": range(half), "new": range(half, num_classes)}
    if which not in ranges:
        raise UnknownNameError("part of the classes", which, CLASSES)
    if which != "all" and len(ranges[which]) < 2:
        raise ConfigError(f"the {which} half of the {num_classes} classes of {store.name} has fewer than 2 of them")
    return ranges[which]


def load_frozen(
    store: Store,
    text_set: str,
    device: torch.device,
    classes: range | None = None,
    *,
    tower: TextTower | None = None,
) -> Frozen:
    """The store's text weights and logit scale; a store without text gives (C, 0) weights.

    `text_set` names a set, or several joined by + whose classifiers are averaged; `classes` are those wanted, all
    when None.
    """
    num_classes = len(store.classes)
    classes = range(num_classes) if classes is None else classes
    weights = np.zeros((num_classes, 0), dtype=np.float32)
    if not store.text_sets and text_set != DEFAULT:
        raise ConfigError(
            f"--prompts {text_set}: the store {store.name} has no text; "
            f"`featcache prompts add {store.name} SET --backbone NAME` adds some"
        )
    if store.text_sets:
        weights = mean_classifier([classifier(store.text(name), num_classes) for name in text_set.split("+")])
    return Frozen(
        text=torch.from_numpy(weights[classes.start : classes.stop]).to(device),
        logit_scale=store.logit_scale,
        names=store.classes[classes.start : classes.stop],
        tower=tower,
    )


def with_learnt(frozen: Frozen, sources: Sources, learnt: Sequence[NDArray[np.float32]]) -> Frozen:
    """`frozen`, whose text is of the sources' prompt sets, with the text (C, D) that the sources' runs have learnt.

    Each run counts as much as all prompt sets together. Raises ConfigError where a run learnt of other
    classes or at another width.
    """
    for run, weights in zip(sources.runs, learnt, strict=True):
        if weights.shape != tuple(frozen.text.shape):
            raise ConfigError(
                f"result {run} learnt text of shape {weights.shape}; here it would be {tuple(frozen.text.shape)}"
            )
    written = [frozen.text.cpu().numpy()] if sources.sets else []
    text = torch.from_numpy(mean_classifier([*written, *learnt])).to(frozen.text)
    return replace(frozen, text=text)


def load_task(store: Store, chosen: Draw, frozen: Frozen, first_class: int = 0) -> Task:
    """The draw's training rows in their augmented views, or in view 0 where there are no others.

    Labels count from `first_class`, the first that the draw has images of.
    """
    positions, labels = _locate(store, "train", chosen.train, chosen)
    if not len(positions):
        raise DataError(f"{_words(chosen)} has no readable training image in {store.name}: there is nothing to fit on")
    image = store.gather("train", "image", positions)[:, 1 if store.num_views("train") > 1 else 0 :]
    device = frozen.text.device
    return Task(
        text=frozen.text,
        logit_scale=frozen.logit_scale,
        names=frozen.names,
        tower=frozen.tower,
        image=torch.from_numpy(image.astype(np.float32)).to(device),
        label=torch.from_numpy(labels - first_class).to(device),
    )


def present(task: Task, views: str) -> Task:
    """The task with its views as a method takes them. Raises UnknownNameError.

    `turn` keeps them apart; `all` makes each an image of its own, (S V, 1, D); `mean` takes the mean of their unit
    embeddings, normalised, (S, 1, D), as Tip-Adapter makes its keys (arXiv 2111.03930).
    """
    match views:
        case "turn":
            return task
        case "all":
            label = task.label.repeat_interleave(task.image.shape[1])
            return replace(task, image=task.image.flatten(0, 1)[:, None], label=label)
        case "mean":
            return replace(task, image=normalise(normalise(task.image).mean(dim=1, keepdim=True)))
    raise UnknownNameError("way of taking views", views, VIEWS)


def load_rows(
    store: Store,
    split: str,
    device: torch.device,
    *,
    classes: range | None = None,
    rows: NDArray[np.int64] | None = None,
    drawn: Draw | None = None,
) -> Rows:
    """View 0 of the given manifest rows of a split, of every stored row where none are given; raises for no row.

    Rows of classes outside `classes` are left out; labels count from the first of them. `drawn` is the draw
    the rows belong to, for the message where the store lacks some.
    """
    if rows is None:
        rows = store.rows(split)
    positions, labels = _locate(store, split, rows, drawn)
    if classes is not None:
        wanted = (labels >= classes.start) & (labels < classes.stop)
        positions, labels = positions[wanted], labels[wanted] - classes.start
    if not len(labels):
        raise MissingRowsError(f"the store {store.name} holds no readable image of those asked of {split}")
    image = store.gather(split, "image", positions)[:, 0].astype(np.float32)
    return Rows(image=torch.from_numpy(image).to(device), label=torch.from_numpy(labels).to(device))


def check_test(store: Store) -> None:
    """Raises MissingRowsError, before any training, where there will be nothing to test on; reads no embedding."""
    if "test" not in store.splits or not set(store.rows("test").tolist()) - set(store.missing("test")):
        raise MissingRowsError(f"the store {store.name} holds no readable test image, so no result could be told")


def draws_of(store: Store, shots: int | None, shot_seeds: tuple[int, ...] | None) -> list[Draw]:
    """The draws asked for; without shots the largest extracted, without seeds all that were extracted.

    Without shots and val, larger ones that use up every training image are passed over: none would be left to choose
    on. Where no class has more than `shots` training images, every seed would draw the same ones: one draw.
    """
    if "train" not in store.splits or not store.num_rows("train"):
        raise InputError(f"the store {store.name} holds no training rows, so there is nothing to fit on")
    recorded = [(int(k), int(seed)) for k, seed in store.provenance.get("draws", [])]
    label = store.label("train")
    most = int(np.bincount(label).max())
    if shots is None:
        extracted = {k for k, _ in recorded}
        shots = max(extracted - set(exhausting(store)) or extracted, default=min(most, 16))
    if shot_seeds is None:
        shot_seeds = tuple(seed for k, seed in recorded if k == shots) or (1, 2, 3)
    if most <= shots:
        shot_seeds = shot_seeds[:1]
    val_label = store.label("val") if "val" in store.splits else None
    return [draw(label, val_label, shots=shots, shot_seed=seed) for seed in shot_seeds]


def exhausting(store: Store) -> list[int]:
    """Extracted shots, ascending, that leave no image to choose on: the data set has no val, and they take all."""
    if "val" in store.splits and len(store.label("val")):
        return []
    most = int(np.bincount(store.label("train")).max())
    return sorted({int(k) for k, _ in store.provenance.get("draws", []) if int(k) >= most})


def data_set(store: Store) -> str:
    """What recipes know the store's data set by: recipes.IMAGENET for ImageNet, else the name it was extracted under.

    ImageNet is told by its name or, whatever folder or list it came from, by 1000 classes whose ids are WordNet's. A
    store that knows its classes by their names alone (most imports) is not recognised: there --epochs must say.
    """
    ids = store.class_ids
    if len(ids) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in ids):
        return IMAGENET
    return str(store.provenance.get("dataset", ""))


def missing_paths(store: Store) -> list[str]:
    """Images that extraction could not read and was told to skip: every result names them."""
    return [
        f"{split}: {store.paths(split)[row]} ({reason})"
        for split in store.splits
        for row, reason in store.missing(split).items()
    ]


def _locate(
    store: Store, split: str, rows: NDArray[np.int64], chosen: Draw | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in the store and labels of manifest rows, images known to be unreadable left out."""
    unreadable = store.missing(split)
    if unreadable:
        rows = rows[~np.isin(rows, list(unreadable))]
    stored = store.rows(split)
    positions = np.searchsorted(stored, rows)
    absent = (
        (positions >= len(stored)) | (stored[np.minimum(positions, len(stored) - 1)] != rows)
        if len(stored)
        else np.ones(len(rows), dtype=bool)
    )
    if absent.any():
        raise MissingRowsError(
            f"the store {store.name} lacks {int(absent.sum())} of the {len(rows)} {split} images of "
            f"{_words(chosen) if chosen else 'the split'}; add them with: {_extract_command(store, chosen)}"
        )
    return positions.astype(np.int64), store.label(split)[rows]


def _extract_command(store: Store, chosen: Draw | None) -> str:
    source = store.provenance
    if source.get("kind") != "extract":
        return "(an import cannot be extended: import a file that holds them)"
    # Rows that a protocol holds out of train although there is a val split belong to no draw of CoOp's.
    drawn = chosen is not None and (chosen.val_split == "val" or "val" not in store.splits)
    return f"{source['command']} " + (_draw_options(chosen) if drawn and chosen else "--all-train")


def _draw_options(chosen: Draw) -> str:
    return f"--shots {chosen.shots} --seeds {chosen.shot_seed}"


def _words(chosen: Draw) -> str:
    return f"the draw of {chosen.shots} shots, seed {chosen.shot_seed}"

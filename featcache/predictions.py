"""What the chosen runs say of each test image, kept so that searches can be compared image by image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.store.spec import canonical_json

if TYPE_CHECKING:  # records of searches are read without torch
    from torch import Tensor

    from featcache.selection import Watch
    from featcache.store import Store


@dataclass(frozen=True, kw_only=True, eq=False)
class Items:
    """Test images, in the order in which they are predicted. Compare two by `digest`."""

    row: NDArray[np.int64]
    """(N,) rows of the manifest's test split."""
    label: NDArray[np.int64]
    """(N,) classes, from 0 for the first of `classes`."""
    classes: tuple[str, ...]
    """(C,) the classes' names."""
    digest: str
    """SHA-256, in hex: the same data set, the same images in the same order, the same labels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What one run says of each test image."""

    predicted: NDArray[np.int64]
    """(N,) classes."""
    confidence: NDArray[np.float32]
    """(N,) the probability that the softmax of the logits gives to the predicted class."""


class Answers(NamedTuple):
    """What the run chosen for a draw, from one starting point, says of each test image."""

    draw: str
    """Digest of the images drawn."""
    shot_seed: int
    init_seed: int
    predictions: Predictions

    def right(self, items: Items) -> NDArray[np.bool_]:
        """(N,) whether each test image is predicted right."""
        same: NDArray[np.bool_] = self.predictions.predicted == items.label
        return same


def items_of(store: Store, classes: range) -> Items:
    """The store's test images of some classes: those that `loading.load_rows` gives, in its order."""
    stored, label = store.rows("test"), store.label("test")
    kept = ~np.isin(stored, list(store.missing("test"))) & np.isin(label[stored], classes)
    positions = np.flatnonzero(kept)
    row = stored[positions]
    images = hashlib.sha256(store.gather("test", "source", positions).astype("<u8").tobytes()).hexdigest()
    # An import of features knows nothing of its images but their labels: there the data set's name must tell.
    content = [store.provenance.get("dataset", store.name), store.spec.manifest, row.tolist(), images, list(classes)]
    return Items(
        row=row,
        label=label[row] - classes.start,
        classes=store.classes[classes.start : classes.stop],
        digest=hashlib.sha256(canonical_json(content).encode()).hexdigest(),
    )


class Keeper:
    """Is shown the logits of runs, block by block, and keeps what the wanted ones say of each image."""

    def __init__(self, wanted: Iterable[int] = ()) -> None:
        self._blocks: dict[int, list[tuple[Tensor, Tensor]]] = {run: [] for run in wanted}

    def watch(self, runs: Sequence[int]) -> Watch:
        """What to show the logits (n, C) of some runs to, named by their place in `runs`, from the first row on."""
        self._blocks.update((run, []) for run in runs if run in self._blocks)
        return lambda place, logits: self._see(runs[place], logits)

    def _see(self, run: int, logits: Tensor) -> None:
        if run in self._blocks:
            predicted = logits.argmax(dim=1)
            top = logits.gather(1, predicted[:, None])[:, 0]
            self._blocks[run].append((predicted, (top - logits.logsumexp(dim=1)).exp().float()))

    def kept(self) -> tuple[Predictions, ...]:
        """What each wanted run said of all images, in the order in which they were wanted."""
        return tuple(_joined(blocks) for blocks in self._blocks.values())


def _joined(blocks: list[tuple[Tensor, Tensor]]) -> Predictions:
    import torch

    predicted, confidence = (torch.cat(part).cpu().numpy() for part in zip(*blocks, strict=True))
    return Predictions(predicted=predicted, confidence=confidence)

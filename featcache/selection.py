"""Selection protocols: on which rows a configuration is chosen. The word stands beside every number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from featcache.errors import ConfigError, UnknownNameError
from featcache.fewshot import Draw, draw
from featcache.loading import Rows, load_rows
from featcache.ops import cosine_logits
from featcache.store import Store
from featcache.task import Frozen, Method, Params
from featcache.threads import side_by_side
from featcache.training import predict_each

PROTOCOLS = {
    "fewshot-val": "min(shots, 4) val images a class, drawn as CoOp draws them",
    "kshot-val": "as many val images a class as training ones",
    "full-val": "every val image",
    "train-holdout": "min(shots, 4) further train images a class, never trained on",
    "cross-validation": "the draw's own images, held out in turn: min(shots, 4) folds",
    "fixed": "nothing is chosen: the grid has one value",
    "test-oracle": "the test set itself: an upper bound, to reproduce papers that chose so",
}


CHOOSE = ("per-draw", "pooled")
"""One choice for each draw, or one for all of them by the mean over draws."""
MANY = 64
"""Configurations on the same parameters from which on their scoring is worth sharing among cores."""
MAX_PARTS = 4
"""Cores that share it: each holds its own (rows, keys) of a cache model."""
BLOCK = 8192
"""Rows that logits are made for at once: bounds memory whatever the test set's size."""
Watch = Callable[[int, Tensor], None]
"""Shown the logits (n, C) that each of some methods, by index, gives the next n rows, before they are written over."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a run did on some rows."""

    accuracy: float
    """Fraction of rows whose highest logit is their class."""
    loss: float
    """Mean cross-entropy in nats."""
    num_rows: int


FAILED: Final = Score(accuracy=float("nan"), loss=float("nan"), num_rows=0)
"""The score of a run that its method made nothing of."""


def score(logits: Tensor, label: Tensor) -> Score:
    """The score of logits (N, C) against labels (N,)."""
    return _score_blocks([(label, [logits])])[0]


def score_each(
    methods: Sequence[Method], params: Params, rows: Rows, frozen: Frozen, watch: Watch = lambda _index, _logits: None
) -> list[Score]:
    """The scores of some methods that share fitted parameters and differ in post-hoc fields, block by block of rows.

    On a CPU a grid of many is cut to one part a core. `watch` is shown the logits (n, C) of each, by its index, a
    method's blocks in order.
    """
    parts = min(torch.get_num_threads(), MAX_PARTS) if len(methods) >= MANY and rows.image.device.type == "cpu" else 1
    bounds = [len(methods) * part // parts for part in range(parts + 1)]

    def score_part(low: int, high: int) -> list[Score]:
        made = ((label, predict_each(methods[low:high], params, image, frozen)) for image, label in _blocks(rows))
        return _score_blocks(made, lambda index, logits: watch(low + index, logits))

    if parts == 1:
        return score_part(0, len(methods))
    with side_by_side(parts) as pool:
        return [one for part in pool.map(score_part, bounds[:-1], bounds[1:]) for one in part]


def score_zero_shot(rows: Rows, frozen: Frozen) -> Score:
    """The score of zero-shot CLIP; NaN where there is no text."""
    if not frozen.text.shape[1]:
        return Score(accuracy=float("nan"), loss=float("nan"), num_rows=0)
    text, scale = frozen.text, frozen.logit_scale
    return _score_blocks((label, [cosine_logits(image, text, scale)]) for image, label in _blocks(rows))[0]


def _score_blocks(
    blocks: Iterable[tuple[Tensor, Iterable[Tensor]]], watch: Watch = lambda _index, _logits: None
) -> list[Score]:
    """Scores from blocks of labels (n,) and the logits (n, C) of each method, always in the same order."""
    found: dict[int, list[Tensor]] = {}
    num_rows = 0
    for label, each in blocks:
        num_rows += len(label)
        for index, logits in enumerate(each):
            watch(index, logits)
            right = (logits.argmax(dim=1) == label).sum()
            loss = F.cross_entropy(logits, label, reduction="sum")
            found.setdefault(index, []).append(torch.stack([right.double(), loss.double()]))
    # Brought over at once: a number at a time, a grid of thousands would wait for the device at each.
    sums = torch.stack([torch.stack(parts).sum(dim=0) for parts in found.values()]).tolist()
    return [Score(accuracy=right / num_rows, loss=loss / num_rows, num_rows=num_rows) for right, loss in sums]


def _blocks(rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(rows.image, BLOCK), torch.split(rows.label, BLOCK), strict=True)


def default_protocol(store: Store) -> str:
    """`fewshot-val` where the data set has a val split, else `train-holdout`."""
    return "fewshot-val" if _has(store, "val") else "train-holdout"


def check_protocol(protocol: str, store: Store, num_configs: int) -> str:
    """The protocol itself, if this store and grid allow it; the error says which ones remain."""
    if protocol not in PROTOCOLS:
        raise UnknownNameError("selection protocol", protocol, PROTOCOLS)
    if protocol in ("fewshot-val", "kshot-val", "full-val") and not _has(store, "val"):
        raise ConfigError(
            f"--select {protocol} needs val images and the store {store.name} has none; "
            f"what remains: {what_remains(store, but=protocol)}"
        )
    if protocol == "fixed" and num_configs != 1:
        raise ConfigError(
            f"--select fixed chooses nothing, but the grid has {num_configs} configurations; "
            "give one, or another protocol"
        )
    return protocol


def what_remains(store: Store, *, but: str) -> str:
    """The protocols that the store allows, without one that is not to be had, in words."""
    kept = ["fewshot-val", "kshot-val", "full-val"] if _has(store, "val") else []
    kept += ["train-holdout", "cross-validation (from 2 shots)", "fixed (one alpha)"]
    words = [name for name in kept if name.partition(" ")[0] != but]
    return ", ".join([*words, "test-oracle (an upper bound, not a result)"])


def redraw(protocol: str, store: Store, chosen: Draw) -> Draw:
    """The draw under a protocol: `train-holdout` takes its val from train even where a val split exists, and
    `kshot-val` as many images a class as it trains on."""
    if protocol == "train-holdout" and chosen.val_split != "train":
        chosen = draw(store.label("train"), None, shots=chosen.shots, shot_seed=chosen.shot_seed)
    if protocol == "kshot-val":
        labels = store.label("train"), store.label("val")
        chosen = draw(*labels, shots=chosen.shots, shot_seed=chosen.shot_seed, max_val_shots=chosen.shots)
    if protocol in ("fewshot-val", "train-holdout") and not len(chosen.val):
        raise ConfigError(
            f"--select {protocol} finds no image to choose on: the draw of {chosen.shots} shots uses up every train "
            f"image; what remains: fewer --shots, {what_remains(store, but=protocol)}"
        )
    return chosen


def selection_rows(protocol: str, store: Store, chosen: Draw, device: torch.device, classes: range) -> Rows | None:
    """The rows of some classes that a protocol chooses on for one draw; None where nothing is chosen."""
    match protocol:
        case "fewshot-val" | "kshot-val" | "train-holdout":
            return load_rows(store, chosen.val_split, device, classes=classes, rows=chosen.val, drawn=chosen)
        case "full-val":
            return load_rows(store, "val", device, classes=classes)
        case "test-oracle":
            return load_rows(store, "test", device, classes=classes)
    return None


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean over draws, each counting alike."""
    return Score(
        accuracy=fmean(score.accuracy for score in scores),
        loss=fmean(score.loss for score in scores),
        num_rows=sum(score.num_rows for score in scores),
    )


def choose(scores: Sequence[Score], alphas: Sequence[float]) -> int:
    """The index of the best run: highest accuracy, then lowest cross-entropy, then smallest alpha.

    A run that diverged, whose loss is not finite, comes after all others, and one that failed after those.
    """

    def rank(index: int) -> tuple[float, ...]:
        accuracy, loss = scores[index].accuracy, scores[index].loss
        lost = 2 if math.isnan(accuracy) else 0 if math.isfinite(loss) else 1
        return (lost, 0.0, 0.0, alphas[index]) if lost == 2 else (lost, -accuracy, 0.0 if lost else loss, alphas[index])

    return min(range(len(scores)), key=rank)


def _has(store: Store, split: str) -> bool:
    return split in store.splits and store.num_rows(split) > 0

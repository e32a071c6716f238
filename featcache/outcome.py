"""What a search found: its runs, its choice and their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featcache.predictions import Answers, Items, Predictions

if TYPE_CHECKING:  # records of searches are read without torch
    from featcache.preparing import Settings
    from featcache.recipes import Recipe
    from featcache.selection import Score
    from featcache.shift import Shifted


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run: its configuration, its draw and its numbers."""

    config: dict[str, Any]
    shots: int
    shot_seed: int
    init_seed: int
    draw: str
    """Digest of the images drawn."""
    selection: Score | None
    """On the protocol's rows; None under `fixed`."""
    chosen: bool
    test: Score | None = None
    """Filled after the choice."""
    num_params: int | None = None
    """Numbers that gradient steps can change; None for a method that takes none."""
    fault: str = ""
    """Why the method itself made nothing of this run: it has no scores then. Empty for all others."""

    @property
    def diverged(self) -> bool:
        """Whether it has scores, but no finite loss."""
        scores = [score for score in (self.selection, self.test) if score]
        return not self.fault and not all(math.isfinite(score.loss) for score in scores)

    @property
    def alpha(self) -> float:
        """The residual ratio, or NaN for a method without one."""
        return float(self.config.get("alpha", "nan"))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished search."""

    store: str
    store_key: str
    content: str
    dataset: str
    backbone: str
    untrained: bool
    adapter: str
    text_set: str
    classes: str
    """`all`, `base` or `new`."""
    protocol: str
    choose: str
    """`per-draw` or `pooled`."""
    settings: Settings
    """What was asked for, with the draws and the protocol as they came out: enough to search again."""
    views: str
    """How a draw's augmented views were taken: `turn`, `all` or `mean`."""
    recipe: Recipe
    device: str
    trained: bool
    """Whether the method is fitted by gradient steps, so that the recipe says something."""
    runs: tuple[RunRecord, ...]
    zero_shot: Score
    """Zero-shot CLIP on the same test rows."""
    notes: tuple[str, ...]
    """What a reader must know: images left out, classes short of images."""
    seconds: dict[str, float]
    also: tuple[Shifted, ...] = ()
    """The chosen runs on other stores' test rows."""
    items: Items | None = None
    """The test images, filled after the choice."""
    predictions: tuple[Predictions, ...] = ()
    """What each of `chosen` says of the test images, in order; filled after the choice."""
    texts: tuple[NDArray[np.float32], ...] = ()
    """(C, D) the unit text weights that each of `chosen` has learnt, for a method that learns text."""

    @property
    def chosen(self) -> tuple[RunRecord, ...]:
        """The chosen run of each draw."""
        return tuple(run for run in self.runs if run.chosen)

    @property
    def test_accuracy(self) -> tuple[float, float]:
        """Mean and spread (sample standard deviation over draws) of the chosen runs' test accuracy."""
        return mean_spread([run.test.accuracy for run in self.chosen if run.test])

    @property
    def answers(self) -> tuple[Answers, ...]:
        """What each chosen run says of the test images; none before the choice."""
        runs = self.chosen if self.predictions else ()
        return tuple(
            Answers(run.draw, run.shot_seed, run.init_seed, made)
            for run, made in zip(runs, self.predictions, strict=True)
        )


def mean_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the spread of one value is NaN, not 0, and so is all of NaN's or none."""
    if not values or any(math.isnan(value) for value in values):
        return float("nan"), float("nan")
    return fmean(values), stdev(values) if len(values) > 1 else float("nan")


def varying(runs: Sequence[RunRecord]) -> list[str]:
    """The fields that differ between runs, in the order of the configuration."""
    return varying_fields([run.config for run in runs])


def varying_fields(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields in which some configurations differ, in the order of the first."""
    return [name for name in configs[0] if len({config[name] for config in configs}) > 1]


def words(config: Mapping[str, Any], names: Sequence[str]) -> str:
    """Some fields of a configuration in words: `alpha 0.3, beta 5.5`."""
    return ", ".join(f"{name} {plain(config[name])}" for name in names)


def plain(value: object) -> str:
    """A field's value as it is printed."""
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Where a search takes its text weights from: prompt sets of the store, prompts that a run has learnt, or their mean.

`default`, `default+paper-7`, `run:17`, `run:17+default`. The last is the mixture of hard and soft prompts of
CLIP-Adapter's Table 7 as we read it, for the paper does not give its form: the normalised mean of both unit weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigError
from featcache.fewshot import Draw
from featcache.prompts import DEFAULT

_RUN = "run:"
Learnt = Callable[[int, Draw], NDArray[np.float32]]
"""(result id, draw) -> (C, D) the unit text weights that the result's chosen run learnt on that draw's images."""


class Sources(NamedTuple):
    """What is averaged: the mean of the sets, and each run."""

    sets: tuple[str, ...]
    """Prompt sets of the store."""
    runs: tuple[int, ...]
    """Ids of results whose chosen runs learnt text."""

    @property
    def written(self) -> str:
        """The prompt sets alone, which zero-shot CLIP is told with: `default` where all text is learnt."""
        return "+".join(self.sets) or DEFAULT


def sources_of(text_set: str) -> Sources:
    """The parts of `default+run:17`; raises ConfigError for a run without a number."""
    sets, runs = [], []
    for part in text_set.split("+"):
        if part.startswith(_RUN):
            runs.append(_id_of(part.removeprefix(_RUN), text_set))
        else:
            sets.append(part)
    return Sources(tuple(sets), tuple(runs))


def as_typed(text: str) -> str:
    """The text set that `--text` means, in which a bare number is a result: `17+default` -> `run:17+default`."""
    parts = [f"{_RUN}{part}" if part.isdecimal() else part for part in text.split("+")]
    if not sources_of("+".join(parts)).runs:
        raise ConfigError(
            f"--text {text}: give the id of a result that learnt text, as in --text 17 or --text 17+default "
            "(`featcache results` lists them); a prompt set is named by --prompts"
        )
    return "+".join(parts)


def nothing_learnt(run: int, drawn: Draw) -> NDArray[np.float32]:
    """Where no results are at hand: raises ConfigError."""
    raise ConfigError(f"text of result {run} for shots {drawn.shots}, seed {drawn.shot_seed}: no results are at hand")


def _id_of(text: str, whole: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**63:
        raise ConfigError(f"{whole}: {_RUN} is followed by the id of a result, as in {_RUN}17")
    return int(text)

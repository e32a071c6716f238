"""The points of a grid over all draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featcache.outcome import RunRecord, mean_spread, varying

MAX_ROWS = 24
"""A grid of more points is shown by its best."""


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """One point of a grid over all draws: mean and spread of accuracies, as fractions."""

    values: tuple[Any, ...]
    """Of the fields that differ between runs."""
    alpha: float
    """The residual ratio, or NaN for a method without one."""
    selection: tuple[float, float] | None
    """None where nothing was chosen on."""
    test: tuple[float, float]
    times_chosen: int
    times_failed: int
    """Runs that their method made nothing of; the means are over the others."""


def grid_rows(runs: Sequence[RunRecord]) -> list[GridRow]:
    """The runs grouped by the fields that are shown, in the grid's order."""
    names = shown_fields(runs)
    points: dict[tuple[Any, ...], list[RunRecord]] = {}
    for run in runs:
        points.setdefault(tuple(run.config[name] for name in names), []).append(run)
    rows = []
    for values, same in points.items():
        sound = [run for run in same if not run.fault]
        selection = [run.selection.accuracy for run in sound if run.selection]
        rows.append(
            GridRow(
                values=values,
                alpha=same[0].alpha,
                selection=mean_spread(selection) if same[0].selection else None,
                test=mean_spread([run.test.accuracy for run in sound if run.test]),
                times_chosen=sum(run.chosen for run in same),
                times_failed=len(same) - len(sound),
            )
        )
    return rows


def shown_fields(runs: Sequence[RunRecord]) -> list[str]:
    """The fields that differ between runs; alpha where none does, for it is what people ask after."""
    return varying(runs) or [name for name in runs[0].config if name == "alpha"]

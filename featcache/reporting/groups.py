"""Searches in groups: mean, spread and interval over draws; and one field's values side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from featcache.measures import confidence_interval
from featcache.outcome import mean_spread
from featcache.reporting.formats import Sheet
from featcache.reporting.words import number, percent
from featcache.results import Summary, grouped


class Group(NamedTuple):
    """Some searches as one: a draw's value is the mean, over the searches, of their test accuracy on it."""

    num_results: int
    num_datasets: int
    seeds: tuple[int, ...]
    """Shot seeds that all the searches have: mean and spread are over them alone."""
    num_seeds: int
    """How many seeds there are among the searches."""
    zero_shot: float
    selection: float
    test: tuple[float, float]
    """Mean and sample standard deviation over draws."""
    interval: tuple[float, float]
    """Student's 95 % interval of the mean over draws."""


def group_of(members: Sequence[Summary]) -> Group:
    """Several searches as one group; without a draw in common only the mean of their means is told."""
    by_seed = [dict(row.by_seed) for row in members]
    seeds = tuple(sorted(set.intersection(*(set(found) for found in by_seed))))
    every = {seed for found in by_seed for seed in found}
    means = [fmean(found[seed] for found in by_seed) for seed in seeds]
    tested = [row.test_accuracy for row in members if row.test_accuracy is not None]
    return Group(
        num_results=len(members),
        num_datasets=len({row.dataset for row in members}),
        seeds=seeds,
        num_seeds=len(every),
        zero_shot=_mean([row.zero_shot_accuracy for row in members]),
        selection=_mean([row.selection_accuracy for row in members]),
        test=mean_spread(means) if means else (fmean(tested) if tested else math.nan, math.nan),
        interval=confidence_interval(means),
    )


def group_sheet(summaries: Sequence[Summary], names: Sequence[str]) -> Sheet:
    """One line a group of searches that agree in some fields."""
    groups = {key: group_of(members) for key, members in grouped(summaries, names).items()}
    columns = [*(_heading(name) for name in names), "results", "data sets", "draws", "zero-shot %", "val %", "test %"]
    return Sheet(
        [*columns, "95 % interval"],
        [
            [
                *map(str, key),
                str(group.num_results),
                str(group.num_datasets),
                _draws_words(group),
                number(group.zero_shot),
                number(group.selection),
                percent(group.test),
                interval_words(group.interval),
            ]
            for key, group in groups.items()
        ],
        [
            {
                **dict(zip(names, key, strict=True)),
                "num_results": group.num_results,
                "num_datasets": group.num_datasets,
                "num_draws": len(group.seeds),
                "num_draws_of_any": group.num_seeds,
                "zero_shot_accuracy": group.zero_shot,
                "selection_accuracy": group.selection,
                "test_accuracy": group.test[0],
                "test_spread": group.test[1],
                "test_low": group.interval[0],
                "test_high": group.interval[1],
            }
            for key, group in groups.items()
        ],
    )


def across_sheet(summaries: Sequence[Summary], names: Sequence[str], across: str) -> Sheet:
    """One line a group, one column a value of `across`, and the mean of a line that has them all."""
    values = sorted({getattr(row, across) for row in summaries})
    words, plain = [], []
    for key, members in grouped(summaries, names).items():
        found = {value[0]: group_of(same).test for value, same in grouped(members, (across,)).items()}
        whole = [found[value][0] for value in values if value in found]
        mean = fmean(whole) if len(whole) == len(values) else math.nan
        words.append([*map(str, key), *(percent(found.get(value)) for value in values), number(mean)])
        tested = {str(value): found[value][0] if value in found else None for value in values}
        plain.append({**dict(zip(names, key, strict=True)), **tested, "mean": mean})
    return Sheet([*(_heading(name) for name in names), *map(str, values), "mean"], words, plain)


def unshared(summaries: Sequence[Summary], names: Sequence[str]) -> int:
    """How many groups hold searches of other draws than the rest of their group: test is told of the shared alone."""
    groups = [group_of(members) for members in grouped(summaries, names).values()]
    return sum(len(group.seeds) < group.num_seeds for group in groups)


def _draws_words(group: Group) -> str:
    if not group.seeds:
        return "none in common"
    return str(len(group.seeds)) if len(group.seeds) == group.num_seeds else f"{len(group.seeds)} of {group.num_seeds}"


def interval_words(interval: tuple[float, float] | None) -> str:
    """`89.10 to 91.02`, a dash for one draw."""
    if interval is None or math.isnan(interval[0]):
        return "-"
    return f"{number(interval[0])} to {number(interval[1])}"


def _heading(name: str) -> str:
    return {"dataset": "data set", "text_set": "prompts"}.get(name, name)


def _mean(values: Sequence[Any]) -> float:
    """The mean of all values; NaN where one is missing."""
    return math.nan if any(value is None for value in values) else fmean(values)

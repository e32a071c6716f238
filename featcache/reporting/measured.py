"""What chosen runs are worth, and one search over another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from featcache import console
from featcache.assessment import Measures
from featcache.comparison import ClassChange, Comparison, Pair
from featcache.measures import RESAMPLES
from featcache.reporting.words import no_nan, number

NUM_NAMED = 5
"""Classes and confusions that are named; --per-class and --json tell of all."""


def show_measures(measures: Measures, protocol: str) -> None:
    """A search's measures in a few lines."""
    num_draws = len({run.shot_seed for run in measures.runs})
    low, high = measures.interval
    interval = f" (95 % interval over {num_draws} draws: {number(low)} to {number(high)})" if num_draws > 1 else ""
    console.say(
        f"chosen on {protocol}: test {number(measures.accuracy)} %{interval}, balanced over classes "
        f"{number(measures.balanced_accuracy)} %, expected calibration error {number(measures.calibration_error)} %"
    )
    tested = [row for row in measures.classes if row.images]
    worst = sorted(tested, key=lambda row: row.accuracy)[:NUM_NAMED]
    console.say(
        "worst classes: " + ", ".join(f"{row.name} {100 * row.accuracy:.1f} % of {row.images}" for row in worst)
    )
    pairs = [f"{cell.name} as {cell.predicted} {cell.images}" for cell in measures.confusions[:NUM_NAMED]]
    total = measures.runs[0].num_images * len(measures.runs)
    console.say(f"most often confused, of {total:,} answers: " + (", ".join(pairs) or "none"))


def show_classes(measures: Measures) -> None:
    """Every class: its accuracy, how often it is predicted, and what it is taken for most."""
    confused: dict[str, str] = {}
    for cell in measures.confusions:  # the most frequent first
        confused.setdefault(cell.name, f"{cell.predicted} ({cell.images})")
    num_runs = len(measures.runs)
    console.table(
        ["class", "images", "accuracy %", "predicted", f"mostly taken for (of {num_runs} x images)"],
        [
            [row.name, str(row.images), number(row.accuracy), f"{row.predicted:.1f}", confused.get(row.name, "-")]
            for row in measures.classes
        ],
    )


def measures_as_plain(measures: Measures) -> dict[str, Any]:
    """All of it as JSON can hold it; NaN becomes null."""
    plain: dict[str, Any] = no_nan(asdict(measures))
    return plain


def show_comparison(comparison: Comparison, first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """Result `second` over result `first`: draw by draw, the mean with its intervals, and the classes that moved."""
    a, b = str(first["id"]), str(second["id"])
    for search in (first, second):
        console.say(
            f"result {search['id']}: {search['adapter']} on {search['store']}, prompts {search['text_set']}, "
            f"chosen on {search['protocol']}"
        )
    console.table(
        ["draw", f"{a}: test %", f"{b}: test %", f"{b} over {a}", f"only {a} right", f"only {b} right", "McNemar p"],
        [
            *(_pair_row(pair, comparison) for pair in comparison.pairs),
            ["mean", number(comparison.first), number(comparison.second), _points(comparison.difference), "", "", ""],
        ],
        mark=len(comparison.pairs),
    )
    console.say(f"result {b} over result {a}: {_points(comparison.difference)} points; {_intervals(comparison)}")
    if len(comparison.pairs) > 1:
        console.say("draws share their test images, so their p are not pooled: the intervals speak of all draws")
    gains = [row for row in comparison.classes if row.difference > 0][:NUM_NAMED]
    losses = [row for row in reversed(comparison.classes) if row.difference < 0][:NUM_NAMED]
    console.say(f"largest gains: {_changes(gains)}")
    console.say(f"largest losses: {_changes(losses)}")
    for search in (first, second):
        if search["protocol"] == "test-oracle":
            console.warn(f"result {search['id']} was chosen on the test set itself: an upper bound, not a result")


def comparison_as_json(comparison: Comparison, first: int, second: int) -> str:
    """All of it as JSON: differences are of `second` over `first`."""
    pairs = [{"difference": pair.difference} for pair in comparison.pairs]
    plain = asdict(comparison)
    plain["pairs"] = [{**pair, **more} for pair, more in zip(plain["pairs"], pairs, strict=True)]
    return json.dumps(no_nan({"first": first, "second": second, "resamples": RESAMPLES, **plain}), indent=2)


def _pair_row(pair: Pair, comparison: Comparison) -> list[str]:
    alone = sum(other.shot_seed == pair.shot_seed for other in comparison.pairs) == 1
    name = f"seed {pair.shot_seed}" + ("" if alone or not pair.init_seeds else f" from {pair.init_seeds[1]}")
    test = pair.mcnemar
    told = ["-", "-", "-"] if test is None else [str(test.only_first), str(test.only_second), f"{test.p:.2g}"]
    return [name, number(pair.first), number(pair.second), _points(pair.difference), *told]


def _intervals(comparison: Comparison) -> str:
    words = f"95 % interval {_range(comparison.over_items)} over test images, these draws given"
    if comparison.over_items_and_draws is not None:
        words += f"; {_range(comparison.over_items_and_draws)} over images and draws"
    return f"{words} (bootstrap, {RESAMPLES:,} resamples)"


def _range(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{_points(low)} to {_points(high)}"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _changes(rows: list[ClassChange]) -> str:
    return ", ".join(f"{row.name} {100 * row.difference:+.1f} ({row.images} images)" for row in rows) or "none"

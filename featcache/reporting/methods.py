"""Several methods on the same store, shots and prompts, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from featcache import console
from featcache import results as records
from featcache.errors import ConfigError
from featcache.outcome import plain, varying_fields
from featcache.reporting.words import number, percent
from featcache.results import Summary


def show_methods(path: Path, summaries: Sequence[Summary]) -> None:
    """One table for each store, shots, prompt set and protocol that several of the searches share."""
    groups: dict[tuple[object, ...], list[Summary]] = {}
    for row in summaries:
        groups.setdefault((row.store, row.shots, row.text_set, row.classes, row.protocol), []).append(row)
    for members in groups.values():
        if len({row.adapter for row in members}) > 1:
            _show_group(path, members)


def _show_group(path: Path, members: Sequence[Summary]) -> None:
    one = members[0]
    best = max(members, key=lambda row: -math.inf if row.test_accuracy is None else row.test_accuracy)
    part = "" if one.classes == "all" else f", {one.classes} classes"
    console.table(
        ["method", "chosen", f"{one.protocol} %", "test %", "over zero-shot", "over the best", "parameters", "s"],
        [
            [
                row.adapter,
                _chosen_words(path, row),
                number(row.selection_accuracy),
                percent((row.test_accuracy, math.nan if row.test_spread is None else row.test_spread))
                if row.test_accuracy is not None
                else "-",
                _gain(row),
                "best" if row is best else _difference(path, best, row),
                "-" if row.num_params is None else f"{row.num_params:,}",
                f"{row.seconds:.1f}",
            ]
            for row in members
        ],
        title=f"methods on {one.store}, {one.shots} shots, prompts {one.text_set}{part}: chosen on {one.protocol}",
        mark=list(members).index(best),
    )
    console.say("the best is so by test; intervals are 95 %, over test images, the draws given (paired bootstrap)")


def _chosen_words(path: Path, row: Summary) -> str:
    """`alpha 0.3, 0.4, 0.3; beta 1`: each searched field with each draw's chosen value, or one where all agree."""
    runs = records.fetch(path, row.id)["runs"]
    fields = []
    for name in varying_fields([run["config"] for run in runs]):
        values = [plain(run["config"][name]) for run in runs if run["chosen"]]
        fields.append(f"{name} {', '.join(values if len(set(values)) > 1 else values[:1])}")
    return "; ".join(fields) or "-"


def _gain(row: Summary) -> str:
    if row.test_accuracy is None or row.zero_shot_accuracy is None:
        return "-"
    return f"{100 * (row.test_accuracy - row.zero_shot_accuracy):+.2f}"


def _difference(path: Path, best: Summary, row: Summary) -> str:
    """The difference to the best method with its interval over test images."""
    try:
        found = records.compare_results(path, best.id, row.id)
    except ConfigError:
        return "-"  # their draws differ, or there is no prediction to pair
    low, high = (100 * end for end in found.over_items)
    return f"{100 * found.difference:+.2f} ({low:+.2f} to {high:+.2f})"

"""Many searches: one a line, and means over data sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from featcache import console
from featcache.reporting.formats import Sheet
from featcache.reporting.words import number, percent
from featcache.results import Summary, value_of


def show_means(summaries: Sequence[Summary]) -> None:
    """One table for each method, backbone, prompt set and protocol: data sets by shots, and the mean over data sets."""
    groups: dict[tuple[str, ...], list[Summary]] = {}
    for row in summaries:
        groups.setdefault((row.adapter, row.backbone, row.text_set, row.classes, row.protocol), []).append(row)
    for (adapter, backbone, text_set, classes, protocol), members in groups.items():
        if len({row.store for row in members}) < 2:
            continue
        part = "" if classes == "all" else f", {classes} classes"
        _show_group(members, f"{adapter}, {backbone}, prompts {text_set}{part}: test %, chosen on {protocol}")


def _show_group(members: Sequence[Summary], title: str) -> None:
    shots = sorted({row.shots for row in members})
    stores = list(dict.fromkeys(row.store for row in members))
    found = {(row.store, row.shots): row for row in members}
    name = {row.store: row.dataset for row in members}
    kind = "data set"
    if len(set(name.values())) < len(name):  # several stores of one data set, which the mean counts as often
        kind, name = "store", {store: store for store in name}
    zero_shot = {row.store: math.nan if row.zero_shot_accuracy is None else row.zero_shot_accuracy for row in members}
    rows = [
        [
            name[store],
            number(zero_shot[store]),
            *(_test_percent(found[store, k]) if (store, k) in found else "-" for k in shots),
        ]
        for store in stores
    ]
    means = [number(fmean(zero_shot.values()))]
    for k in shots:
        values = [found[store, k].test_accuracy or 0.0 for store in stores if (store, k) in found]
        means.append(number(fmean(values)) + (f" (of {len(values)})" if len(values) < len(stores) else ""))
    rows.append([f"mean over {len(stores)}{' stores' if kind == 'store' else ''}", *means])
    console.table(
        [kind, "zero-shot", *(f"{k} shot" + ("s" if k > 1 else "") for k in shots)],
        rows,
        title=title,
        mark=len(rows) - 1,
    )


def _test_percent(row: Summary) -> str:
    if row.test_accuracy is None:
        return "-"
    return percent((row.test_accuracy, math.nan if row.test_spread is None else row.test_spread))


def summary_sheet(summaries: Sequence[Summary]) -> Sheet:
    """The searches, one a line."""
    columns = ["id", "when (UTC)", "store", "adapter", "shots", "draws", "alpha", "chosen on", "val %", "test %", "s"]
    return Sheet(
        columns,
        [
            [
                str(row.id),
                row.created[5:16].replace("T", " "),
                row.store,
                row.adapter,
                str(row.shots),
                str(row.num_draws),
                ",".join(f"{alpha:g}" for alpha in row.alphas) or "-",
                row.protocol,
                number(row.selection_accuracy),
                _test_percent(row),
                f"{row.seconds:.1f}",
            ]
            for row in summaries
        ],
        [{**vars(row), "gain": value_of(row, "gain")} for row in summaries],
    )

"""`featcache results`: what has been fitted."""

from __future__ import annotations

import json as jsonlib

from featcache import console, reporting
from featcache import results as records
from featcache.store.places import results_path


def results(search: int | None, *, limit: int, as_json: bool) -> None:
    """List searches, or show one."""
    if search is not None:
        _show(search, as_json=as_json)
        return
    summaries = records.summaries(results_path(), limit=limit)
    if as_json:
        console.raw(jsonlib.dumps([vars(row) for row in summaries], indent=2))
    elif summaries:
        reporting.show_summaries(summaries)
    else:
        console.say("no results yet; `featcache fit` makes some")


def _show(search: int, *, as_json: bool) -> None:
    found = records.fetch(results_path(), search)
    if as_json:
        console.raw(jsonlib.dumps(found, indent=2))
        return
    runs, also = found.pop("runs"), found.pop("also")
    console.table(["what", "value"], [[k, v if isinstance(v, str) else jsonlib.dumps(v)] for k, v in found.items()])
    columns = ["config", "shots", "shot_seed", "selection_accuracy", "test_accuracy", "chosen"]
    console.table(columns, [[_cell(run[name]) for name in columns] for run in runs])
    if also:
        columns = ["store", "classes", "run", "test_accuracy", "test_rows", "zero_shot_accuracy"]
        console.table(columns, [[_cell(item[name]) for name in columns] for item in also])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return jsonlib.dumps(value) if isinstance(value, dict) else str(value)

"""Results as pandas data frames, for notebooks and plots of one's own."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.errors import InputError
from featcache.locations import results_path
from featcache.outcome import plain
from featcache.results.querying import Filters, select, value_of
from featcache.results.reading import fetch

if TYPE_CHECKING:
    import pandas

_ALL = Filters()
_RUN = ("shots", "shot_seed", "init_seed", "chosen", "selection_accuracy", "test_accuracy", "num_params", "fault")
_OF_SEARCH = ("id", "dataset", "store", "backbone", "adapter", "text_set", "classes", "protocol", "zero_shot_accuracy")


def frame(wanted: Filters = _ALL, *, path: Path | None = None) -> pandas.DataFrame:
    """One line a finished search, newest first; accuracies are fractions, `created` a time in UTC.

    `path` is a results file, the cache's own by default. Raises InputError where pandas is not installed.
    """
    pandas = _pandas()
    rows = select(path or results_path(), wanted)
    made = pandas.DataFrame([{**vars(row), "gain": value_of(row, "gain")} for row in rows])
    if rows:
        made["created"] = pandas.to_datetime(made["created"])
    return made


def run_frame(wanted: Filters = _ALL, *, path: Path | None = None) -> pandas.DataFrame:
    """One line a run: every configuration on every draw, the fields of the method as columns of their own.

    Raises InputError where pandas is not installed.
    """
    pandas = _pandas()
    file = path or results_path()
    lines = []
    for row in select(file, wanted):
        head = {name: getattr(row, name) for name in _OF_SEARCH}
        for run in fetch(file, row.id)["runs"]:
            fields = {f"config.{name}": _value(value) for name, value in run["config"].items()}
            lines.append({**head, **{name: run[name] for name in _RUN}, "chosen": bool(run["chosen"]), **fields})
    return pandas.DataFrame(lines)


def _value(value: Any) -> Any:
    return value if isinstance(value, int | float | str) or value is None else plain(value)


def _pandas() -> Any:
    try:
        return import_module("pandas")
    except ImportError as error:
        raise InputError("a frame needs pandas: pip install 'featcache[pandas]'") from error

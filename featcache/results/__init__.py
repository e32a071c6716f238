"""The SQLite record of searches: every row holds what is needed to run it again."""

from featcache.results.answering import Answered, answered, compare_results
from featcache.results.frames import frame, run_frame
from featcache.results.querying import (
    GROUPABLE,
    Filters,
    ask,
    best_per,
    field_named,
    grouped,
    in_order,
    select,
    value_of,
)
from featcache.results.reading import Summary, done_job, fetch, summaries
from featcache.results.removing import remove
from featcache.results.texts import learnt_for

__all__ = [
    "GROUPABLE",
    "Answered",
    "Filters",
    "Summary",
    "answered",
    "ask",
    "best_per",
    "compare_results",
    "done_job",
    "fetch",
    "field_named",
    "frame",
    "grouped",
    "in_order",
    "learnt_for",
    "remove",
    "run_frame",
    "select",
    "summaries",
    "value_of",
]

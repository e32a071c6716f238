"""The SQLite record of searches: every row holds what is needed to run it again."""

from featcache.results.answering import Answered, answered, compare_results
from featcache.results.reading import Summary, done_job, fetch, summaries
from featcache.results.recording import Recorder
from featcache.results.texts import learnt_for

__all__ = [
    "Answered",
    "Recorder",
    "Summary",
    "answered",
    "compare_results",
    "done_job",
    "fetch",
    "learnt_for",
    "summaries",
]

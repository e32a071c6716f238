"""Searches as tasks of a Ray cluster.

Workers search; one actor on this machine writes the results, so that no two machines share an SQLite file. A worker
waits for it twice: once its choice is written down, and only then, it reads the test rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from featcache import registry
from featcache.engines.on_ray import connected, last_line, resources
from featcache.errors import ConfigError, FeatcacheError, InputError
from featcache.store.elsewhere import local_copy, origin_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featcache.fewshot import Draw
    from featcache.fit_options import FitOptions, Job
    from featcache.outcome import Outcome
    from featcache.text_sources import Learnt


class _Made(NamedTuple):
    """What came of one search: an outcome and its result's id, or why there is none."""

    outcome: Outcome | None
    result: int
    fault: str
    of_setting: bool
    """Whether the fault is a setting's."""


class Search(NamedTuple):
    """One search to make."""

    job: Job
    options: FitOptions
    job_id: str = ""
    """What a plan knows it by."""


class FitsOnRay:
    """Searches under way on a cluster."""

    def __init__(self, searches: Sequence[Search], *, command: Sequence[str], results: Path) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = self._ray = connected()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._clerk = ray.remote(_Clerk).options(num_cpus=0, scheduling_strategy=here).remote(results, list(command))
        # A search that died and is tried again is a new one to the clerk: what it had chosen before counts for nothing.
        task, folders = ray.remote(_search), registry.user_folders()
        self._running = [
            task.options(max_retries=3, **resources(self._device(search.options.device), 1)).remote(
                search, origin_of(search.job.store), folders, self._clerk
            )
            for search in searches
        ]

    def _device(self, asked: str) -> str:
        """The kind of device a search is to have."""
        if asked == "auto":
            return "cuda" if self._ray.cluster_resources().get("GPU") else "cpu"
        return asked.partition(":")[0]

    def fetch(self, number: int) -> tuple[Outcome, int]:
        """Wait for one of the searches, by its place among them; raises what it raised."""
        try:
            made: _Made = self._ray.get(self._running[number])
        except self._ray.exceptions.RayError as error:
            raise InputError(f"the search failed on the cluster: {last_line(error)}") from error
        if made.outcome is None:
            raise ConfigError(made.fault) if made.of_setting else InputError(made.fault)
        return made.outcome, made.result


class _Clerk:
    """Writes the results, and reads what earlier ones have learnt."""

    def __init__(self, results: Path, command: list[str]) -> None:
        self.results = results
        self.command = command

    def record(self, outcome: Outcome, result: int | None, job_id: str) -> int:
        """The result's id; None: a new one."""
        from featcache.results.recording import Recorder

        recorder = Recorder(self.results, self.command, job_id)
        recorder.search_id = result
        recorder(outcome)
        assert recorder.search_id is not None
        return recorder.search_id

    def learnt(self, key: str, classes: str, search: int, drawn: Draw) -> NDArray[Any] | str:
        """What a result learnt on a draw, or why there is nothing."""
        from featcache.results import learnt_for

        try:
            return learnt_for(self.results, key, classes)(search, drawn)
        except FeatcacheError as error:
            return str(error)


def _search(search: Search, origin: str | None, folders: Sequence[Path], clerk: Any) -> _Made:
    """On a worker: one search."""
    from featcache.jobs import searched

    job, result = search.job, None

    def record(outcome: Outcome) -> None:
        nonlocal result
        result = _ask(clerk.record, outcome, result, search.job_id)

    try:
        for folder in folders:
            registry.add_folder(folder)
        if origin is not None:  # the driver's copy of it is no other machine's
            job = job._replace(store=local_copy(origin))
        learnt_for = partial(_learnt_for, clerk)
        outcome = searched(
            job,
            search.options,
            record=record,
            learnt_for=learnt_for,
            keep_in=None,  # that folder is another machine's; `export` fits what is not kept again
            progress=lambda _done, _total: None,
        )
    except FeatcacheError as error:
        return _Made(None, 0, str(error), isinstance(error, ConfigError))
    assert result is not None
    return _Made(outcome, result, "", False)


def _learnt_for(clerk: Any, key: str, classes: str) -> Learnt:
    def look_up(search: int, drawn: Draw) -> NDArray[Any]:
        found = _ask(clerk.learnt, key, classes, search, drawn)
        if isinstance(found, str):
            raise ConfigError(found)
        return found  # type: ignore[no-any-return]

    return look_up


def _ask(method: Any, *arguments: Any) -> Any:
    import ray

    return ray.get(method.remote(*arguments))

"""`featcache fit`: one search for each store, method, prompt set and number of shots."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from featcache import console, registry, reporting, shelf
from featcache import results as records
from featcache.commands.running import each, stoppable
from featcache.errors import ConfigError, InputError
from featcache.fit_options import (
    ALL,
    FitOptions,
    Job,
    check_effect,
    grid_asked,
)
from featcache.heads import keeping as heads
from featcache.jobs import searched
from featcache.loggers import open_loggers
from featcache.outcome import Outcome
from featcache.results.recording import Recorder
from featcache.store import Store
from featcache.store.places import results_path
from featcache.task import swept_fields

_KEPT = (
    "no result was recorded of this search, but what it had trained is kept, as are the results before it; the same "
    "command goes on"
)


def fit(
    stores: Sequence[Path], options: FitOptions, *, plot: Path | None, as_json: bool, log: Sequence[str] = ()
) -> None:
    """Every search asked for, each shown and logged as it is done; then the means over data sets."""
    check_effect(options)
    tell = open_loggers(log)
    jobs = jobs_of(stores, options)
    if plot:
        _check_plot(plot, jobs, options)
    outcomes: list[Outcome] = []
    ids: list[int] = []
    fit_job = _fitter(jobs, options)

    def carry_out(job: Job) -> None:
        try:
            outcome, result = fit_job(job)
        except ConfigError as error:
            if options.adapters != ALL:
                raise
            console.note(f"{job.name} is left out: {error}")  # nobody asked for this very one
            return
        outcomes.append(outcome)
        ids.append(result)
        for logger in tell:
            logger(outcome, result)
        if not as_json:
            reporting.show(outcome)
        if plot:
            reporting.plot(outcome, plot)
            console.note(f"alpha curve: {plot}")

    try:
        each([(job.name, job) for job in jobs], carry_out)
        if not outcomes:
            raise InputError("--adapter all: no method could be fitted, for the reasons above")
    finally:
        if as_json and (outcomes or len(jobs) > 1):
            texts = [reporting.as_json(outcome) for outcome in outcomes]
            console.raw(texts[0] if len(jobs) == 1 else "[" + ",\n".join(texts) + "]")
        elif not as_json:
            summaries = records.summaries(results_path(), ids=ids)[::-1]
            reporting.show_methods(results_path(), summaries)
            reporting.show_means(summaries)


def _fitter(jobs: Sequence[Job], options: FitOptions) -> Callable[[Job], tuple[Outcome, int]]:
    """What fits one of the jobs, or fetches what a cluster, which is at work on all of them from now on, made of it."""
    if options.engine == "here":
        return lambda job: fit_one(job, options)
    if options.engine != "ray":
        raise ConfigError(f"fit runs here or on ray; --engine {options.engine} is for extract")
    from featcache.engines.fits_on_ray import FitsOnRay, Search

    made = FitsOnRay([Search(job, options) for job in jobs], command=sys.argv[1:], results=results_path())
    return lambda job: made.fetch(jobs.index(job))


def jobs_of(stores: Sequence[Path], options: FitOptions) -> list[Job]:
    """Stores x methods x prompt sets x shots."""
    return [
        Job(store, adapter, prompts, shots)
        for store in stores
        for adapter in (_able(store) if options.adapters == ALL else options.adapters)
        for prompts in options.prompts
        for shots in options.shots
    ]


def _able(path: Path) -> list[str]:
    """Every method that the store has what it needs for, zero-shot first; those left out are named."""
    with Store(path) as store:
        has = {"text"} if store.text_sets else set()
        has |= {"tower"} if store.provenance.get("kind") == "extract" else set()
    known = sorted(registry.known(), key=lambda name: (name != "zero_shot", name))
    lacking = {name: sorted(registry.load(name).needs - has) for name in known}
    for name, needs in lacking.items():
        if needs:
            console.note(f"{path.stem}: {name} is left out, for it needs {' and '.join(needs)}")
    return [name for name in known if not lacking[name]]


def fit_one(job: Job, options: FitOptions, job_id: str = "") -> tuple[Outcome, int]:
    """One search and the id of its record."""
    recorder = Recorder(results_path(), sys.argv[1:], job_id)
    with (
        stoppable(_KEPT),
        console.progress("fitting", "run-epochs", rate="run-epochs") as advance,
    ):
        learnt_for = partial(records.learnt_for, results_path())
        keep_in = heads.folder_of(results_path())
        outcome = searched(
            job,
            options,
            record=recorder,
            learnt_for=learnt_for,
            keep_in=keep_in,
            shelves=shelf.folder_of(results_path()),
            progress=advance,
        )
    assert recorder.search_id is not None
    return outcome, recorder.search_id


def _check_plot(plot: Path, jobs: Sequence[Job], options: FitOptions) -> None:
    reporting.check_plot_file(plot)
    if len(jobs) > 1:
        raise ConfigError(f"--plot draws one search, but {len(jobs)} are asked for")
    adapter = options.adapters[0]
    if not _has_alpha(adapter):
        raise ConfigError(f"--plot draws accuracy against alpha, and {adapter} has no alpha; leave it out")
    grid = grid_asked(adapter, options)
    others = [name for name, values in grid.items() if name != "alpha" and len(values) > 1]
    if others:
        raise ConfigError(f"--plot draws accuracy against alpha alone, and {', '.join(others)} is searched too")


def _has_alpha(adapter: str) -> bool:
    return "alpha" in swept_fields(registry.load(adapter))

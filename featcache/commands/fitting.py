"""`featcache fit`: one search for each store, method, prompt set and number of shots."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from featcache import console, grids, recipes, registry, reporting
from featcache import results as records
from featcache.commands.running import each, stoppable
from featcache.errors import ConfigError, FeatcacheError, InputError
from featcache.loading import class_range
from featcache.prompts import DEFAULT
from featcache.recipes import Recipe
from featcache.results import Recorder
from featcache.search import Outcome, Settings, search
from featcache.shift import Target, find, target
from featcache.store import Store
from featcache.store.places import list_stores, resolve, results_path
from featcache.store.spec import canonical_json
from featcache.task import swept_fields

_TRAINING = ("preset", "epochs", "lr", "batch_size")
"""Options that only a trained method heeds."""


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What `fit` was asked for; None keeps a default."""

    adapters: tuple[str, ...] = ("clip_adapter",)
    alpha_grid: str | None = None
    shots: tuple[int | None, ...] = (None,)
    shot_seeds: tuple[int, ...] | None = None
    preset: str | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    select: str | None = None
    prompts: tuple[str, ...] = (DEFAULT,)
    classes: str = "all"
    also: tuple[str, ...] = ()
    device: str = "auto"


class Job(NamedTuple):
    """One search."""

    store: Path
    adapter: str
    prompts: str
    shots: int | None

    @property
    def name(self) -> str:
        """What messages call it."""
        words = [self.store.stem, self.adapter]
        words += [self.prompts] if self.prompts != DEFAULT else []
        words += [f"{self.shots} shots"] if self.shots else []
        return ", ".join(words)


def fit(stores: Sequence[Path], options: FitOptions, *, plot: Path | None, as_json: bool) -> None:
    """Every search asked for, each shown as it is done; then the means over data sets."""
    check_effect(options)
    jobs = jobs_of(stores, options)
    if plot:
        _check_plot(plot, jobs, options)
    outcomes: list[Outcome] = []
    ids: list[int] = []

    def carry_out(job: Job) -> None:
        outcome, result = fit_one(job, options)
        outcomes.append(outcome)
        ids.append(result)
        if not as_json:
            reporting.show(outcome)
        if plot:
            reporting.plot(outcome, plot)
            console.note(f"alpha curve: {plot}")

    try:
        each([(job.name, job) for job in jobs], carry_out)
    finally:
        if as_json and outcomes:
            texts = [reporting.as_json(outcome) for outcome in outcomes]
            console.raw(texts[0] if len(jobs) == 1 else "[" + ",\n".join(texts) + "]")
        elif not as_json:
            reporting.show_means(records.summaries(results_path(), ids=ids)[::-1])


def stores_named(names: Sequence[str]) -> list[Path]:
    """The stores that names, key prefixes or paths mean; without any, the newest that can be fitted on."""
    if names:
        return [resolve(name) for name in names]
    for path in list_stores():
        if _can_train(path):
            console.note(f"store: {path.stem} (the newest with training rows)")
            return [path]
    return [resolve(None)]


def every_store() -> list[Path]:
    """Every store that can be fitted on, by name."""
    found = sorted(path for path in list_stores() if _can_train(path))
    if not found:
        raise InputError("--all: no store in the cache has training rows; make one with `featcache extract`")
    return found


def jobs_of(stores: Sequence[Path], options: FitOptions) -> list[Job]:
    """Stores x methods x prompt sets x shots."""
    return [
        Job(store, adapter, prompts, shots)
        for store in stores
        for adapter in options.adapters
        for prompts in options.prompts
        for shots in options.shots
    ]


def fit_one(job: Job, options: FitOptions, job_id: str = "") -> tuple[Outcome, int]:
    """One search and the id of its record."""
    with ExitStack() as opened:
        store = opened.enter_context(Store(job.store))
        targets = [_target(asked, store, job, options, opened) for asked in options.also]
        recorder = Recorder(results_path(), sys.argv[1:], job_id)
        dataset = str(store.provenance.get("dataset", ""))
        opened.enter_context(stoppable("no result was recorded"))
        advance = opened.enter_context(console.progress("fitting", "run-epochs", rate="run-epochs"))
        outcome = search(
            store,
            settings_of(job, options),
            lambda shots: recipe_of(options, shots, dataset),
            also=targets,
            record=recorder,
            progress=advance,
        )
    assert recorder.search_id is not None
    return outcome, recorder.search_id


def identify(job: Job, options: FitOptions) -> str:
    """What a plan knows the search by: a digest of all that decides its numbers, rows added to stores apart."""
    with ExitStack() as opened:
        store = opened.enter_context(Store(job.store))
        targets = [_target(asked, store, job, options, opened) for asked in options.also]
        dataset = str(store.provenance.get("dataset", ""))
        content = [
            asdict(settings_of(job, options)),
            asdict(recipe_of(options, job.shots or 0, dataset)),
            [_meaning(place, job) for place in (store, *(target.store for target in targets))],
            [target.classes for target in targets],
        ]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def settings_of(job: Job, options: FitOptions) -> Settings:
    """What one search tries."""
    grid = {}
    if options.alpha_grid is not None or "alpha" in swept_fields(registry.load(job.adapter)):
        grid["alpha"] = grids.parse("0:1:0.1" if options.alpha_grid is None else options.alpha_grid)
    return Settings(
        adapter=job.adapter,
        grid=grid,
        shots=job.shots,
        shot_seeds=options.shot_seeds,
        protocol=options.select,
        text_set=job.prompts,
        classes=options.classes,
        device=options.device,
    )


def recipe_of(options: FitOptions, shots: int, dataset: str) -> Recipe:
    """The preset's recipe with what was asked for in its place."""
    recipe = recipes.make(options.preset or "coop", shots=shots, dataset=dataset)
    changed = {"epochs": options.epochs, "lr": options.lr, "batch_size": options.batch_size}
    return replace(recipe, **{name: value for name, value in changed.items() if value is not None})  # type: ignore[arg-type]


def check_effect(options: FitOptions) -> None:
    """A setting that would have no effect on any of the methods is an error."""
    methods = {name: registry.load(name) for name in options.adapters}
    unused = [f"--{name.replace('_', '-')}" for name in _TRAINING if getattr(options, name) is not None]
    if unused and not any(hasattr(method, "init") for method in methods.values()):
        listed = ", ".join(methods)
        raise ConfigError(f"{listed}: not trained, so {', '.join(unused)} would do nothing; leave it out")


def _check_plot(plot: Path, jobs: Sequence[Job], options: FitOptions) -> None:
    reporting.check_plot_file(plot)
    if len(jobs) > 1:
        raise ConfigError(f"--plot draws one search, but {len(jobs)} are asked for")
    adapter = options.adapters[0]
    if "alpha" not in swept_fields(registry.load(adapter)):
        raise ConfigError(f"--plot draws accuracy against alpha, and {adapter} has no alpha; leave it out")


def _target(asked: str, store: Store, job: Job, options: FitOptions, opened: ExitStack) -> Target:
    other, part = find(asked, store)
    opened.enter_context(other)
    trained = class_range(store, options.classes)
    return target(other, part, source=store, trained=trained, method=registry.load(job.adapter))


def _meaning(store: Store, job: Job) -> list[str]:
    """What a store contributes to a search's numbers: its key, and the text in use."""
    names = job.prompts.split("+") if store.text_sets else []
    return [store.key, *(store.text(name).digest for name in names if name in store.text_sets)]


def _can_train(path: Path) -> bool:
    try:
        with Store(path) as store:
            return "train" in store.splits and store.num_rows("train") > 0
    except (FeatcacheError, OSError):
        return False

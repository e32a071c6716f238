"""`featcache fit`: one search for each store, method, prompt set and number of shots."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from featcache import console, grids, recipes, registry, reporting
from featcache import results as records
from featcache.commands.running import each, stoppable
from featcache.errors import ConfigError, FeatcacheError, InputError
from featcache.fits import LR
from featcache.loading import class_range, draws_of
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
    grid: tuple[str, ...] = ()
    """FIELD=VALUES each, in place of what the method searches by default or beside it."""
    post_hoc_alpha: str | None = None
    views: str | None = None
    choose: str = "per-draw"
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
        if as_json and (outcomes or len(jobs) > 1):
            texts = [reporting.as_json(outcome) for outcome in outcomes]
            console.raw(texts[0] if len(jobs) == 1 else "[" + ",\n".join(texts) + "]")
        elif not as_json:
            reporting.show_means(records.summaries(results_path(), ids=ids)[::-1])


def stores_named(names: Sequence[str]) -> list[Path]:
    """The stores that names, key prefixes or paths mean; without any, the newest that can be fitted on."""
    if names:
        return list(dict.fromkeys(resolve(name) for name in names))
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
        targets = _targets(store, job, options, opened)
        recorder = Recorder(results_path(), sys.argv[1:], job_id)
        dataset = str(store.provenance.get("dataset", ""))
        opened.enter_context(stoppable("no result was recorded"))
        advance = opened.enter_context(console.progress("fitting", "run-epochs", rate="run-epochs"))
        outcome = search(
            store,
            settings_of(job, options),
            lambda shots: recipe_of(job.adapter, options, shots, dataset),
            also=targets,
            record=recorder,
            progress=advance,
        )
    assert recorder.search_id is not None
    return outcome, recorder.search_id


def identify(job: Job, options: FitOptions) -> str:
    """What a plan knows the search by: a digest of all that decides its numbers, on whatever device.

    Rows added to a store change it only where draws were left open, and so are all that the store has.
    """
    with ExitStack() as opened:
        store = opened.enter_context(Store(job.store))
        targets = _targets(store, job, options, opened)
        dataset = str(store.provenance.get("dataset", ""))
        draws = draws_of(store, job.shots, options.shot_seeds)
        shots, seeds = draws[0].shots, tuple(drawn.shot_seed for drawn in draws)
        content = [
            asdict(replace(settings_of(job, options), shots=shots, shot_seeds=seeds, device="")),
            asdict(recipe_of(job.adapter, options, shots, dataset)),
            [_meaning(place, job) for place in (store, *(target.store for target in targets))],
            [target.classes for target in targets],
        ]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def settings_of(job: Job, options: FitOptions) -> Settings:
    """What one search tries."""
    return Settings(
        adapter=job.adapter,
        grid=grid_of(job.adapter, options.grid, keep_alpha=options.post_hoc_alpha is not None),
        post_hoc_alpha=() if options.post_hoc_alpha is None else grids.parse(options.post_hoc_alpha),
        views=options.views,
        choose=options.choose,
        shots=job.shots,
        shot_seeds=options.shot_seeds,
        protocol=options.select,
        text_set=job.prompts,
        classes=options.classes,
        device=options.device,
    )


def grid_of(adapter: str, asked: Sequence[str], *, keep_alpha: bool = False) -> dict[str, tuple[Any, ...]]:
    """What is searched: the method's default grid, with FIELD=VALUES in its place or beside it. Raises ConfigError.

    `keep_alpha` trains at the method's own alpha unless one is asked for: a post-hoc sweep blends that head.
    """
    kind = registry.load(adapter)
    types = get_type_hints(kind)
    searched = searchable(adapter)
    default = {name: text for name, text in kind.grid.items() if not (keep_alpha and name == "alpha")}
    texts = default | {name: text for name, text in _asked(asked) if name in searched}
    return {name: grids.parse_as(float if name == LR else types[name], text, name) for name, text in texts.items()}


def searchable(adapter: str) -> list[str]:
    """The fields of a method that --grid can search, and the learning rate of one that is trained."""
    kind = registry.load(adapter)
    return [field.name for field in fields(kind)] + ([LR] if hasattr(kind, "init") else [])  # type: ignore[arg-type]


def _asked(items: Sequence[str]) -> list[tuple[str, str]]:
    """(field, values as typed) of each --grid."""
    pairs = [tuple(part.strip() for part in item.split("=", 1)) for item in items]
    for item, pair in zip(items, pairs, strict=True):
        if len(pair) != 2:
            raise ConfigError(f"--grid {item}: write FIELD=VALUES, as in alpha=0:1:0.1 or lr=1e-3,1e-4")
    return [(pair[0], pair[1]) for pair in pairs]


def recipe_of(adapter: str, options: FitOptions, shots: int, dataset: str) -> Recipe:
    """The recipe of the preset, or of the method's own, with what was asked for in its place."""
    preset = str(options.preset or getattr(registry.load(adapter), "preset", "coop"))
    recipe = recipes.make(preset, shots=shots, dataset=dataset)
    changed = {"epochs": options.epochs, "lr": options.lr, "batch_size": options.batch_size}
    return replace(recipe, **{name: value for name, value in changed.items() if value is not None})  # type: ignore[arg-type]


def check_effect(options: FitOptions) -> None:
    """A setting that would have no effect on any of the methods is an error."""
    methods = {name: registry.load(name) for name in options.adapters}
    unused = [f"--{name.replace('_', '-')}" for name in _TRAINING if getattr(options, name) is not None]
    if unused and not any(hasattr(method, "init") for method in methods.values()):
        listed = ", ".join(methods)
        raise ConfigError(f"{listed}: not trained, so {', '.join(unused)} would do nothing; leave it out")
    for name, _ in _asked(options.grid):
        known = list(dict.fromkeys(field for adapter in methods for field in searchable(adapter)))
        if name not in known:
            raise ConfigError(
                f"{', '.join(methods)}: there is no field {name}, so --grid {name}=.. would do nothing; there is: "
                f"{', '.join(known) or 'none'}"
            )


def _check_plot(plot: Path, jobs: Sequence[Job], options: FitOptions) -> None:
    reporting.check_plot_file(plot)
    if len(jobs) > 1:
        raise ConfigError(f"--plot draws one search, but {len(jobs)} are asked for")
    adapter = options.adapters[0]
    if not _has_alpha(adapter):
        raise ConfigError(f"--plot draws accuracy against alpha, and {adapter} has no alpha; leave it out")
    others = [name for name, values in grid_of(adapter, options.grid).items() if name != "alpha" and len(values) > 1]
    if others:
        raise ConfigError(f"--plot draws accuracy against alpha alone, and {', '.join(others)} is searched too")


def _has_alpha(adapter: str) -> bool:
    return "alpha" in swept_fields(registry.load(adapter))


def _targets(store: Store, job: Job, options: FitOptions, opened: ExitStack) -> list[Target]:
    """What `--also` means, each once; its stores stay open as long as `opened`."""
    method, trained = registry.load(job.adapter), class_range(store, options.classes)
    targets = {}
    for asked in options.also:
        other, part = find(asked, store)
        opened.enter_context(other)
        targets[other.path, part] = target(
            other, part, source=store, trained=trained, method=method, text_set=job.prompts
        )
    return list(targets.values())


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

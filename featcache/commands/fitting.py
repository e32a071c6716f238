"""`featcache fit`: one search for each store, method, prompt set and number of shots."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from featcache import console, grids, recipes, registry, reporting, shelf
from featcache import results as records
from featcache.commands.running import each, stoppable
from featcache.errors import ConfigError, InputError
from featcache.heads import keeping as heads
from featcache.loading import class_range, data_set, draws_of
from featcache.loggers import open_loggers
from featcache.outcome import Outcome
from featcache.preparing import Settings
from featcache.prompts import DEFAULT
from featcache.recipes import Recipe
from featcache.results.recording import Recorder
from featcache.search import search
from featcache.shift import Target, find, target
from featcache.store import Store
from featcache.store.places import results_path
from featcache.store.spec import canonical_json
from featcache.task import swept_fields
from featcache.text_sources import Learnt, sources_of

_TRAINING = ("preset", "epochs", "lr", "batch_size", "weight_decay", "momentum", "last_batch", "products", "init_seeds")
"""Options that only a trained method heeds."""


_KEPT = (
    "no result was recorded of this search, but what it had trained is kept, as are the results before it; the same "
    "command goes on"
)
ALL = ("all",)
"""Methods asked for by this word: every one that a store has what it needs for."""


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
    init_seeds: tuple[int, ...] | None = None
    preset: str | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    last_batch: str | None = None
    products: str | None = None
    select: str | None = None
    prompts: tuple[str, ...] = (DEFAULT,)
    classes: str = "all"
    also: tuple[str, ...] = ()
    device: str = "auto"
    engine: str = "here"
    """`here`, one search after another, or `ray`, each a task of a cluster."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of all methods that may be fitted."""
        return tuple(registry.known()) if self.adapters == ALL else self.adapters


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


def searched(
    job: Job,
    options: FitOptions,
    *,
    record: Callable[[Outcome], None],
    learnt_for: Callable[[str, str], Learnt],
    keep_in: Path | None,
    progress: Callable[[int, int], None],
    shelves: Path | None = None,
) -> Outcome:
    """One search; `learnt_for` looks up what other results learnt on a store's key and classes.

    Where there is a folder `keep_in`, chosen heads are kept there; where there is one `shelves`, what is trained, until
    the search ends.
    """
    with ExitStack() as opened:
        store = opened.enter_context(Store(job.store))
        dataset = data_set(store)
        return search(
            store,
            settings_of(job, options),
            lambda shots: recipe_of(job.adapter, options, shots, dataset),
            also=_targets(store, job, options, opened),
            learnt=learnt_for(store.key, options.classes),
            record=record,
            keep=(lambda _outcome, _fitted: None) if keep_in is None else partial(heads.keep, keep_in, store),
            shelves=shelves,
            progress=progress,
        )


def identify(job: Job, options: FitOptions) -> str:
    """What a plan knows the search by: a digest of all that decides its numbers, on whatever device.

    Rows added to a store change it only where draws were left open, and so are all that the store has.
    """
    with ExitStack() as opened:
        store = opened.enter_context(Store(job.store))
        targets = _targets(store, job, options, opened)
        dataset = data_set(store)
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
        grid=_grid_of(job.adapter, options),
        post_hoc_alpha=() if options.post_hoc_alpha is None else grids.parse(options.post_hoc_alpha),
        views=options.views,
        choose=options.choose,
        shots=job.shots,
        shot_seeds=options.shot_seeds,
        init_seeds=options.init_seeds if hasattr(registry.load(job.adapter), "init") else None,
        protocol=options.select,
        text_set=job.prompts,
        classes=options.classes,
        device=options.device,
    )


def _grid_of(adapter: str, options: FitOptions) -> dict[str, tuple[Any, ...]]:
    """What a method searches under the options."""
    given = [name for name in recipes.PER_RUN if getattr(options, name) is not None]
    # A post-hoc sweep blends the head trained at the method's own alpha.
    kept = [*given, "alpha"] if options.post_hoc_alpha is not None else given
    return grid_of(adapter, options.grid, options.preset, kept=kept)


def grid_of(
    adapter: str, asked: Sequence[str], preset: str | None = None, *, kept: Sequence[str] = ()
) -> dict[str, tuple[Any, ...]]:
    """What is searched: the method's default grid, with FIELD=VALUES in its place or beside it. Raises ConfigError.

    Fields that are `kept` are searched only where asked, and so are training fields that the optimiser does not heed.
    """
    kind = registry.load(adapter)
    types = get_type_hints(kind)
    searched = searchable(adapter, preset)
    searched_alone = _default_grid(adapter, {name: text for name, text in _asked(asked) if name in types})
    unheeded = {*kept, *(name for name in recipes.PER_RUN if name not in searched)}
    default = {name: text for name, text in searched_alone.items() if name not in unheeded}
    texts = default | {name: text for name, text in _asked(asked) if name in searched}
    return {name: grids.parse_as(types.get(name, float), text, name) for name, text in texts.items()}


def _default_grid(adapter: str, asked: Mapping[str, str]) -> Mapping[str, str]:
    """What a method searches unless the user says, given the values asked of its fields. Raises ConfigError."""
    kind: Any = registry.load(adapter)
    if not hasattr(kind, "own_grid"):
        return dict(kind.grid)
    types = get_type_hints(kind)
    shapes = {name: grids.parse_as(types[name], text, name) for name, text in asked.items() if types[name] is not float}
    points = [dict(zip(shapes, values, strict=True)) for values in itertools.product(*shapes.values())]
    found = [dict(kind(**point).own_grid) for point in points]
    for point, grid in zip(points, found, strict=True):
        lacking = [name for name in {**found[0], **grid} if found[0].get(name) != grid.get(name) and name not in asked]
        if lacking:
            one, other = (" ".join(f"{name}={value}" for name, value in each.items()) for each in (points[0], point))
            raise ConfigError(
                f"{adapter} searches {_listed(found[0])} with {one} but {_listed(grid)} with {other}; fit them one at "
                f"a time, or say what to search of {', '.join(lacking)} with --grid"
            )
    return found[0]


def _listed(grid: Mapping[str, str]) -> str:
    return ", ".join(f"{name} over {values}" for name, values in grid.items()) or "nothing"


def searchable(adapter: str, preset: str | None = None) -> list[str]:
    """The fields of a method that --grid can search, and those of its training that its optimiser heeds."""
    own = [field.name for field in fields(registry.load(adapter))]  # type: ignore[arg-type]
    return [*own, *(name for name in _heeded(adapter, preset) if name not in own)]


def _heeded(adapter: str, preset: str | None) -> tuple[str, ...]:
    """Of lr, weight_decay and momentum, those that change anything; none for a method that is not trained."""
    if not hasattr(registry.load(adapter), "init"):
        return ()
    return recipes.make(_preset(adapter, preset), shots=1, dataset="").heeds


def _preset(adapter: str, asked: str | None) -> str:
    return str(asked or getattr(registry.load(adapter), "preset", "coop"))


def _asked(items: Sequence[str]) -> list[tuple[str, str]]:
    """(field, values as typed) of each --grid."""
    pairs = [tuple(part.strip() for part in item.split("=", 1)) for item in items]
    for item, pair in zip(items, pairs, strict=True):
        if len(pair) != 2:
            raise ConfigError(f"--grid {item}: write FIELD=VALUES, as in alpha=0:1:0.1 or lr=1e-3,1e-4")
    return [(pair[0], pair[1]) for pair in pairs]


def recipe_of(adapter: str, options: FitOptions, shots: int, dataset: str) -> Recipe:
    """The recipe of the preset, or of the method's own, with what was asked for in its place."""
    recipe = recipes.make(_preset(adapter, options.preset), shots=shots, dataset=dataset)
    heeded = ("epochs", "batch_size", "last_batch", "products", *recipe.heeds)
    changed = {name: getattr(options, name) for name in heeded}
    return replace(recipe, **{name: value for name, value in changed.items() if value is not None})


def check_effect(options: FitOptions) -> None:
    """A setting that would have no effect on any of the methods is an error."""
    methods = {name: registry.load(name) for name in options.methods}
    unused = [f"--{name.replace('_', '-')}" for name in _TRAINING if getattr(options, name) is not None]
    if unused and not any(hasattr(method, "init") for method in methods.values()):
        listed = ", ".join(methods)
        raise ConfigError(f"{listed}: not trained, so {', '.join(unused)} would do nothing; leave it out")
    _check_per_run(options, [name for name, _ in _asked(options.grid)])
    known = list(dict.fromkeys(field for adapter in methods for field in searchable(adapter, options.preset)))
    for name, _ in _asked(options.grid):
        if name not in known:
            raise ConfigError(
                f"{', '.join(methods)}: there is no field {name}, so --grid {name}=.. would do nothing; there is: "
                f"{', '.join(known) or 'none'}"
            )


def _check_per_run(options: FitOptions, searched: Sequence[str]) -> None:
    """Raises where --lr, --weight-decay or --momentum, or one of them in the grid, would do nothing."""
    trained = [name for name in options.methods if hasattr(registry.load(name), "init")]
    heeded = {field for name in trained for field in _heeded(name, options.preset)}
    for name in recipes.PER_RUN:
        flag, asked = f"--{name.replace('_', '-')}", getattr(options, name) is not None
        if asked and name in searched:
            raise ConfigError(f"{flag} would do nothing beside --grid {name}=..; leave one of the two out")
        if trained and name not in heeded and asked:
            raise ConfigError(
                f"{flag} would do nothing: {', '.join(trained)} is trained with Adam or AdamW, which have none; leave "
                "it out, or choose a --preset with SGD, such as coop"
            )


def _check_plot(plot: Path, jobs: Sequence[Job], options: FitOptions) -> None:
    reporting.check_plot_file(plot)
    if len(jobs) > 1:
        raise ConfigError(f"--plot draws one search, but {len(jobs)} are asked for")
    adapter = options.adapters[0]
    if not _has_alpha(adapter):
        raise ConfigError(f"--plot draws accuracy against alpha, and {adapter} has no alpha; leave it out")
    grid = _grid_of(adapter, options)
    others = [name for name, values in grid.items() if name != "alpha" and len(values) > 1]
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
    names = sources_of(job.prompts).sets if store.text_sets else ()
    return [store.key, *(store.text(name).digest for name in names if name in store.text_sets)]

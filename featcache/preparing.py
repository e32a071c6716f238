"""What a search needs before it trains: configurations, draws, tasks, and the rows that will choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from featcache.backbones.of_store import text_tower_of
from featcache.devices import check_products, pick_device
from featcache.errors import ConfigError, UnknownNameError
from featcache.fewshot import Draw, within
from featcache.fits import Config, expand, sweep_alpha
from featcache.folds import folds_of, part
from featcache.loading import (
    Rows,
    check_test,
    class_range,
    draws_of,
    load_frozen,
    load_rows,
    load_task,
    present,
    with_learnt,
)
from featcache.prompts import DEFAULT
from featcache.recipes import Recipe
from featcache.selection import CHOOSE, check_protocol, default_protocol, redraw, selection_rows
from featcache.store import Store
from featcache.task import Frozen, Task, Trained
from featcache.text_sources import Learnt, Sources, sources_of


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to search and how."""

    adapter: str
    """The method's name."""
    grid: dict[str, tuple[Any, ...]]
    """Values to try of each field; fields multiply."""
    post_hoc_alpha: tuple[float, ...] = ()
    """Values of alpha to blend each trained head with afterwards: cheaper than training at each, and another thing."""
    views: str | None = None
    """How a draw's augmented views are taken: `turn`, `all` or `mean`; the method's own way when None."""
    shots: int | None = None
    """Images a class; the largest extracted when None."""
    shot_seeds: tuple[int, ...] | None = None
    """Draws; all extracted ones when None."""
    init_seeds: tuple[int, ...] | None = None
    """Each draw is fitted from each of them; from its own shot seed when None."""
    choose: str = "per-draw"
    """`per-draw` (and per init seed), or `pooled`: one configuration for all, by its mean over them."""
    protocol: str | None = None
    """Selection protocol; the store's default when None."""
    text_set: str = DEFAULT
    """Which text weights: a prompt set, `run:ID`, or several joined by + (see `text_sources`)."""
    classes: str = "all"
    """Classes to train and test on: `all`, or CoOp's halves `base` and `new`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""


class Repeat(NamedTuple):
    """What a configuration is chosen for, and what spreads are over: one draw, fitted from one init seed."""

    draw: Draw
    init_seed: int


class Judged(NamedTuple):
    """Rows to choose on, and the task whose fits they judge."""

    task: int
    """Index among the search's tasks."""
    rows: Rows


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A search before it trains: nothing in it comes from test, unless the protocol is the oracle."""

    configs: list[Config]
    classes: range
    """Class indices trained and tested on."""
    repeats: list[Repeat]
    protocol: str
    recipe: Recipe
    frozen: Frozen
    """With the text of the prompt sets alone; tasks may have text that runs have learnt."""
    tasks: list[Task]
    """What is fitted on: the whole draw of each repeat, in order, then the folds of cross-validation."""
    init_seeds: list[int]
    """Of each task."""
    judged: list[list[Judged]]
    """What each repeat is chosen by: nothing, rows beside its draw, or the held-out rows of each fold."""


def prepare(store: Store, settings: Settings, recipe_for: Callable[[int], Recipe], learnt: Learnt) -> Ready:
    """Everything that can be refused is refused here; raises InputError's kin."""
    configs = expand(settings.adapter, settings.grid)
    if settings.post_hoc_alpha:
        configs = sweep_alpha(configs, settings.post_hoc_alpha)
    if settings.choose not in CHOOSE:
        raise UnknownNameError("way to choose", settings.choose, CHOOSE)
    device = pick_device(settings.device)
    check_test(store)
    protocol = check_protocol(settings.protocol or default_protocol(store), store, len(configs))
    classes = class_range(store, settings.classes)
    val_label = store.label("val") if "val" in store.splits else np.zeros(0, dtype=np.int64)
    draws = [
        within(redraw(protocol, store, drawn), store.label("train"), val_label, classes)
        for drawn in draws_of(store, settings.shots, settings.shot_seeds)
    ]
    recipe = recipe_for(draws[0].shots)
    _check_training(configs, settings, recipe)
    check_products(recipe.products, device)
    if "text" in configs[0].method.needs and not store.text_sets:
        raise ConfigError(
            f"{settings.adapter} needs text weights and the store {store.name} has none; "
            f"`featcache prompts add {store.name} default --backbone NAME` adds some"
        )
    sources = sources_of(settings.text_set)
    if sources.runs and protocol == "cross-validation":
        raise ConfigError(
            f"--select cross-validation holds out images that result {sources.runs[0]} learnt its text from; "
            "choose on other images, or fit on a prompt set"
        )
    tower = text_tower_of(store, device) if "tower" in configs[0].method.needs else None
    frozen = load_frozen(store, sources.written, device, classes, tower=tower)
    views = settings.views or configs[0].method.views
    loaded = [
        _load(store, drawn, protocol, _with_runs(frozen, sources, learnt, drawn), classes, views) for drawn in draws
    ]
    repeats = [(own, seed) for own in loaded for seed in settings.init_seeds or (own.draw.shot_seed,)]
    fitted = [(own.task, seed) for own, seed in repeats]
    judged = []
    for index, (own, seed) in enumerate(repeats):
        first = len(fitted)
        fitted += [(task, seed) for task, _ in own.folds]
        beside = [Judged(index, rows) for rows in own.beside]
        judged.append([*beside, *(Judged(first + fold, rows) for fold, (_, rows) in enumerate(own.folds))])
    return Ready(
        configs=configs,
        classes=classes,
        repeats=[Repeat(own.draw, seed) for own, seed in repeats],
        protocol=protocol,
        recipe=recipe,
        frozen=frozen,
        tasks=[task for task, _ in fitted],
        init_seeds=[seed for _, seed in fitted],
        judged=judged,
    )


def _with_runs(frozen: Frozen, sources: Sources, learnt: Learnt, drawn: Draw) -> Frozen:
    """The text weights of one draw: what runs have learnt, they learnt on some draw's images, and serve that one."""
    if not sources.runs:
        return frozen
    return with_learnt(frozen, sources, [learnt(run, drawn) for run in sources.runs])


class _Loaded(NamedTuple):
    """A draw in memory."""

    draw: Draw
    task: Task
    beside: list[Rows]
    """The rows beside it that choose; none under `fixed` and `cross-validation`."""
    folds: list[tuple[Task, Rows]]
    """Under `cross-validation`, what each fold trains on and holds out."""


def _load(store: Store, drawn: Draw, protocol: str, frozen: Frozen, classes: range, views: str) -> _Loaded:
    device = frozen.text.device
    whole = load_task(store, drawn, frozen, classes.start)
    folds = folds_of(store, drawn) if protocol == "cross-validation" else []
    beside = selection_rows(protocol, store, drawn, device, classes)
    return _Loaded(
        draw=drawn,
        task=present(whole, views),
        beside=[] if beside is None else [beside],
        folds=[
            (
                present(part(whole, fold.train), views),
                load_rows(store, "train", device, classes=classes, rows=fold.held_out, drawn=drawn),
            )
            for fold in folds
        ],
    )


def _check_training(configs: Sequence[Config], settings: Settings, recipe: Recipe) -> None:
    """Raises ConfigError for what would do nothing, and for training values out of their range."""
    if settings.init_seeds and not isinstance(configs[0].method, Trained):
        raise ConfigError(f"{settings.adapter} is not trained, so init seeds would do nothing; leave them out")
    seeds = settings.init_seeds or ()
    if any(seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"init seeds are 0 or more, each named once; got {', '.join(map(str, seeds))}")
    searched = {tuple(config.training.items()) for config in configs}
    for values in searched:
        replace(recipe, **dict(values))  # type: ignore[arg-type]
    for name in configs[0].training:
        if name not in recipe.heeds:
            raise ConfigError(
                f"{name} does nothing under {recipe.optimiser}, which the recipe {recipe.preset} trains with; take it "
                "out of the grid, or choose a --preset with sgd"
            )

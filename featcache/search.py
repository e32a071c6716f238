"""A search: every configuration of a grid on every draw, trained at once; chosen by a protocol; then tested.

Test rows are read only after the choice is made and recorded, so nothing chosen can hang on them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from featcache.errors import ConfigError, UnknownNameError
from featcache.fewshot import Draw, within
from featcache.fits import Config, Fit, Progress, expand, fit, sweep_alpha
from featcache.loading import (
    Rows,
    check_test,
    class_range,
    draws_of,
    load_frozen,
    load_rows,
    load_task,
    missing_paths,
    present,
)
from featcache.prompts import DEFAULT
from featcache.recipes import Recipe
from featcache.selection import (
    CHOOSE,
    Score,
    check_protocol,
    choose,
    default_protocol,
    mean_score,
    redraw,
    score_each,
    score_zero_shot,
    selection_rows,
)
from featcache.shift import Shifted, Target, evaluate
from featcache.store import Store
from featcache.task import Frozen, Method, Params, Task, Trained


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
    choose: str = "per-draw"
    """`per-draw`, or `pooled`: one configuration for all draws, by its mean over them."""
    protocol: str | None = None
    """Selection protocol; the store's default when None."""
    text_set: str = DEFAULT
    """Which prompts' classifier weights; sets joined by + are averaged."""
    classes: str = "all"
    """Classes to train and test on: `all`, or CoOp's halves `base` and `new`."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run: its configuration, its draw and its numbers."""

    config: dict[str, Any]
    shots: int
    shot_seed: int
    init_seed: int
    draw: str
    """Digest of the images drawn."""
    selection: Score | None
    """On the protocol's rows; None under `fixed`."""
    chosen: bool
    test: Score | None = None
    """Filled after the choice."""

    @property
    def alpha(self) -> float:
        """The residual ratio, or NaN for a method without one."""
        return float(self.config.get("alpha", "nan"))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished search."""

    store: str
    store_key: str
    content: str
    dataset: str
    backbone: str
    untrained: bool
    adapter: str
    text_set: str
    classes: str
    """`all`, `base` or `new`."""
    protocol: str
    choose: str
    """`per-draw` or `pooled`."""
    views: str
    """How a draw's augmented views were taken: `turn`, `all` or `mean`."""
    recipe: Recipe
    device: str
    trained: bool
    """Whether the method is fitted by gradient steps, so that the recipe says something."""
    runs: tuple[RunRecord, ...]
    zero_shot: Score
    """Zero-shot CLIP on the same test rows."""
    notes: tuple[str, ...]
    """What a reader must know: images left out, classes short of images."""
    seconds: dict[str, float]
    also: tuple[Shifted, ...] = ()
    """The chosen runs on other stores' test rows."""

    @property
    def chosen(self) -> tuple[RunRecord, ...]:
        """The chosen run of each draw."""
        return tuple(run for run in self.runs if run.chosen)

    @property
    def test_accuracy(self) -> tuple[float, float]:
        """Mean and spread (sample standard deviation over draws) of the chosen runs' test accuracy."""
        return mean_spread([run.test.accuracy for run in self.chosen if run.test])


Recorder = Callable[[Outcome], None]
"""Keeps a search: called once when the choice is made, before test is read, and once more at the end."""


def search(
    store: Store,
    settings: Settings,
    recipe_for: Callable[[int], Recipe],
    *,
    also: Sequence[Target] = (),
    record: Recorder = lambda _: None,
    progress: Progress = lambda _done, _total: None,
) -> Outcome:
    """Train, choose, test, here and on the targets in `also`. Raises InputError's kin.

    `recipe_for` gives the recipe for a number of shots.
    """
    clock = _Clock()
    ready = _prepare(store, settings, recipe_for)
    clock.lap("load")
    seeds = [drawn.shot_seed for drawn in ready.draws]
    fits = fit(ready.configs, ready.tasks, seeds, ready.recipe, progress)
    clock.lap("train")
    runs = _choose(ready, fits, settings.choose)
    clock.lap("select")
    outcome = _outcome(store, settings, ready, runs, clock)
    record(outcome)
    outcome = _tested(outcome, store, ready, fits)
    chosen = _chosen(outcome, ready, fits)
    elsewhere = tuple(evaluate(place, chosen, ready.frozen, text_set=settings.text_set) for place in also)
    outcome = replace(outcome, also=elsewhere)
    clock.lap("test")
    outcome = replace(outcome, seconds=clock.laps)
    record(outcome)
    return outcome


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A search before it trains: nothing in it comes from test, unless the protocol is the oracle."""

    configs: list[Config]
    classes: range
    """Class indices trained and tested on."""
    draws: list[Draw]
    protocol: str
    recipe: Recipe
    frozen: Frozen
    tasks: list[Task]
    selection: list[Rows | None]
    """What each draw is chosen on."""


def _prepare(store: Store, settings: Settings, recipe_for: Callable[[int], Recipe]) -> _Ready:
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
    if "text" in configs[0].method.needs and not store.text_sets:
        raise ConfigError(
            f"{settings.adapter} needs text weights and the store {store.name} has none; "
            f"`featcache prompts add {store.name} default --backbone NAME` adds some"
        )
    frozen = load_frozen(store, settings.text_set, device, classes)
    return _Ready(
        configs=configs,
        classes=classes,
        draws=draws,
        protocol=protocol,
        recipe=recipe_for(draws[0].shots),
        frozen=frozen,
        tasks=[
            present(load_task(store, drawn, frozen, classes.start), settings.views or configs[0].method.views)
            for drawn in draws
        ],
        selection=[selection_rows(protocol, store, drawn, device, classes) for drawn in draws],
    )


def _choose(ready: _Ready, fits: Sequence[Fit], how: str) -> list[RunRecord]:
    """Each draw's runs, scored on the protocol's rows, the best of them marked."""
    scores = [_scores(ready, fits, index, rows) for index, rows in enumerate(ready.selection)]
    best = _best(ready, scores, how)
    return [
        RunRecord(
            config=config.values,
            shots=draw.shots,
            shot_seed=draw.shot_seed,
            init_seed=draw.shot_seed,
            draw=draw.digest,
            selection=selection,
            chosen=number == best[index],
        )
        for index, draw in enumerate(ready.draws)
        for number, (config, selection) in enumerate(zip(ready.configs, scores[index], strict=True))
    ]


def _best(ready: _Ready, scores: list[list[Score | None]], how: str) -> list[int]:
    """The index of each draw's chosen configuration."""
    made = [[score for score in per_draw if score is not None] for per_draw in scores]
    if not made[0]:
        return [0] * len(scores)  # under `fixed` there is one run and nothing to score it on
    alphas = [float(getattr(config.method, "alpha", 0.0)) for config in ready.configs]
    if how == "pooled":
        return [choose([mean_score(column) for column in zip(*made, strict=True)], alphas)] * len(scores)
    return [choose(per_draw, alphas) for per_draw in made]


def _scores(ready: _Ready, fits: Sequence[Fit], draw: int, rows: Rows | None) -> list[Score | None]:
    """The score of each configuration's run on one draw; None where there are no rows."""
    scores: list[Score | None] = [None] * len(ready.configs)
    for fitted in fits if rows is not None else ():
        if fitted.draw == draw:
            assert rows is not None
            methods = [ready.configs[index].method for index in fitted.configs]
            for index, made in zip(fitted.configs, score_each(methods, fitted.params, rows, ready.frozen), strict=True):
                scores[index] = made
    return scores


def _outcome(store: Store, settings: Settings, ready: _Ready, runs: Sequence[RunRecord], clock: _Clock) -> Outcome:
    """The search with its choice made and its test numbers still open."""
    return Outcome(
        store=store.name,
        store_key=store.key,
        content=store.content,
        dataset=str(store.provenance.get("dataset", store.name)),
        backbone=str(store.provenance.get("backbone", store.spec.tower.architecture)),
        untrained=store.spec.tower.untrained,
        adapter=settings.adapter,
        text_set=settings.text_set,
        classes=settings.classes,
        protocol=ready.protocol,
        choose=settings.choose,
        views=settings.views or ready.configs[0].method.views,
        recipe=ready.recipe,
        device=str(ready.frozen.text.device),
        trained=isinstance(ready.configs[0].method, Trained),
        runs=tuple(runs),
        zero_shot=Score(accuracy=float("nan"), loss=float("nan"), num_rows=0),
        notes=(*_notes(store, ready.draws), *_diverged(runs)),
        seconds=clock.laps,
    )


def _tested(outcome: Outcome, store: Store, ready: _Ready, fits: Sequence[Fit]) -> Outcome:
    frozen = ready.frozen
    rows = load_rows(store, "test", frozen.text.device, classes=ready.classes)
    scores = [score for draw in range(len(ready.draws)) for score in _scores(ready, fits, draw, rows)]
    tested = [replace(run, test=score) for run, score in zip(outcome.runs, scores, strict=True)]
    return replace(outcome, runs=tuple(tested), zero_shot=score_zero_shot(rows, frozen))


def _chosen(outcome: Outcome, ready: _Ready, fits: Sequence[Fit]) -> list[tuple[Method, Params]]:
    """The chosen run of each draw, ready to predict."""
    params = {(fitted.draw, index): fitted.params for fitted in fits for index in fitted.configs}
    num_configs = len(ready.configs)
    return [
        (ready.configs[number % num_configs].method, params[divmod(number, num_configs)])
        for number, run in enumerate(outcome.runs)
        if run.chosen
    ]


def pick_device(name: str) -> torch.device:
    """The named device; `auto` is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # some devices (meta) make tensors but no numbers
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}); try cpu") from error
    return device


def mean_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the spread of one value is NaN, not 0."""
    return fmean(values), stdev(values) if len(values) > 1 else float("nan")


def _notes(store: Store, draws: Sequence[Draw]) -> list[str]:
    notes = []
    if store.spec.tower.untrained:
        notes.append("the backbone's weights are random: these numbers test the machinery and mean nothing else")
    short = draws[0].short_classes
    if short:
        notes.append(f"{len(short)} classes have fewer than {draws[0].shots} training images; all of theirs are used")
    unreadable = missing_paths(store)
    if unreadable:
        notes.append(f"{len(unreadable)} images could not be read and are left out: " + "; ".join(unreadable))
    return notes


def _diverged(runs: Sequence[RunRecord]) -> list[str]:
    """A run whose loss is not finite is named; the others are not touched by it."""
    lost = [run for run in runs if run.selection and not math.isfinite(run.selection.loss)]
    if not lost:
        return []
    names = ", ".join(f"{words(run.config, varying(runs))} seed {run.shot_seed}" for run in lost[:5])
    return [f"{len(lost)} of {len(runs)} runs diverged (their loss is not finite): {names}; try a lower --lr"]


def varying(runs: Sequence[RunRecord]) -> list[str]:
    """The fields that differ between runs, in the order of the configuration."""
    return [name for name in runs[0].config if len({run.config[name] for run in runs}) > 1]


def words(config: Mapping[str, Any], names: Sequence[str]) -> str:
    """Some fields of a configuration in words: `alpha 0.3, beta 5.5`."""
    return ", ".join(f"{name} {plain(config[name])}" for name in names)


def plain(value: object) -> str:
    """A field's value as it is printed."""
    return f"{value:g}" if isinstance(value, float) else str(value)


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps = {**self.laps, name: now - self._last}
        self._last = now

"""A search: every configuration of a grid on every draw, trained at once; chosen by a protocol; then tested.

Test rows are read only after the choice is made and recorded, so nothing chosen can hang on them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from featcache import registry
from featcache.errors import ConfigError
from featcache.fewshot import Draw, within
from featcache.loading import Rows, check_test, class_range, draws_of, load_frozen, load_rows, load_task, missing_paths
from featcache.ops import cosine_logits
from featcache.prompts import DEFAULT
from featcache.recipes import Recipe
from featcache.selection import Score, check_protocol, choose, default_protocol, redraw, score, selection_rows
from featcache.shift import Shifted, Target, evaluate
from featcache.store import Store
from featcache.task import Frozen, Hyper, Method, Params, Solved, Task, Trained, field_values
from featcache.training import Run, num_run_epochs, predict, stack_hyper, train


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to search and how."""

    adapter: str
    """The method's name."""
    grid: dict[str, tuple[float, ...]]
    """Values to try of each swept field; fields multiply."""
    shots: int | None = None
    """Images a class; the largest extracted when None."""
    shot_seeds: tuple[int, ...] | None = None
    """Draws; all extracted ones when None."""
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


Progress = Callable[[int, int], None]
"""Told how many run-epochs have just been done, and of how many in all; called from worker threads."""
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
    fitted = _fit(ready, progress)
    clock.lap("train")
    runs = [run for index in range(len(ready.draws)) for run in _choose(ready, index, fitted[index])]
    clock.lap("select")
    outcome = _outcome(store, settings, ready, runs, clock)
    record(outcome)
    params = [params for per_draw in fitted for params in per_draw]
    outcome = _tested(outcome, store, ready, params)
    chosen = [
        (method, fit)
        for run, method, fit in zip(outcome.runs, ready.configs * len(ready.draws), params, strict=True)
        if run.chosen
    ]
    outcome = replace(
        outcome, also=tuple(evaluate(place, chosen, ready.frozen, text_set=settings.text_set) for place in also)
    )
    clock.lap("test")
    outcome = replace(outcome, seconds=clock.laps)
    record(outcome)
    return outcome


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A search before it trains: nothing in it comes from test, unless the protocol is the oracle."""

    configs: list[Method]
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
    device = pick_device(settings.device)
    check_test(store)
    protocol = check_protocol(settings.protocol or default_protocol(store), store, len(configs))
    classes = class_range(store, settings.classes)
    val_label = store.label("val") if "val" in store.splits else np.zeros(0, dtype=np.int64)
    draws = [
        within(redraw(protocol, store, drawn), store.label("train"), val_label, classes)
        for drawn in draws_of(store, settings.shots, settings.shot_seeds)
    ]
    if "text" in configs[0].needs and not store.text_sets:
        raise ConfigError(
            f"{settings.adapter} needs text weights and the store {store.name} has none; "
            "import a file with text_features"
        )
    frozen = load_frozen(store, settings.text_set, device, classes)
    return _Ready(
        configs=configs,
        classes=classes,
        draws=draws,
        protocol=protocol,
        recipe=recipe_for(draws[0].shots),
        frozen=frozen,
        tasks=[load_task(store, drawn, frozen, classes.start) for drawn in draws],
        selection=[selection_rows(protocol, store, drawn, device, classes) for drawn in draws],
    )


def _fit(ready: _Ready, progress: Progress) -> list[list[Params]]:
    """Parameters by draw and configuration."""
    configs = ready.configs
    if isinstance(configs[0], Solved):
        hypers = [_single_hyper(method, ready.frozen) for method in configs]
        return [
            [m.solve(task, h) for m, h in zip(configs, hypers, strict=True) if isinstance(m, Solved)]
            for task in ready.tasks
        ]
    runs = [
        Run(method=method, lr=ready.recipe.lr, draw=index, init_seed=chosen.shot_seed)
        for index, chosen in enumerate(ready.draws)
        for method in configs
    ]
    total = num_run_epochs(runs, ready.recipe)
    fitted = train(runs, ready.tasks, ready.recipe, progress=lambda done: progress(done, total))
    return [fitted[start : start + len(configs)] for start in range(0, len(fitted), len(configs))]


def _choose(ready: _Ready, index: int, fitted: Sequence[Params]) -> list[RunRecord]:
    """One draw's runs, scored on the protocol's rows, the best of them marked."""
    rows, draw = ready.selection[index], ready.draws[index]
    scores: list[Score | None] = [None] * len(fitted)
    best = 0  # under `fixed` there is one run and nothing to score it on
    if rows is not None:
        made = [
            score(predict(method, params, rows.image, ready.frozen), rows.label)
            for method, params in zip(ready.configs, fitted, strict=True)
        ]
        best = choose(made, [float(getattr(method, "alpha", 0.0)) for method in ready.configs])
        scores = list(made)
    return [
        RunRecord(
            config=field_values(method),
            shots=draw.shots,
            shot_seed=draw.shot_seed,
            init_seed=draw.shot_seed,
            draw=draw.digest,
            selection=selection,
            chosen=number == best,
        )
        for number, (method, selection) in enumerate(zip(ready.configs, scores, strict=True))
    ]


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
        recipe=ready.recipe,
        device=str(ready.frozen.text.device),
        trained=isinstance(ready.configs[0], Trained),
        runs=tuple(runs),
        zero_shot=Score(accuracy=float("nan"), loss=float("nan"), num_rows=0),
        notes=(*_notes(store, ready.draws), *_diverged(runs)),
        seconds=clock.laps,
    )


def _tested(outcome: Outcome, store: Store, ready: _Ready, fitted: Sequence[Params]) -> Outcome:
    frozen = ready.frozen
    rows = load_rows(store, "test", frozen.text.device, classes=ready.classes)
    methods = ready.configs * len(ready.draws)
    tested = [
        replace(run, test=score(predict(method, params, rows.image, frozen), rows.label))
        for run, method, params in zip(outcome.runs, methods, fitted, strict=True)
    ]
    zero_shot = outcome.zero_shot
    if frozen.text.shape[1]:
        zero_shot = score(cosine_logits(rows.image, frozen.text, frozen.logit_scale), rows.label)
    return replace(outcome, runs=tuple(tested), zero_shot=zero_shot)


def _single_hyper(method: Method, frozen: Frozen) -> Hyper:
    return {name: value[0] for name, value in stack_hyper([method], frozen.text.device).items()}


def expand(adapter: str, grid: dict[str, tuple[float, ...]]) -> list[Method]:
    """The methods of a grid, every field's values times every other's; raises for what the method does not know."""
    kind = registry.load(adapter)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for name in grid:
        if name not in known:
            raise ConfigError(f"{adapter} has no field {name!r}; it has: {', '.join(known) or 'none'}")
    configs: list[dict[str, float]] = [{}]
    for name, values in grid.items():
        configs = [{**config, name: value} for config in configs for value in values]
    return [kind(**config) for config in configs]


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
    names = ", ".join(f"alpha {run.alpha:g} seed {run.shot_seed}" for run in lost[:5])
    return [f"{len(lost)} of {len(runs)} runs diverged (their loss is not finite): {names}; try a lower --lr"]


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps = {**self.laps, name: now - self._last}
        self._last = now

"""A search: every configuration of a grid on every draw, trained at once; chosen by a protocol; then tested.

Test rows are read only after the choice is made and recorded, so nothing chosen can hang on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featcache import registry
from featcache.devices import machine
from featcache.digests import of_tensors
from featcache.errors import MethodError
from featcache.faults import apart
from featcache.fits import Fit, Progress, fit, num_params
from featcache.folds import over_all
from featcache.loading import Rows, load_rows
from featcache.notes import of_runs, of_store
from featcache.outcome import Outcome, RunRecord
from featcache.predictions import Keeper, items_of
from featcache.preparing import Judged, Ready, Settings, prepare
from featcache.recipes import Recipe
from featcache.selection import FAILED, Score, choose, mean_score, score_each, score_zero_shot
from featcache.shelf import DiskShelf
from featcache.shift import Fitted, Target, evaluate
from featcache.store import Store
from featcache.store.writing import versions
from featcache.task import LearnsText, Trained
from featcache.text_sources import Learnt, nothing_learnt

Recorder = Callable[[Outcome], None]
"""Keeps a search: called once when the choice is made, before test is read, and once more at the end."""
Keep = Callable[[Outcome, Sequence[Fitted]], None]
"""Shown the finished search and the chosen run of each repeat, ready to predict."""


def search(
    store: Store,
    settings: Settings,
    recipe_for: Callable[[int], Recipe],
    *,
    also: Sequence[Target] = (),
    learnt: Learnt = nothing_learnt,
    record: Recorder = lambda _: None,
    keep: Keep = lambda _outcome, _fitted: None,
    shelves: Path | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Outcome:
    """Train, choose, test, here and on the targets in `also`. Raises InputError's kin.

    `recipe_for` gives the recipe for a number of shots, `learnt` the text that other results learnt. In the folder
    `shelves` what is trained is kept until the search ends: a search that was killed goes on from there.
    """
    clock = _Clock()
    ready = prepare(store, settings, recipe_for, learnt)
    clock.lap("load")
    shelf = DiskShelf(shelves, _decisive(store, settings, ready)) if shelves else None
    fits = fit(ready.configs, ready.tasks, ready.init_seeds, ready.recipe, progress, shelf)
    clock.lap("train")
    runs = _choose(ready, fits, settings.choose)
    clock.lap("select")
    outcome = _outcome(store, settings, ready, runs, clock)
    record(outcome)
    outcome = _tested(outcome, store, ready, fits)
    chosen = _chosen(outcome, ready, fits)
    elsewhere = tuple(evaluate(place, chosen, ready.frozen, text_set=settings.text_set) for place in also)
    outcome = replace(outcome, also=elsewhere, texts=_texts(chosen))
    clock.lap("test")
    outcome = replace(outcome, seconds=clock.laps)
    record(outcome)
    keep(outcome, chosen)
    if shelf:
        shelf.clear()
    return outcome


def _decisive(store: Store, settings: Settings, ready: Ready) -> list[Any]:
    """All that decides the bits of what is trained, beside each run's own values."""
    texts = {id(task.text): task.text for task in ready.tasks}
    device = ready.frozen.text.device
    return [
        store.content,
        {**asdict(settings), "protocol": ready.protocol},
        asdict(ready.recipe),
        [[repeat.draw.digest, repeat.init_seed] for repeat in ready.repeats],
        [of_tensors({"text": text.cpu()}) for text in texts.values()],
        registry.origin(settings.adapter),
        versions(),
        machine(str(device)),
    ]


def _choose(ready: Ready, fits: Sequence[Fit], how: str) -> list[RunRecord]:
    """Each repeat's runs, scored on the protocol's rows, the best of them marked."""
    scores = [_judge(ready, fits, judged) for judged in ready.judged]
    faults = [_faults(fits, [index, *(task for task, _ in judged)]) for index, judged in enumerate(ready.judged)]
    for per_repeat, failed in zip(scores, faults, strict=True):
        per_repeat[:] = [FAILED if number in failed else score for number, score in enumerate(per_repeat)]
    best = _best(ready, scores, how)
    for number, failed in zip(best, faults, strict=True):
        if number in failed:
            raise failed[number]  # nothing better is left
    size = {
        (fitted.task, index): num_params(ready.configs[index].fitted, fitted.params)
        for fitted in fits
        for index in fitted.configs
    }
    return [
        RunRecord(
            config=config.values,
            shots=repeat.draw.shots,
            shot_seed=repeat.draw.shot_seed,
            init_seed=repeat.init_seed,
            draw=repeat.draw.digest,
            selection=selection,
            chosen=number == best[index],
            num_params=size[index, number],
            fault=str(faults[index].get(number, "")),
        )
        for index, repeat in enumerate(ready.repeats)
        for number, (config, selection) in enumerate(zip(ready.configs, scores[index], strict=True))
    ]


def _judge(ready: Ready, fits: Sequence[Fit], judged: Sequence[Judged]) -> list[Score | None]:
    """The score of each configuration on one repeat's rows; None where there are none."""
    scores = [_scores(ready, fits, task, rows) for task, rows in judged]
    if not scores:
        return [None] * len(ready.configs)
    return [FAILED if FAILED in column else over_all(column) for column in zip(*scores, strict=True)]


def _faults(fits: Sequence[Fit], tasks: Sequence[int]) -> dict[int, MethodError]:
    """By configuration: why it came to nothing on any of some tasks."""
    return {index: error for fitted in fits if fitted.task in tasks for index, error in fitted.faults.items()}


def _best(ready: Ready, scores: list[list[Score | None]], how: str) -> list[int]:
    """The index of each repeat's chosen configuration."""
    made = [[score for score in per_repeat if score is not None] for per_repeat in scores]
    if not made[0]:
        return [0] * len(scores)  # under `fixed` there is one run and nothing to score it on
    alphas = [float(getattr(config.method, "alpha", 0.0)) for config in ready.configs]
    if how == "pooled":
        return [choose([mean_score(column) for column in zip(*made, strict=True)], alphas)] * len(scores)
    return [choose(per_repeat, alphas) for per_repeat in made]


def _scores(ready: Ready, fits: Sequence[Fit], task: int, rows: Rows, keeper: Keeper | None = None) -> list[Score]:
    """The score of each configuration's run on one task; FAILED where its method raises, as the fit's faults then say.

    `keeper` sees the logits of each run, by its index among all runs.
    """
    scores: dict[int, Score] = {}
    for fitted in fits:
        if fitted.task == task:
            members = [index for index in fitted.configs if index not in fitted.faults]
            score_some = partial(_score_fit, ready, fitted, rows, keeper or Keeper())
            for index, made in zip(members, apart(score_some, members), strict=True):
                if isinstance(made, MethodError):
                    fitted.faults[index] = made
                else:
                    scores[index] = made
    return [scores.get(index, FAILED) for index in range(len(ready.configs))]


def _score_fit(ready: Ready, fitted: Fit, rows: Rows, keeper: Keeper, members: list[int]) -> list[Score]:
    """The scores of some of the configurations that a fit serves."""
    methods = [ready.configs[index].method for index in members]
    watch = keeper.watch([fitted.task * len(ready.configs) + index for index in members])
    return score_each(methods, fitted.params, rows, ready.tasks[fitted.task], watch) if members else []


def _outcome(store: Store, settings: Settings, ready: Ready, runs: Sequence[RunRecord], clock: _Clock) -> Outcome:
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
        settings=replace(
            settings,
            shots=runs[0].shots,
            shot_seeds=tuple(dict.fromkeys(repeat.draw.shot_seed for repeat in ready.repeats)),
            protocol=ready.protocol,
        ),
        views=settings.views or ready.configs[0].method.views,
        recipe=ready.recipe,
        device=str(ready.frozen.text.device),
        trained=isinstance(ready.configs[0].method, Trained),
        runs=tuple(runs),
        zero_shot=Score(accuracy=float("nan"), loss=float("nan"), num_rows=0),
        notes=(*of_store(store, ready.repeats[0].draw), *of_runs(runs, isinstance(ready.configs[0].method, Trained))),
        seconds=clock.laps,
    )


def _tested(outcome: Outcome, store: Store, ready: Ready, fits: Sequence[Fit]) -> Outcome:
    frozen = ready.frozen
    rows = load_rows(store, "test", frozen.text.device, classes=ready.classes)
    items = items_of(store, ready.classes)
    assert np.array_equal(items.label, rows.label.cpu().numpy())
    keeper = Keeper(number for number, run in enumerate(outcome.runs) if run.chosen)
    scores = [score for task in range(len(ready.repeats)) for score in _scores(ready, fits, task, rows, keeper)]
    faults = [_faults(fits, [task]) for task in range(len(ready.repeats))]
    tested = []
    for number, (run, score) in enumerate(zip(outcome.runs, scores, strict=True)):
        task, config = divmod(number, len(ready.configs))
        error = faults[task].get(config)
        if error is not None and run.chosen:
            raise error
        fault = run.fault or str(error or "")
        tested.append(replace(run, test=FAILED if fault else score, fault=fault))
    return replace(
        outcome,
        runs=tuple(tested),
        notes=(*of_store(store, ready.repeats[0].draw), *of_runs(tested, outcome.trained)),
        zero_shot=score_zero_shot(rows, frozen),
        items=items,
        predictions=keeper.kept(),
    )


def _chosen(outcome: Outcome, ready: Ready, fits: Sequence[Fit]) -> list[Fitted]:
    """The chosen run of each repeat, ready to predict."""
    params = {(fitted.task, index): fitted.params for fitted in fits for index in fitted.configs}
    num_configs = len(ready.configs)
    return [
        Fitted(
            ready.configs[number % num_configs].method,
            params[divmod(number, num_configs)],
            ready.tasks[number // num_configs],
        )
        for number, run in enumerate(outcome.runs)
        if run.chosen
    ]


def _texts(chosen: Sequence[Fitted]) -> tuple[NDArray[np.float32], ...]:
    """The text weights (C, D) that each chosen run has learnt, if that is what its method does."""
    with torch.no_grad():
        return tuple(
            method.text(params, frozen).cpu().numpy()
            for method, params, frozen in chosen
            if isinstance(method, LearnsText)
        )


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps = {**self.laps, name: now - self._last}
        self._last = now

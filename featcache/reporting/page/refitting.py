"""What a chosen run's adapter makes of embeddings: from its kept head, or fitted once more from its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from featcache import registry
from featcache.errors import ConfigError
from featcache.fits import POST_HOC_ALPHA, fit
from featcache.heads.keeping import folder_of, kept
from featcache.preparing import Settings, prepare
from featcache.recipes import Recipe
from featcache.reporting.page.gather import Found
from featcache.results import learnt_for
from featcache.store import Store
from featcache.task import Frozen, Method, Params, Task

MOST_WORK = 2e12
"""Floating-point operations of a refit that a report may spend: half a minute on two cores."""


class Refitted(NamedTuple):
    """A run as it was, or as it would be."""

    method: Method
    params: Params
    frozen: Frozen


def fitted_as_recorded(store: Store, results: Path, one: Found, run: Mapping[str, Any]) -> Refitted:
    """The run as its search left it, where its head was kept, else fitted again; raises what `refit` raises."""
    head = kept(folder_of(results), one.search, run)
    if head is None:
        return refit(store, results, one, run)
    kind: Any = registry.load(head.predictor)
    return Refitted(kind(**head.fields), head.params, head.frozen)


def refit(store: Store, results: Path, one: Found, run: Mapping[str, Any], **changes: Any) -> Refitted:
    """The run fitted again on its draw from its own seed, with some fields of its configuration changed.

    Raises ConfigError where that is too much work for a report, and InputError's kin where the store has changed.
    """
    config = {**run["config"], **changes}
    post_hoc = config.pop(POST_HOC_ALPHA, None)
    settings = Settings(
        adapter=one.adapter,
        grid={name: (value,) for name, value in config.items()},
        post_hoc_alpha=() if post_hoc is None else (post_hoc,),
        views=one.search["views"],
        shots=run["shots"],
        shot_seeds=(run["shot_seed"],),
        init_seeds=(run["init_seed"],) if run["num_params"] is not None else None,
        protocol="fixed",
        text_set=one.text_set,
        classes=one.classes,
        device="cpu",
    )
    recipe = recipe_of(one.search["recipe"])
    ready = prepare(store, settings, lambda _: recipe, learnt_for(results, store.key, one.classes))
    _check_work(ready.tasks[0], recipe, run["num_params"] or 0)
    [fitted] = fit(ready.configs, ready.tasks, ready.init_seeds, recipe, lambda _done, _total: None)
    if fitted.faults:
        raise next(iter(fitted.faults.values()))
    return Refitted(ready.configs[0].method, fitted.params, ready.tasks[0])


def recipe_of(kept: Mapping[str, Any]) -> Recipe:
    """The recipe of a record, which an older version may have written with other fields."""
    known = {field.name for field in fields(Recipe)}
    return Recipe(**{name: value for name, value in kept.items() if name in known})


def _check_work(task: Task, recipe: Recipe, num_params: int) -> None:
    work = 6.0 * len(task.label) * recipe.epochs * (num_params + task.text.numel())
    if work > MOST_WORK:
        raise ConfigError(f"fitting it again would take {work / 1e12:.0f} Tflop, which is too much for a report")

"""A result -> one head: which of its draws, from what was kept or by refitting, and whether it answers as recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from featcache import __version__, results
from featcache.errors import ConfigError, FeatcacheError, StoreError
from featcache.fits import POST_HOC_ALPHA, Progress, fit
from featcache.heads.head import Head, encoder_of, head_of
from featcache.heads.keeping import folder_of, kept
from featcache.heads.module import HeadModule
from featcache.loading import class_range, load_rows
from featcache.outcome import Outcome, RunRecord
from featcache.preparing import Settings, prepare
from featcache.recipes import Recipe
from featcache.shift import Fitted
from featcache.store import Store
from featcache.store.places import with_key
from featcache.store.spec import canonical_json
from featcache.store.writing import versions


class Exported(NamedTuple):
    """A head and how it came about."""

    head: Head
    run: dict[str, Any]
    """The run's record."""
    refitted: bool
    """Whether it was fitted again, since it was not kept."""
    agreement: tuple[int, int] | None
    """Test images on which it says what was recorded, and all of them; None where the store is gone."""


def head_of_result(
    path: Path,
    search_id: int,
    *,
    seed: int | None = None,
    init_seed: int | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Exported:
    """The head of a result's chosen run: of one draw, else of that which did best on what the protocol chose by.

    Raises UnknownNameError for a result that is not there, ConfigError for a draw it has not or one that cannot be a
    head, StoreError where it must be refitted and its store is gone.
    """
    search = results.fetch(path, search_id)
    if search["state"] != "done":
        raise ConfigError(f"result {search_id} is not finished, so it has no test figures; fit it again")
    run = _run_of(search, seed, init_seed)
    found = kept(folder_of(path), search, run)
    head = found or _refitted(path, search, run, progress)
    head = replace(head, provenance=_provenance(search, run))
    return Exported(head, run, found is None, _agreement(path, search, run, head))


def _run_of(search: Mapping[str, Any], seed: int | None, init_seed: int | None) -> dict[str, Any]:
    """The chosen run that is meant."""
    chosen: list[dict[str, Any]] = [run for run in search["runs"] if run["chosen"]]
    found = [run for run in chosen if seed is None or run["shot_seed"] == seed]
    found = [run for run in found if init_seed is None or run["init_seed"] == init_seed]
    if not found:
        there = sorted({(run["shot_seed"], run["init_seed"]) for run in chosen})
        asked = [f"--seed {seed}"] * (seed is not None) + [f"--init-seed {init_seed}"] * (init_seed is not None)
        raise ConfigError(
            f"result {search['id']} has no run of {' '.join(asked)}; it has "
            + ", ".join(f"seed {shot} (init seed {init})" for shot, init in there)
        )

    return found[best_of([(run["selection_accuracy"], run["selection_loss"]) for run in found])]


def best_of(scores: Sequence[tuple[float | None, float | None]]) -> int:
    """The place of the highest accuracy, then the lowest loss, then the first; the first where nothing was scored."""

    def rank(place: int) -> tuple[float, float]:
        accuracy, loss = scores[place]
        if accuracy is None or math.isnan(accuracy):
            return 0.0, 0.0
        return -accuracy, loss if loss is not None and math.isfinite(loss) else math.inf

    return min(range(len(scores)), key=rank)


def _refitted(path: Path, search: Mapping[str, Any], run: Mapping[str, Any], progress: Progress) -> Head:
    """The run fitted again from its record."""
    with _store_of(search) as store:
        config = dict(run["config"])
        post_hoc = config.pop(POST_HOC_ALPHA, None)
        recipe = Recipe(**search["recipe"])
        settings = Settings(
            adapter=search["adapter"],
            grid={name: (value,) for name, value in config.items()},
            post_hoc_alpha=() if post_hoc is None else (post_hoc,),
            views=search["views"],
            shots=run["shots"],
            shot_seeds=(run["shot_seed"],),
            init_seeds=(run["init_seed"],) if run["num_params"] is not None else None,
            # Folds are for choosing, which is done.
            protocol="fixed" if search["protocol"] == "cross-validation" else search["protocol"],
            text_set=search["text_set"],
            classes=search["classes"],
        )
        learnt = results.learnt_for(path, store.key, search["classes"])
        ready = prepare(store, settings, lambda _shots: recipe, learnt)
        if ready.repeats[0].draw.digest != run["draw"]:
            raise StoreError(f"{store.name} no longer gives the images that result {search['id']} was fitted on")
        (fitted,) = fit(ready.configs, ready.tasks, ready.init_seeds, recipe, progress)
        for error in fitted.faults.values():
            raise error
        one = Fitted(ready.configs[0].method, fitted.params, ready.tasks[0])
        return head_of(search["adapter"], run["config"], one, encoder_of(store))


def _store_of(search: Mapping[str, Any]) -> Store:
    if found := with_key(search["store_key"], search["store"]):
        return Store(found)
    raise StoreError(
        f"result {search['id']} must be fitted again, for its head is not kept, and its store {search['store']} (key "
        f"{search['store_key'][:8]}) is gone; extract or import it again, then export"
    )


def _agreement(path: Path, search: Mapping[str, Any], run: Mapping[str, Any], head: Head) -> tuple[int, int] | None:
    """On how many of all test images the head says what was recorded of the run; None where that cannot be told."""
    try:
        store = _store_of(search)
    except FeatcacheError:
        return None
    with store:
        answered = results.answered(path, search["id"])
        same = [
            answer
            for answer in (answered.answers if answered else ())
            if (answer.draw, answer.init_seed) == (run["draw"], run["init_seed"])
        ]
        if not same:
            return None
        rows = load_rows(store, "test", torch.device("cpu"), classes=class_range(store, search["classes"]))
        if len(rows.label) != len(same[0].predictions.predicted):
            return None  # the store has grown since
        said = HeadModule(head).logits(rows.image).argmax(dim=1).numpy()
    return int(np.count_nonzero(said == same[0].predictions.predicted)), len(said)


def provenance_of(outcome: Outcome, run: RunRecord, number: int | None) -> dict[str, Any]:
    """Where a head of a finished search comes from; `number` is the result's id, where it has one."""
    search = {
        **vars(outcome),
        "id": number,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": asdict(outcome.recipe),
        "notes": list(outcome.notes),
        "versions": versions(),
        "zero_shot_accuracy": outcome.zero_shot.accuracy,
    }
    scores = {
        "selection_accuracy": run.selection.accuracy if run.selection else None,
        "test_accuracy": run.test.accuracy if run.test else None,
        "test_rows": run.test.num_rows if run.test else None,
    }
    return _provenance(search, {**vars(run), **scores})


def _provenance(search: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    of_search = ("dataset", "store", "store_key", "content", "text_set", "classes", "protocol", "choose", "views")
    of_run = ("shots", "shot_seed", "init_seed", "draw", "selection_accuracy", "test_accuracy", "test_rows")
    values = {
        "result": search["id"],
        "created": search["created"],
        "featcache": __version__,
        "untrained": bool(search["untrained"]),
        "zero_shot_accuracy": search["zero_shot_accuracy"],
        **{name: search[name] for name in (*of_search, "recipe", "versions", "notes")},
        **{name: run[name] for name in of_run},
    }
    plain = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}
    canonical_json(plain)
    return plain

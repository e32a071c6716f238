"""A recorded search made once more from its row alone, and how the two differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache import registry
from featcache import results as records
from featcache.devices import machine
from featcache.errors import ConfigError, InputError
from featcache.fits import Progress
from featcache.loading import class_range
from featcache.outcome import Outcome, RunRecord
from featcache.preparing import Settings
from featcache.recipes import Recipe
from featcache.results import Answered
from featcache.search import search
from featcache.selection import Score
from featcache.shift import Target, target
from featcache.store import Store
from featcache.store.places import with_key
from featcache.store.writing import versions

_SCORES = (
    ("selection_accuracy", "selection", "accuracy"),
    ("selection_loss", "selection", "loss"),
    ("test_accuracy", "test", "accuracy"),
    ("test_loss", "test", "loss"),
)


@dataclass(frozen=True, kw_only=True)
class Again:
    """A search beside its record."""

    result: int
    outcome: Outcome
    changes: tuple[str, ...]
    """What is not as it was: versions, machine, the store's content, the method's file."""
    num_unequal: int
    """Runs of which any accuracy or loss differs in any bit, here or on a store of `--also`, or any prediction or
    confidence of a chosen one."""
    most_items: int
    """By how many images the number of right ones differs, at most over all runs, on any of their rows."""
    same_choice: bool
    """Whether the same configuration was chosen for each draw."""

    @property
    def verdict(self) -> str:
        """`bit-equal`, `within one item` or `different`."""
        if self.num_unequal == 0 and self.same_choice:
            return "bit-equal"
        return "within one item" if self.most_items <= 1 else "different"


def rerun(
    path: Path, result: int, *, device: str | None = None, progress: Progress = lambda _done, _total: None
) -> Again:
    """Search again as a row of the results file `path` says, on the device it names unless another is given.

    Nothing is recorded. Stores of `--also` that are gone are left out, which `changes` says. Raises UnknownNameError
    for a result that is not there, InputError where it cannot be made again: its store is gone, or it is older than
    what a rerun needs.
    """
    row = records.fetch(path, result)
    settings, recipe = asked_of(row)
    if device is not None:
        settings = replace(settings, device=device)
    with ExitStack() as opened:
        store = opened.enter_context(Store(store_of(row)))
        outcome = search(
            store,
            settings,
            lambda _: recipe,
            also=_targets(row, store, opened),
            learnt=records.learnt_for(path, store.key, row["classes"]),
            progress=progress,
        )
    return compare_to_row(row, records.answered(path, result), outcome)


def asked_of(row: Mapping[str, Any]) -> tuple[Settings, Recipe]:
    """What a row of `results.fetch` was asked for, on the device it ran on. Raises InputError for an old row."""
    command = " ".join(["featcache", *row["command"]])
    if not row["settings"]:
        raise InputError(
            f"result {row['id']} was made before settings were kept, so it cannot be made again from its row; its "
            f"command was: {command}"
        )
    if "folder" in row["method"] and row["adapter"] not in registry.known():
        registry.add_folder(Path(row["method"]["folder"]))
    kept: dict[str, Any] = {
        **row["settings"],
        "grid": {name: tuple(values) for name, values in row["settings"]["grid"].items()},
        "device": row["device"],
    }
    try:
        lists_as_tuples: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()
        }
        return Settings(**lists_as_tuples), Recipe(**row["recipe"])
    except TypeError as error:
        raise InputError(
            f"result {row['id']} was made by featcache {row['versions'].get('featcache')} with settings that this one "
            f"does not know ({error}); its command was: {command}"
        ) from error


def store_of(row: Mapping[str, Any]) -> Path:
    """The store file of a row, by its key and not by its name. Raises InputError where it is gone."""
    found = with_key(row["store_key"], row["store"])
    if found:
        return found
    raise InputError(
        f"the store of result {row['id']}, {row['store']} (key {row['store_key'][:16]}), is gone; extract or import "
        f"{row['dataset']} with {row['backbone']} again as it was made, then repeat this"
    )


def _targets(row: Mapping[str, Any], store: Store, opened: ExitStack) -> list[Target]:
    """Where else a row was tested, as far as it is still there; the stores stay open as long as `opened`."""
    method, trained = registry.load(row["adapter"]), class_range(store, row["classes"])
    places = {(item["store_key"], item["classes"]): item["store"] for item in row["also"]}
    found = []
    for (key, part), name in places.items():
        if path := with_key(key, name):
            other = opened.enter_context(Store(path))
            found.append(target(other, part, source=store, trained=trained, method=method, text_set=row["text_set"]))
    return found


def compare_to_row(row: Mapping[str, Any], kept: Answered | None, outcome: Outcome) -> Again:
    """An outcome beside the record of the same search. Raises ConfigError where it ran other configurations."""
    if row["state"] != "done":
        raise InputError(f"result {row['id']} is not finished: it has no test numbers to compare with")
    before, now = row["runs"], outcome.runs
    if [run["draw"] for run in before] != [run.draw for run in now]:
        raise ConfigError(f"the draws of result {row['id']} hold other images now, so there is nothing to compare")
    if [run["config"] for run in before] != [run.config for run in now]:
        raise ConfigError(
            f"{outcome.adapter} has other fields or defaults now than when result {row['id']} was made, so there is "
            "nothing to compare"
        )
    unequal = {index for index, (old, new) in enumerate(zip(before, now, strict=True)) if not _same(old, new)}
    chosen = [index for index, run in enumerate(now) if run.chosen]
    same_choice = chosen == [index for index, run in enumerate(before) if run["chosen"]]
    elsewhere = list(_elsewhere(row, chosen, outcome)) if same_choice else []
    unequal |= {index for index, old, new in elsewhere if not _same_test(old, new)}
    if kept is not None and same_choice:
        unequal |= _other_predictions(chosen, kept, outcome)
    return Again(
        result=row["id"],
        outcome=outcome,
        changes=tuple(_changes(row, outcome)),
        num_unequal=len(unequal),
        most_items=max(
            [_items(old, new) for old, new in zip(before, now, strict=True)]
            + [_items_of(old["test_accuracy"], new) for _, old, new in elsewhere]
        ),
        same_choice=same_choice,
    )


def _same(old: Mapping[str, Any], new: RunRecord) -> bool:
    return all(_equal(old[name], _score(new, part, measure)) for name, part, measure in _SCORES)


def _elsewhere(
    row: Mapping[str, Any], chosen: Sequence[int], outcome: Outcome
) -> Iterator[tuple[int, Mapping[str, Any], Score]]:
    """Each chosen run's number, its record on a store of `--also`, and its score there now."""
    index_of = {row["runs"][index]["id"]: index for index in chosen}
    now = {
        (place.store_key, place.classes, index): score
        for place in outcome.also
        for index, score in zip(chosen, place.scores, strict=True)
    }
    for old in row["also"]:
        index = index_of[old["run"]]
        if new := now.get((old["store_key"], old["classes"], index)):
            yield index, old, new


def _same_test(old: Mapping[str, Any], new: Score) -> bool:
    return _equal(old["test_accuracy"], new.accuracy) and _equal(old["test_loss"], new.loss)


def _score(run: RunRecord, part: str, measure: str) -> float:
    score = getattr(run, part)
    return math.nan if score is None else float(getattr(score, measure))


def _equal(old: float | None, new: float) -> bool:
    """Bit for bit; SQLite keeps NaN as NULL."""
    return math.isnan(new) if old is None else old == new


def _other_predictions(chosen: Sequence[int], kept: Answered, outcome: Outcome) -> set[int]:
    return {
        index
        for index, old, new in zip(chosen, kept.answers, outcome.predictions, strict=True)
        if not np.array_equal(old.predictions.predicted, new.predicted)
        or not np.array_equal(old.predictions.confidence, new.confidence)
    }


def _items(old: Mapping[str, Any], new: RunRecord) -> int:
    """By how many right images a run differs, at most of its selection and its test rows."""
    return max(_items_of(old[f"{part}_accuracy"], getattr(new, part)) for part in ("selection", "test"))


def _items_of(was: float | None, score: Score | None) -> int:
    """The same on one set of rows."""
    is_now = math.nan if score is None else score.accuracy
    if was is None or math.isnan(is_now):
        return 0 if was is None and math.isnan(is_now) else score.num_rows if score else 1
    assert score is not None
    return round(abs(was - is_now) * score.num_rows)


def _changes(row: Mapping[str, Any], outcome: Outcome) -> list[str]:
    """What is not as it was when the row was made."""
    now = versions()
    found = [f"{name} {was} then, {now.get(name)} now" for name, was in row["versions"].items() if now.get(name) != was]
    here = machine(outcome.device)
    found += [
        f"{name} {row['machine'].get(name)} then, {here.get(name)} now"
        for name in {**row["machine"], **here}
        if row["machine"].get(name) != here.get(name)
    ]
    if row["device"] != outcome.device:
        found.append(f"device {row['device']} then, {outcome.device} now")
    if row["content"] != outcome.content:
        found.append("the store's content has changed (rows or text were added)")
    there = {place.store_key: place.content for place in outcome.also}
    for name, key, content in {(item["store"], item["store_key"], item["content"]) for item in row["also"]}:
        if key not in there:
            found.append(f"{name}, which it was also tested on, is gone and left out")
        elif there[key] != content:
            found.append(f"the content of {name}, which it was also tested on, has changed")
    if row["method"].get("sha256") != registry.origin(row["adapter"])["sha256"]:
        found.append(f"the file of {row['adapter']} has changed")
    return found

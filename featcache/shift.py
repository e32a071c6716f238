"""A fitted method on other stores of the same backbone: shifted test sets, other data sets, classes not trained on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch

from featcache.errors import ConfigError, StoreError, UnknownNameError
from featcache.loading import class_range, load_frozen, load_rows
from featcache.ops import cosine_logits
from featcache.selection import Score, score
from featcache.store import Store
from featcache.store.places import list_stores, resolve
from featcache.task import Frozen, Method, Params
from featcache.text_sources import sources_of
from featcache.training import predict

_OF_BACKBONE: Final = ("--backbone", "--weights", "--precision", "--style")
"""Of the command that made a store, what another data set's store must share to be compared."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Test rows elsewhere, and how their classes are told apart."""

    store: Store
    classes: str
    """`all`, `base` or `new`."""
    columns: tuple[int, ...] | None
    """Where each of its classes stands among those trained on; None: by their own text, for classes not trained on."""


@dataclass(frozen=True, kw_only=True)
class Shifted:
    """The chosen runs on a target's test rows."""

    store: str
    store_key: str
    content: str
    dataset: str
    style: str
    """The target's preprocessing, which may differ from the one trained on."""
    classes: str
    num_classes: int
    trained_on: bool
    """Whether its classes are among those trained on."""
    scores: tuple[Score, ...]
    """One for each draw's chosen run."""
    zero_shot: Score


def find(asked: str, store: Store) -> tuple[Store, str]:
    """The open store and part of its classes that one item of `--also` means; the caller closes the store.

    `base` and `new` are halves of `store` itself, NAME:base and NAME:new those of another; NAME is a store or the data
    set of one with the same backbone. Raises UnknownNameError's kin.
    """
    if asked in ("base", "new"):
        return Store(store.path), asked
    name, _, part = asked.rpartition(":")
    name, part = (name, part) if name and part in ("base", "new") else (asked, "all")
    try:
        return Store(_store_of(name, store) or resolve(name)), part
    except UnknownNameError as error:
        raise UnknownNameError("store", error.name, error.known, hint=_how_to_have(name, store)) from error
    except FileNotFoundError as error:  # removed just now
        raise StoreError(f"the store of {name} is gone: {error}") from error


def target(store: Store, part: str, *, source: Store, trained: range, method: type[Method], text_set: str) -> Target:
    """The target, if `method` fitted on classes `trained` of `source` can say anything about it.

    Raises ConfigError otherwise, UnknownNameError where its classes' text is needed and lacks `text_set`.
    """
    if store.spec.tower != source.spec.tower:
        raise ConfigError(
            f"{store.name} was made with another backbone ({_tower(store)}) than {source.name} ({_tower(source)}), so "
            "what was fitted on one says nothing about the other; extract it with the same backbone"
        )
    wanted = class_range(store, part)
    if "test" not in store.splits or not np.isin(store.label("test")[store.rows("test")], wanted).any():
        of = "" if part == "all" else f" of its {part} half"
        raise ConfigError(f"{store.name} holds no test images{of} to evaluate on")
    columns = _columns(_ids(store, wanted), _ids(source, trained))
    if columns is None and not method.transfers:
        raise ConfigError(
            f"{store.name} has classes that were not trained on, and this method learns something of each class; "
            "train on a store that has them all, or choose a method that transfers, such as clip_adapter"
        )
    if columns is None:
        _check_text(store, text_set)
    return Target(store=store, classes=part, columns=columns)


class Fitted(NamedTuple):
    """A run, ready to predict."""

    method: Method
    params: Params
    frozen: Frozen
    """What it was fitted with."""


def evaluate(place: Target, fitted: Sequence[Fitted], frozen: Frozen, *, text_set: str) -> Shifted:
    """Every fitted run on the target's test rows; `frozen` is zero-shot CLIP where they were fitted."""
    store, device = place.store, frozen.text.device
    classes = class_range(store, place.classes)
    rows = load_rows(store, "test", device, classes=classes)
    columns = slice(None) if place.columns is None else torch.tensor(place.columns, device=device)
    if place.columns is None:
        frozen = load_frozen(store, text_set, device, classes, tower=frozen.tower)
        fitted = [run._replace(frozen=frozen) for run in fitted]
    zero_shot = Score(accuracy=float("nan"), loss=float("nan"), num_rows=0)
    if frozen.text.shape[1]:
        logits = cosine_logits(rows.image, frozen.text, frozen.logit_scale)[:, columns]
        zero_shot = score(logits, rows.label)
    return Shifted(
        store=store.name,
        store_key=store.key,
        content=store.content,
        dataset=str(store.provenance.get("dataset", store.name)),
        style=str(store.spec.transform.get("style", "unknown")),
        classes=place.classes,
        num_classes=len(classes),
        trained_on=place.columns is not None,
        scores=tuple(
            score(predict(run.method, run.params, rows.image, run.frozen)[:, columns], rows.label) for run in fitted
        ),
        zero_shot=zero_shot,
    )


def _how_to_have(dataset: str, source: Store) -> str:
    """The command for a data set's store with the source's backbone; an import does not say how its own was made."""
    typed = shlex.split(str(source.provenance.get("command", "")))
    kept = [word for pair in pairwise(typed) if pair[0] in _OF_BACKBONE for word in pair]
    if "--backbone" not in kept:
        return ""
    command = shlex.join(["featcache", "extract", "--dataset", dataset, *kept])
    return f"a data set needs a store with the backbone of {source.name}, which `{command}` makes"


def _store_of(dataset: str, source: Store) -> Path | None:
    """The newest store of a data set with the source's backbone, one of the source's style before others."""
    found = None
    stores = list_stores()
    if any(path.stem == dataset for path in stores):
        return None  # a store's own name comes first
    for path in stores:
        try:
            with Store(path) as store:
                fits = store.provenance.get("dataset") == dataset and store.spec.tower == source.spec.tower
                same_style = store.spec.transform.get("style") == source.spec.transform.get("style")
        except (StoreError, OSError):
            continue  # damaged or just removed: another may fit
        if fits and same_style:
            return path
        found = found or (path if fits else None)
    return found


def _check_text(store: Store, text_set: str) -> None:
    """Raises unless the store has all of the text sets that `text_set` joins by +, and nothing of it is learnt."""
    if sources_of(text_set).runs:
        raise ConfigError(
            f"{store.name} has classes that were not trained on, and {text_set} is learnt for those that were; "
            "fit with --prompts, whose sentences every class can have"
        )
    if not store.text_sets:
        raise ConfigError(
            f"{store.name} has no text, which alone could tell its classes apart; add some with "
            f"`featcache prompts add {store.name} SET --backbone NAME`"
        )
    for name in text_set.split("+"):
        store.text(name)


def _ids(store: Store, classes: range) -> tuple[str, ...]:
    return store.class_ids[classes.start : classes.stop]


def _columns(wanted: tuple[str, ...], trained: tuple[str, ...]) -> tuple[int, ...] | None:
    """The place of each wanted class among the trained ones; None where one is not there or cannot be told by name."""
    if wanted == trained:
        return tuple(range(len(trained)))
    place = {name: index for index, name in enumerate(trained)}
    if len(place) < len(trained) or len(set(wanted)) < len(wanted) or not set(wanted) <= place.keys():
        return None
    return tuple(place[name] for name in wanted)


def _tower(store: Store) -> str:
    tower = store.spec.tower
    return f"{tower.architecture} {tower.checkpoint[:12]} {tower.precision}"

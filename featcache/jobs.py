"""A search as it was asked for: carried out, and what it is known by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from featcache import registry
from featcache.fit_options import FitOptions, Job, recipe_of, settings_of
from featcache.heads import keeping as heads
from featcache.loading import class_range, data_set, draws_of
from featcache.outcome import Outcome
from featcache.search import search
from featcache.shift import Target, find, target
from featcache.store import Store
from featcache.store.spec import canonical_json
from featcache.text_sources import Learnt, sources_of


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

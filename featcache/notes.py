"""What a reader of a result must know beside its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from featcache.fewshot import Draw
from featcache.loading import exhausting, missing_paths
from featcache.outcome import RunRecord, varying, words
from featcache.store import Store

NAMED = 5
"""How many lost runs are named."""


def of_store(store: Store, drawn: Draw) -> list[str]:
    """What the images and the backbone lack."""
    notes = []
    if store.spec.tower.untrained:
        notes.append("the backbone's weights are random: these numbers test the machinery and mean nothing else")
    short = drawn.short_classes
    if short:
        notes.append(f"{len(short)} classes have fewer than {drawn.shots} training images; all of theirs are used")
    too_many = [shots for shots in exhausting(store) if shots > drawn.shots]
    if too_many:
        listed = ", ".join(map(str, too_many))
        notes.append(
            f"{listed} shots are extracted too, but would use up every training image and leave none to choose on"
        )
    unreadable = missing_paths(store)
    if unreadable:
        notes.append(f"{len(unreadable)} images could not be read and are left out: " + "; ".join(unreadable))
    return notes


def of_runs(runs: Sequence[RunRecord], trained: bool) -> list[str]:
    """The runs that diverged, and those that failed: the others are not touched by them."""
    notes = []
    diverged, failed = [run for run in runs if run.diverged], [run for run in runs if run.fault]
    if diverged:
        hint = "; try a lower --lr" if trained else ""
        named = f"{len(diverged)} of {len(runs)} runs diverged (their loss is not finite)"
        notes.append(f"{named}: {_names(diverged, runs)}{hint}")
    if failed:
        notes.append(f"{len(failed)} of {len(runs)} runs failed: {_names(failed, runs)}; {failed[0].fault}")
    return notes


def _names(lost: Sequence[RunRecord], runs: Sequence[RunRecord]) -> str:
    """The first few, by what tells them from the others."""
    named = [f"{words(run.config, varying(runs))} {_seed_words(run)}".strip() for run in lost[:NAMED]]
    return ", ".join(named) + (", ..." if len(lost) > NAMED else "")


def _seed_words(run: RunRecord) -> str:
    init = "" if run.init_seed == run.shot_seed else f" init seed {run.init_seed}"
    return f"seed {run.shot_seed}{init}"

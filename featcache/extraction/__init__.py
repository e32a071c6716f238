"""Extraction: a plan of missing rows and views, shards that encode them, parts that are assembled into the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featcache.errors import DataError, OvertakenError
from featcache.extraction.parts import remove_parts
from featcache.extraction.plan import Plan, Request, make_plan
from featcache.prompts import PromptSet, TextSet, encode_set
from featcache.store.claims import turn
from featcache.store.damage import NO_DAMAGE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featcache.backbones import Backbone
    from featcache.engines import Engine
    from featcache.extraction.encode import Machine, Progress

__all__ = ["Plan", "Request", "carry_out", "make_plan", "remove_spent"]

_ROUNDS = 3
"""How often images may change under an extraction before it gives up."""


def carry_out(
    plan: Plan,
    backbone: Backbone,
    machine: Machine,
    *,
    engine: Engine | None = None,
    provenance: dict[str, Any],
    progress: Progress,
) -> None:
    """Do what the plan says: encode what is missing into parts, the texts if need be, and assemble the store.

    Without an engine all is done in this process. Interrupted at any moment, it loses at most the shard at hand; the
    same call then goes on from there. Several calls at once for one store, by whatever processes, share the work.
    """
    from featcache.devices import at_hand
    from featcache.engines.here import Here

    engine = engine or Here()
    for prompts in plan.texts.missing:
        backbone.tokens(prompts.sentences)  # a prompt too long is better found before the images than after them
    if not engine.leads:
        engine.encode(plan, backbone, machine, progress=progress)
        return
    record = {
        "kind": "extract",
        "dataset": plan.manifest.name,
        "backbone": backbone.name,
        "weights": backbone.weights,
        "splits": plan.manifest.source,
        "style": plan.request.style,
        "template": plan.manifest.template,
        "place": plan.manifest.reader.place,
        "device": machine.device.type,
        **provenance,
    }
    texts: dict[PromptSet, TextSet] = {}
    held = _kept(plan) if plan.texts.missing else {}

    def to_text(sentences: Sequence[str]) -> NDArray[np.float32]:
        return backbone.encode_texts(sentences, at_hand(machine.device))

    rounds = 0
    while rounds < _ROUNDS:
        shared = bool(plan.num_missing) and engine.encode(plan, backbone, machine, progress=progress)
        for prompts in plan.texts.missing:
            if prompts not in texts:
                texts[prompts] = encode_set(prompts, held.values(), plan.identity.tower, to_text).text
        with turn(plan.store):
            plan = _again(plan)  # other processes wrote stores and parts meanwhile, or images changed
            if not plan.num_missing and texts.keys() >= set(plan.texts.missing):
                with suppress(OvertakenError):  # by one that did not wait for its turn: plan anew
                    _finish(plan, texts, record)
                    return
        rounds += not shared  # what others had in hand may have come to nothing: no image changed for that
    raise DataError(
        f"{plan.num_images} images changed while they were encoded, {_ROUNDS} times over; "
        "run the same command again once nothing writes to them"
    )


def remove_spent(plan: Plan) -> None:
    """Delete the parts that nobody needs any more."""
    remove_parts(plan.spec.key, plan.spent)


def _finish(plan: Plan, texts: Mapping[PromptSet, TextSet], record: dict[str, Any]) -> None:
    """Assemble the store, unless another process has done so, and delete the parts that it holds; in one's turn."""
    from featcache.extraction.assemble import assemble

    if not plan.complete or plan.request.damage.problems:
        text = _kept(plan) | {prompts.name: texts[prompts] for prompts in plan.texts.missing}
        record |= {"draws": [list(pair) for pair in plan.draws]}
        assemble(plan, text=text, provenance=record)
    remove_spent(_again(replace(plan, request=replace(plan.request, damage=NO_DAMAGE))))


def _again(plan: Plan) -> Plan:
    return make_plan(plan.manifest, plan.identity, plan.request)


def _kept(plan: Plan) -> dict[str, TextSet]:
    """The text sets that the store has and keeps."""
    from featcache.store import Store

    if not plan.texts.kept:
        return {}
    with Store(plan.store) as store:
        return {name: store.text(name) for name in plan.texts.kept}

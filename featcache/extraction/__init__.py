"""Extraction: a plan of missing rows and views, shards that encode them, parts that are assembled into the store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featcache.errors import DataError
from featcache.extraction.parts import remove_parts
from featcache.extraction.plan import Plan, Request, make_plan
from featcache.prompts import PromptSet, TextSet, encoded
from featcache.store.damage import NO_DAMAGE

if TYPE_CHECKING:
    from featcache.backbones import Backbone
    from featcache.extraction.encode import Machine, Progress

__all__ = ["Plan", "Request", "carry_out", "make_plan", "remove_spent"]

_ROUNDS = 3
"""How often images may change under an extraction before it gives up."""


def carry_out(
    plan: Plan, backbone: Backbone, machine: Machine, *, provenance: dict[str, Any], progress: Progress
) -> None:
    """Do what the plan says: encode what is missing into parts, the texts if need be, and assemble the store.

    Interrupted at any moment, it loses at most the shard at hand; the same call then goes on from there.
    """
    from featcache.extraction.assemble import assemble

    for prompts in plan.texts.missing:
        backbone.tokens(prompts.sentences)  # a prompt too long is better found before the images than after them
    plan, text = _encoded(plan, backbone, machine, progress=progress)
    record = {
        "kind": "extract",
        "dataset": plan.manifest.name,
        "backbone": backbone.name,
        "weights": backbone.weights,
        "splits": plan.manifest.source,
        "style": plan.request.style,
        "template": plan.manifest.template,
        "draws": [list(pair) for pair in plan.draws],
        "place": plan.manifest.reader.place,
        "device": machine.device.type,
        **provenance,
    }
    assemble(plan, text=text, provenance=record)
    remove_spent(_again(replace(plan, request=replace(plan.request, damage=NO_DAMAGE))))


def remove_spent(plan: Plan) -> None:
    """Delete the parts that nobody needs any more."""
    remove_parts(plan.spec.key, plan.spent)


def _encoded(
    plan: Plan, backbone: Backbone, machine: Machine, *, progress: Progress
) -> tuple[Plan, dict[str, TextSet]]:
    """The plan with nothing left to encode, and the finished store's text sets.

    The plan is made anew each time: other processes write stores and parts, and images change meanwhile.
    """
    from featcache.extraction.encode import encode_missing

    texts: dict[PromptSet, TextSet] = {}
    for _ in range(_ROUNDS):
        if plan.num_missing:
            encode_missing(plan, backbone, machine, progress=progress)
        for prompts in plan.texts.missing:
            if prompts not in texts:
                embedding = backbone.encode_texts(prompts.sentences, machine.device)
                texts[prompts] = encoded(prompts, embedding, plan.identity.tower)
        plan = _again(plan)
        if not plan.num_missing and texts.keys() >= set(plan.texts.missing):
            return plan, _kept(plan) | {prompts.name: texts[prompts] for prompts in plan.texts.missing}
    raise DataError(
        f"{plan.num_images} images changed while they were encoded, {_ROUNDS} times over; "
        "run the same command again once nothing writes to them"
    )


def _again(plan: Plan) -> Plan:
    return make_plan(plan.manifest, plan.identity, plan.request)


def _kept(plan: Plan) -> dict[str, TextSet]:
    """The text sets that the store has and keeps."""
    from featcache.store import Store

    if not plan.texts.kept:
        return {}
    with Store(plan.store) as store:
        return {name: store.text(name) for name in plan.texts.kept}

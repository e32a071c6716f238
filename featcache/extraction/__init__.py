"""Extraction: a plan of missing rows and views, shards that encode them, parts that are assembled into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featcache.errors import DataError
from featcache.extraction.parts import remove_parts
from featcache.extraction.plan import Plan, Request, make_plan
from featcache.prompts import TextSet, encoded

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
    plan = _encoded(plan, backbone, machine, progress=progress)
    text = _text(plan, backbone, machine)
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
    remove_spent(_again(plan))


def remove_spent(plan: Plan) -> None:
    """Delete the parts that nobody needs any more."""
    remove_parts(plan.spec.key, plan.spent)


def _encoded(plan: Plan, backbone: Backbone, machine: Machine, *, progress: Progress) -> Plan:
    """The plan with nothing left to encode, made anew each time: other processes write, and images change meanwhile."""
    from featcache.extraction.encode import encode_missing

    for _ in range(_ROUNDS):
        if not plan.num_missing:
            return plan
        encode_missing(plan, backbone, machine, progress=progress)
        plan = _again(plan)
    if plan.num_missing:
        raise DataError(
            f"{plan.num_images} images changed while they were encoded, {_ROUNDS} times over; "
            "run the same command again once nothing writes to them"
        )
    return plan


def _again(plan: Plan) -> Plan:
    return make_plan(plan.manifest, plan.identity, plan.request)


def _text(plan: Plan, backbone: Backbone, machine: Machine) -> dict[str, TextSet]:
    """The finished store's text sets: its own where they still fit, the others encoded."""
    from featcache.store import Store

    made = {
        prompts.name: encoded(prompts, backbone.encode_texts(prompts.sentences, machine.device), plan.identity.tower)
        for prompts in plan.texts.missing
    }
    if not plan.texts.kept:
        return made
    with Store(plan.store) as store:
        return {name: store.text(name) for name in plan.texts.kept} | made

"""Extraction: a plan of missing rows and views, shards that encode them, parts that are assembled into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featcache.extraction.plan import Plan, Request, make_plan
from featcache.prompts import DEFAULT, TextSet, sentences

if TYPE_CHECKING:
    from featcache.backbones import Backbone
    from featcache.extraction.encode import Machine, Progress

__all__ = ["Plan", "Request", "carry_out", "make_plan"]


def carry_out(
    plan: Plan, backbone: Backbone, machine: Machine, *, provenance: dict[str, Any], progress: Progress
) -> None:
    """Do what the plan says: encode what is missing into parts, the texts if need be, and assemble the store.

    Interrupted at any moment, it loses at most the shard at hand; the same call then goes on from there.
    """
    from featcache.extraction.assemble import assemble
    from featcache.extraction.encode import encode_missing

    parts = [*plan.parts, *(encode_missing(plan, backbone, machine, progress=progress) if plan.num_missing else [])]
    text = {DEFAULT: _text(plan, backbone, machine)}
    record = {
        "kind": "extract",
        "dataset": plan.manifest.name,
        "backbone": backbone.name,
        "weights": backbone.weights,
        "splits": plan.manifest.source,
        "style": plan.request.style,
        "template": plan.manifest.template,
        "draws": [list(pair) for pair in plan.draws],
        "device": machine.device.type,
        **provenance,
    }
    assemble(plan, tuple(parts), text=text, provenance=record)


def _text(plan: Plan, backbone: Backbone, machine: Machine) -> TextSet:
    """The default text set: the store's own where it still fits, else encoded."""
    import numpy as np

    from featcache.store import Store

    if plan.text_present:
        with Store(plan.store) as store:
            return store.text(DEFAULT)
    items = sentences(plan.manifest.classes, (plan.manifest.template,))
    return TextSet(
        embedding=backbone.encode_texts([sentence for _, _, sentence in items], machine.device),
        label=np.array([label for label, _, _ in items], dtype=np.int32),
        template=np.array([index for _, index, _ in items], dtype=np.int32),
        templates=(plan.manifest.template,),
        origin=plan.text_origin,
    )

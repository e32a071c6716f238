"""`featcache extract`: one or many data sets through one or many backbones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from featcache import console
from featcache.backbones import Backbone
from featcache.commands.running import each, stoppable
from featcache.datasets import CATALOGUE
from featcache.datasets.inventory import differences
from featcache.engines import Engine, engine_named
from featcache.errors import ConfigError
from featcache.extraction import Plan, Request, carry_out, remove_spent
from featcache.extraction.asked import MachineOptions, Source, backbone_of, command_of, gate, machine_of, plan_of
from featcache.store import Store

if TYPE_CHECKING:
    from featcache.extraction.drift import Drift


def extract(sources: Sequence[Source], request: Request, options: MachineOptions, *, only_plan: bool) -> None:
    """Plan each, say so, and carry it out; every data set is read and every plan made before the first is encoded."""
    if request.name and len(sources) > 1:
        raise ConfigError(f"--name {request.name} names one store, but {len(sources)} are asked for; leave it out")
    if options.allow_drift and request.pixels == "pil":
        raise ConfigError("--allow-drift has no effect on PIL's pixels, which are the reference; leave it out")
    engine = engine_named(options.engine)
    plans = [(source, plan_of(source, request)) for source in sources]
    if only_plan:
        for source, plan in plans:
            show_plan(plan, backbone_of(source))
        return
    names = [(plan.store.stem, (source, plan)) for source, plan in plans]
    each(names, lambda pair: extract_one(pair[0], pair[1], options, engine))
    if not engine.leads:
        return
    fresh = [plan for _, plan in plans if "train" in plan.rows and not plan.complete]
    if fresh:
        console.say("next: featcache fit --alpha-grid 0:1:0.1" + (" --all" if len(fresh) > 1 else ""))


def extract_one(source: Source, plan: Plan, options: MachineOptions, engine: Engine) -> None:
    """Carry one plan out and say how it went; of several processes with a share in it, only the leading one speaks."""
    backbone = backbone_of(source)
    if not engine.leads:
        machine = machine_of(options, engine)
        gate(plan, backbone, machine, allow_drift=options.allow_drift)
        carry_out(plan, backbone, machine, engine=engine, provenance={}, progress=lambda _: None)
        return
    show_plan(plan, backbone)
    if plan.complete:
        console.say(f"{plan.store.stem}: everything is there already, nothing to do")
        remove_spent(plan)
        return
    machine = machine_of(options, engine)
    drift = gate(plan, backbone, machine, allow_drift=options.allow_drift)
    if drift:
        console.say(drift.words)
    images_each = plan.num_images / max(1, plan.num_missing)
    start = time.perf_counter()
    with (
        stoppable("images that are encoded are kept, and the same command goes on from there"),
        console.progress("encoding", "embeddings", rate="images", per_unit=images_each) as advance,
    ):
        carry_out(
            plan,
            backbone,
            machine,
            engine=engine,
            provenance=_provenance(source, plan, options, drift),
            progress=lambda embeddings: advance(embeddings, plan.num_missing),
        )
    seconds = time.perf_counter() - start
    with Store(plan.store) as store:
        for split in store.splits:
            for reason in store.missing(split).values():
                console.warn(f"left out of {split}: {reason}")
    done = f"{plan.num_embeddings:,} embeddings, {console.seconds(seconds)}"
    if plan.num_missing:
        images, embeddings = (console.per_second(count / seconds) for count in (plan.num_images, plan.num_missing))
        done += f" ({images} images/s, {embeddings} embeddings/s)"
    console.say(f"{plan.store.stem}: {done}")


def _provenance(source: Source, plan: Plan, options: MachineOptions, drift: Drift | None) -> dict[str, object]:
    """What the store notes of how it was made."""
    command = command_of(source, plan.request) + (" --allow-drift" if options.allow_drift else "")
    return {"command": command, **({"drift": asdict(drift)} if drift else {})}


def show_plan(plan: Plan, backbone: Backbone) -> None:
    """What there is to do, on stdout."""
    weights = " with RANDOM weights" if plan.spec.tower.untrained else ""
    console.note(
        f"{plan.manifest.name} ({plan.manifest.source}) through {backbone.architecture}{weights}, "
        f"style {plan.request.style}"
    )
    console.table(
        ["split", "images", "to store", "views", "to encode"],
        [
            [
                split,
                f"{len(plan.manifest.splits[split].path):,}",
                f"{len(rows):,}",
                str(plan.num_views[split]),
                f"{len(plan.missing[split].row):,}",
            ]
            for split, rows in plan.rows.items()
        ],
        title=f"plan for {plan.store.stem}",
    )
    had = plan.num_embeddings - plan.num_missing
    console.say(
        f"{plan.num_images:,} images to decode, {plan.num_missing:,} embeddings to encode, {had:,} already there; "
        f"{console.size(plan.num_bytes)} in all at {plan.store}"
    )
    for prompts in plan.texts.missing:
        console.say(f"text set {prompts.name}: {len(prompts.sentences):,} sentences to encode")
    for name in plan.texts.dropped:
        console.warn(f"the text set {name} was written for other class names and is dropped; add it again if wanted")
    for path in plan.changed:
        console.warn(f"{path} has changed since it was encoded and is encoded anew")
    _show_differences(plan)
    _show_short_classes(plan)


def _show_differences(plan: Plan) -> None:
    """A data set of the catalogue that is here in part, say: what is measured on it compares with no paper."""
    name = plan.manifest.name
    found = differences(plan.manifest, CATALOGUE[name].about) if name in CATALOGUE else []
    if found:
        console.warn(
            f"{name} is not here as published: {'; '.join(found)}; numbers on it are not comparable to papers'"
        )


def _show_short_classes(plan: Plan) -> None:
    import numpy as np

    if "train" in plan.manifest.splits and plan.request.shots:
        counts = np.bincount(plan.manifest.splits["train"].label, minlength=len(plan.manifest.classes))
        most = max(plan.request.shots)
        if (counts < most).any():
            console.warn(
                f"{int((counts < most).sum())} classes have fewer than {most} training images "
                f"(fewest: {counts.min()}); draws use all of theirs"
            )

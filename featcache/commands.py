"""What the commands do, once their options are parsed."""

from __future__ import annotations

import json as jsonlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from featcache import console
from featcache.backbones import Backbone
from featcache.datasets import load
from featcache.extraction import Plan, Request, carry_out, make_plan, remove_spent
from featcache.store import Store
from featcache.store.places import resolve, results_path

if TYPE_CHECKING:
    from featcache.extraction.encode import Machine
    from featcache.recipes import Recipe
    from featcache.search import Outcome, Settings


_TRAINING = ("preset", "epochs", "lr", "batch_size")
"""Options of `fit` that only a trained method heeds."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to extract: a data set and a backbone."""

    dataset: str
    backbone: str
    data: Path | None
    weights: str | None
    template: str | None
    classnames: Path | None

    @property
    def command(self) -> str:
        """The command that extends the store, without the folder of the data, which is the machine's own."""
        words = ["featcache", "extract", "--dataset", self.dataset, "--backbone", self.backbone]
        words += ["--weights", self.weights] if self.weights else []
        words += ["--template", self.template] if self.template else []
        return shlex.join(words)


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Where to encode."""

    device: str
    workers: int | None
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What `fit` was asked for; None keeps a default."""

    adapter: str
    alpha_grid: str | None
    shots: tuple[int | None, ...]
    shot_seeds: tuple[int, ...] | None
    preset: str | None
    epochs: int | None
    lr: float | None
    batch_size: int | None
    select: str | None
    device: str
    plot: Path | None
    json: bool


def extract(source: Source, request: Request, options: MachineOptions, *, only_plan: bool) -> None:
    """Plan, say so, and carry it out."""
    manifest = load(source.dataset, data=source.data, template=source.template, classnames=source.classnames)
    backbone = Backbone(source.backbone, source.weights)
    plan = make_plan(manifest, backbone.identity, request)
    _show_plan(plan, backbone)
    if plan.complete:
        console.say(f"{plan.store.stem}: everything is there already, nothing to do")
    if only_plan:
        return
    if plan.complete:
        remove_spent(plan)
        return
    machine = _machine(options)
    images_each = plan.num_images / max(1, plan.num_missing)
    start = time.perf_counter()
    with (
        _stoppable("what is encoded is kept, and the same command goes on from there"),
        console.progress("encoding", "embeddings", rate="images", per_unit=images_each) as advance,
    ):
        carry_out(
            plan,
            backbone,
            machine,
            provenance={"command": _command(source, request)},
            progress=lambda embeddings: advance(embeddings, plan.num_missing),
        )
    seconds = time.perf_counter() - start
    with Store(plan.store) as store:
        for split in store.splits:
            for row, reason in store.missing(split).items():
                console.warn(f"left out {split} {store.paths(split)[row]}: {reason}")
    rate = (
        f"{plan.num_images / seconds:,.0f} images/s, {plan.num_missing / seconds:,.0f} embeddings/s"
        if plan.num_missing
        else ""
    )
    console.say(
        f"{plan.store.stem}: {plan.num_embeddings:,} embeddings, {seconds:.1f} s" + (f" ({rate})" if rate else "")
    )
    if "train" in plan.rows:
        console.say("next: featcache fit --alpha-grid 0:1:0.1")


def _command(source: Source, request: Request) -> str:
    """What extends the store: all options that decide its key or its name."""
    words = [source.command, "--style", request.style]
    words += ["--dtype", request.dtype] if request.dtype != "auto" else []
    words += ["--name", request.name] if request.name else []
    return " ".join(words)


def fit(names: Sequence[str | None], options: FitOptions) -> None:
    """One search for each store and number of shots."""
    from featcache import reporting
    from featcache.errors import ConfigError

    _check_effect(options)
    searches = [(resolve(name), shots) for name in names for shots in options.shots]
    if options.plot:
        reporting.check_plot_file(options.plot)
        if len(searches) > 1:
            raise ConfigError(f"--plot draws one search, but {len(searches)} are asked for")
    outcomes = []
    for path, shots in searches:
        with Store(path) as store:
            if names == [None]:
                console.note(f"store: {store.name} (the newest)")
            outcome = _search(store, shots, options)
        outcomes.append(outcome)
        if not options.json:
            reporting.show(outcome)
        if options.plot:
            reporting.plot(outcome, options.plot)
            console.note(f"alpha curve: {options.plot}")
    if options.json:
        texts = [reporting.as_json(outcome) for outcome in outcomes]
        console.raw(texts[0] if len(texts) == 1 else "[" + ",\n".join(texts) + "]")


def import_features(file: Path, name: str) -> None:
    """Make a store of an .npz and say what is in it."""
    from featcache.importing import import_npz

    with Store(import_npz(file, name=name)) as store:
        counts = ", ".join(f"{split} {store.num_rows(split):,}" for split in store.splits)
        text = f"text {len(store.classes)} x {store.dim}" if store.text_sets else "no text"
        console.say(
            f"{store.name}: {counts}, width {store.dim}, {len(store.classes)} classes, {text}, {store.norm} rows, "
            f"logit scale {store.logit_scale:.4g} ({store.provenance['logit_scale']})"
        )
    console.say("next: featcache fit --alpha-grid 0:1:0.1")


def results(search: int | None, *, limit: int, as_json: bool) -> None:
    """List searches, or show one."""
    from featcache import reporting
    from featcache import results as records

    if search is not None:
        found = records.fetch(results_path(), search)
        if as_json:
            console.raw(jsonlib.dumps(found, indent=2))
            return
        runs = found.pop("runs")
        console.table(["what", "value"], [[k, v if isinstance(v, str) else jsonlib.dumps(v)] for k, v in found.items()])
        columns = ["config", "shots", "shot_seed", "selection_accuracy", "test_accuracy", "chosen"]
        console.table(columns, [[_cell(run[name]) for name in columns] for run in runs])
        return
    summaries = records.summaries(results_path(), limit=limit)
    if as_json:
        console.raw(jsonlib.dumps([vars(row) for row in summaries], indent=2))
    elif summaries:
        reporting.show_summaries(summaries)
    else:
        console.say("no results yet; `featcache fit` makes some")


def _search(store: Store, shots: int | None, options: FitOptions) -> Outcome:
    from featcache.results import Recorder
    from featcache.search import search

    settings = _settings(shots, options)
    recorder = Recorder(results_path(), sys.argv[1:])
    dataset = str(store.provenance.get("dataset", ""))
    with _stoppable("no result was recorded"), console.progress("fitting", "run-epochs", rate="run-epochs") as advance:
        return search(store, settings, lambda k: _recipe(options, k, dataset), record=recorder, progress=advance)


def _settings(shots: int | None, options: FitOptions) -> Settings:
    from featcache import grids, registry
    from featcache.search import Settings
    from featcache.task import swept_fields

    grid = {}
    if options.alpha_grid is not None or "alpha" in swept_fields(registry.load(options.adapter)):
        grid["alpha"] = grids.parse("0:1:0.1" if options.alpha_grid is None else options.alpha_grid)
    return Settings(
        adapter=options.adapter,
        grid=grid,
        shots=shots,
        shot_seeds=options.shot_seeds,
        protocol=options.select,
        device=options.device,
    )


def _check_effect(options: FitOptions) -> None:
    """A setting that would have no effect is an error."""
    from featcache import registry
    from featcache.errors import ConfigError
    from featcache.task import swept_fields

    method = registry.load(options.adapter)
    unused = [f"--{name.replace('_', '-')}" for name in _TRAINING if getattr(options, name) is not None]
    if unused and not hasattr(method, "init"):
        raise ConfigError(f"{options.adapter} is not trained, so {', '.join(unused)} would do nothing; leave it out")
    if options.plot and "alpha" not in swept_fields(method):
        raise ConfigError(f"--plot draws accuracy against alpha, and {options.adapter} has no alpha; leave it out")


def _recipe(options: FitOptions, shots: int, dataset: str) -> Recipe:
    from featcache import recipes

    recipe = recipes.make(options.preset or "coop", shots=shots, dataset=dataset)
    changed = {"epochs": options.epochs, "lr": options.lr, "batch_size": options.batch_size}
    return replace(recipe, **{name: value for name, value in changed.items() if value is not None})  # type: ignore[arg-type]


def _show_plan(plan: Plan, backbone: Backbone) -> None:
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
        f"{plan.num_bytes / 1e6:,.1f} MB in all at {plan.store}"
    )
    for path in plan.changed:
        console.warn(f"{path} has changed since it was encoded and is encoded anew")
    _show_short_classes(plan)


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


def _machine(options: MachineOptions) -> Machine:
    from featcache.extraction.encode import Machine
    from featcache.search import pick_device

    device = pick_device(options.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = cores if options.workers is None else options.workers
    return Machine(device=device, batch_size=options.batch_size, workers=workers)


@contextmanager
def _stoppable(kept: str) -> Iterator[None]:
    """Ctrl-C ends in one line and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        console.warn(f"stopped; {kept}")
        raise typer.Exit(130) from None


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return jsonlib.dumps(value) if isinstance(value, dict) else str(value)

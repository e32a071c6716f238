"""`featcache run FILE.toml`: data sets x backbones to extract, and what to fit on them; goes on where it was left.

data = "/data"                          # optional; --data and FEATCACHE_DATA otherwise

[extract]                               # once: every data set through every backbone
datasets = ["dtd", "eurosat"]
backbones = ["RN50", "ViT-B-16"]
prompts = ["default", "paper-7"]        # also shots, seeds, views, style, crop_scale, dtype, weights, precision, ..

[[fit]]                                 # any number of times: on every store above
adapters = ["zero_shot", "clip_adapter"]
shots = [1, 16]
grid = ["alpha=0:1:0.1"]                # also prompts, classes, also, preset, epochs, lr, batch_size, select, views, ..
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from featcache import console, reporting
from featcache import results as records
from featcache.bounded import read_text
from featcache.commands import MAX_INT
from featcache.commands.extracting import extract_one
from featcache.commands.fitting import fit_one, jobs_of
from featcache.commands.running import attempt, tell_failed
from featcache.engines import engine_named
from featcache.errors import ConfigError, FeatcacheError, InputError
from featcache.extraction import Plan, Request
from featcache.extraction.asked import MachineOptions, Source, plan_of
from featcache.fit_options import FitOptions, Job, check_effect
from featcache.jobs import identify
from featcache.store import Store
from featcache.store.places import results_path

_SOURCE = {"weights": str, "precision": str, "template": str}
_REQUEST = {
    "shots": (int,),
    "seeds": (int,),
    "views": int,
    "all_train": bool,
    "style": str,
    "crop_scale": (float,),
    "dtype": str,
    "pixels": str,
    "prompts": (str,),
}
_FIT = {
    "adapters": (str,),
    "grid": (str,),
    "post_hoc_alpha": str,
    "views": str,
    "choose": str,
    "shots": (int,),
    "seeds": (int,),
    "preset": str,
    "epochs": int,
    "lr": float,
    "batch_size": int,
    "weight_decay": float,
    "momentum": float,
    "last_batch": str,
    "products": str,
    "init_seeds": (int,),
    "select": str,
    "prompts": (str,),
    "classes": str,
    "also": (str,),
}
_FIELD = {"seeds": "shot_seeds", "views": "num_views"}
"""Options whose field is called otherwise."""


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """A file's content, checked."""

    sources: tuple[Source, ...]
    request: Request
    fits: tuple[FitOptions, ...]


class _Step(NamedTuple):
    """One search of the plan."""

    job: Job
    options: FitOptions
    job_id: str
    """Empty where it cannot be carried out as things are."""
    done: int | None
    """Its result's id, once it has one."""
    hindrance: str = ""
    """Why it cannot be carried out as things are."""


def run(file: Path, *, data: Path | None, machine: MachineOptions, only_plan: bool) -> None:
    """Do what is left of the plan, or show it, and end in the tables of means; what fails does not stop the rest."""
    content = read(file, data=data, device=machine.device)
    plans = [(source, plan_of(source, content.request)) for source in content.sources]
    if only_plan:
        _show_left(plans, content.fits)
        return
    incomplete = [(plan.store.stem, (source, plan)) for source, plan in plans if not plan.complete]
    if machine.engine == "torchrun":
        raise ConfigError("a plan runs here or on ray; under torchrun extract first, then run the plan here")
    engine = engine_named(machine.engine)
    failed = attempt(incomplete, lambda pair: extract_one(pair[0], pair[1], machine, engine))
    steps = _steps([plan.store for _, plan in plans if plan.store.stem not in failed], content.fits)
    left = [step for step in steps if step.done is None]
    console.note(f"{len(steps) - len(left)} of {len(steps)} searches are done already")
    try:
        failed += _carry_out_all(left, machine.engine)
    finally:
        ids = [found for step in steps if (found := _done(step.job_id)) is not None]
        reporting.show_means(records.summaries(results_path(), ids=ids)[::-1])
    tell_failed(failed, len(incomplete) + len(left))


def read(file: Path, *, data: Path | None, device: str) -> PlanFile:
    """The checked content of a plan file; raises ConfigError that names the table and the key."""
    try:
        content = tomllib.loads(read_text(file, "utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no plan file {file}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the plan file {file} cannot be read as TOML: {error}") from error
    _check_keys(content, {"data": str, "extract": dict, "fit": list}, f"{file}")
    extract = _table(content.get("extract"), {"datasets": (str,), "backbones": (str,), **_SOURCE, **_REQUEST}, file)
    if not extract.get("datasets") or not extract.get("backbones"):
        raise ConfigError(f"{file}: [extract] must list datasets and backbones")
    if "data" in content:
        data = Path(content["data"]).expanduser()
    sources = tuple(
        Source(dataset=dataset, backbone=backbone, data=data, **_named(extract, _SOURCE))
        for backbone in dict.fromkeys(extract["backbones"])  # the outer loop: a model is built once for all data sets
        for dataset in dict.fromkeys(extract["datasets"])
    )
    fits = tuple(
        FitOptions(device=device, **_named(_table(item, _FIT, file), _FIT)) for item in content.get("fit", [{}])
    )
    for options in fits:
        check_effect(options)
    if len(extract.get("crop_scale", "ab")) != 2:
        raise ConfigError(f"{file}: crop_scale must be two shares of the image, as in [0.08, 1]")
    return PlanFile(sources=sources, request=Request(**_named(extract, _REQUEST)), fits=fits)


def _steps(stores: Sequence[Path], fits: Sequence[FitOptions]) -> list[_Step]:
    """Every search of the plan once, with what it is known by, and its result where it has one."""
    steps: dict[object, _Step] = {}
    for options in fits:
        for job in jobs_of(_trainable(stores), options):
            step = _step(job, options)
            steps.setdefault(step.job_id or (job, options), step)
    return list(steps.values())


def _step(job: Job, options: FitOptions) -> _Step:
    try:
        job_id = identify(job, options)
    except FeatcacheError as error:
        return _Step(job, options, "", None, str(error))
    return _Step(job, options, job_id, _done(job_id))


def _done(job_id: str) -> int | None:
    return records.done_job(results_path(), job_id) if job_id else None


def _carry_out_all(steps: Sequence[_Step], engine: str) -> list[str]:
    """The names of the searches that failed, those that cannot be as things are among them."""
    able = [step for step in steps if not step.hindrance]
    fetch = {}
    if engine == "ray" and able:
        from featcache.engines.fits_on_ray import FitsOnRay, Search

        searches = [Search(step.job, step.options, step.job_id) for step in able]
        made = FitsOnRay(searches, command=sys.argv[1:], results=results_path())
        fetch = {id(step): partial(made.fetch, number) for number, step in enumerate(able)}

    def carry_out(step: _Step) -> None:
        if step.hindrance:
            raise InputError(step.hindrance)
        if id(step) in fetch:
            outcome, _ = fetch[id(step)]()
        elif _done(step.job_id) is not None:  # by another process that carries out the same plan
            console.note(f"{step.job.name}: done meanwhile")
            return
        else:
            outcome, _ = fit_one(step.job, step.options, step.job_id)
        reporting.show(outcome)

    return attempt([(step.job.name, step) for step in steps], carry_out)


def _trainable(stores: Sequence[Path]) -> list[Path]:
    """Stores with training rows: test-only data sets are there for `also`."""
    found = []
    for path in stores:
        with Store(path) as store:
            found += [path] if "train" in store.splits else []
    return found


def _show_left(plans: Sequence[tuple[Source, Plan]], fits: Sequence[FitOptions]) -> None:
    rows = [
        ["extract", plan.store.stem, "done" if plan.complete else f"{plan.num_missing:,} embeddings to encode"]
        for _, plan in plans
    ]
    stored = [plan.store for _, plan in plans if plan.stored]
    rows += [["fit", step.job.name, _state(step)] for step in _steps(stored, fits)]
    absent = [plan.store for _, plan in plans if not plan.stored and "train" in plan.rows]
    for options in fits:
        rows += [["fit", job.name, "to do, after its extraction"] for job in jobs_of(absent, options)]
    console.table(["what", "which", "state"], rows)


def _state(step: _Step) -> str:
    if step.hindrance:
        return f"to do, but not as things are: {step.hindrance}"
    return "to do" if step.done is None else f"done: result {step.done}"


def _table(value: object, known: Mapping[str, Any], file: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: there must be a table [extract], and each fit is a table [[fit]]")
    _check_keys(value, known, f"{file}")
    return value


def _check_keys(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"{where}: unknown key {name!r}; known here: {', '.join(sorted(known))}")
        kind = known[name]
        if isinstance(kind, tuple):
            good = isinstance(value, list) and value and all(_is(item, kind[0]) for item in value)
            wanted = f"a list, [..], of one {_WORDS[kind[0]]} or more"
        else:
            good, wanted = _is(value, kind), f"a {_WORDS[kind]}"
        if not good:
            raise ConfigError(f"{where}: {name} must be {wanted}; found {value!r}")


_WORDS: Mapping[type, str] = {
    str: "text",
    int: f"whole number up to {MAX_INT}",
    float: "number",
    bool: "true or false",
    dict: "table",
    list: "list of tables, each [[fit]]",
}


def _is(value: object, kind: type) -> bool:
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def _named(table: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The table's values by field name, lists as tuples."""
    return {
        _FIELD.get(name, name): tuple(value) if isinstance(value, list) else value
        for name, value in table.items()
        if name in known
    }

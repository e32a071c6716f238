"""`featcache run FILE.toml`: data sets x backbones to extract, and what to fit on them; goes on where it was left.

data = "/data"                          # optional; --data and FEATCACHE_DATA otherwise

[extract]                               # once: every data set through every backbone
datasets = ["dtd", "eurosat"]
backbones = ["RN50", "ViT-B-16"]
prompts = ["default", "paper-7"]        # also shots, seeds, views, style, crop_scale, dtype, weights, precision, ..

[[fit]]                                 # any number of times: on every store above
adapters = ["zero_shot", "clip_adapter"]
shots = [1, 16]
alpha_grid = "0:1:0.1"                  # also prompts, classes, also, preset, epochs, lr, batch_size, select, seeds
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from featcache import console, reporting
from featcache import results as records
from featcache.commands.extracting import MachineOptions, Source, extract_one, plan_of
from featcache.commands.fitting import FitOptions, Job, check_effect, fit_one, identify, jobs_of
from featcache.commands.running import each
from featcache.errors import ConfigError, InputError
from featcache.extraction import Plan, Request
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
    "prompts": (str,),
}
_FIT = {
    "adapters": (str,),
    "alpha_grid": str,
    "shots": (int,),
    "seeds": (int,),
    "preset": str,
    "epochs": int,
    "lr": float,
    "batch_size": int,
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
    done: int | None
    """Its result's id, once it has one."""


def run(file: Path, *, data: Path | None, machine: MachineOptions, only_plan: bool) -> None:
    """Show what is left of the plan, do it, and end in the tables of means."""
    content = read(file, data=data, device=machine.device)
    plans = [(source, plan_of(source, content.request)) for source in content.sources]
    if only_plan:
        _show_left(plans, content.fits)
        return
    each(
        [(plan.store.stem, (source, plan)) for source, plan in plans if not plan.complete],
        lambda pair: extract_one(pair[0], pair[1], machine),
    )
    steps = _steps([plan.store for _, plan in plans], content.fits)
    left = [step for step in steps if step.done is None]
    console.note(f"{len(steps) - len(left)} of {len(steps)} searches are done already")
    try:
        each(
            [(step.job.name, step) for step in left],
            lambda step: reporting.show(fit_one(step.job, step.options, step.job_id)[0]),
        )
    finally:
        ids = [found for step in steps if (found := records.done_job(results_path(), step.job_id)) is not None]
        reporting.show_means(records.summaries(results_path(), ids=ids)[::-1])


def read(file: Path, *, data: Path | None, device: str) -> PlanFile:
    """The checked content of a plan file; raises ConfigError that names the table and the key."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no plan file {file}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the plan file {file} cannot be read as TOML: {error}") from error
    _check_keys(content, {"data": str, "extract": dict, "fit": list}, f"{file}")
    extract = _table(content.get("extract"), {"datasets": (str,), "backbones": (str,), **_SOURCE, **_REQUEST}, file)
    if not extract.get("datasets") or not extract.get("backbones"):
        raise ConfigError(f"{file}: [extract] must list datasets and backbones")
    if "data" in content:
        data = Path(content["data"]).expanduser()
    sources = tuple(
        Source(dataset=dataset, backbone=backbone, data=data, **_named(extract, _SOURCE))
        for dataset in extract["datasets"]
        for backbone in extract["backbones"]
    )
    fits = tuple(
        FitOptions(device=device, **_named(_table(item, _FIT, file), _FIT)) for item in content.get("fit", [{}])
    )
    for options in fits:
        check_effect(options)
    return PlanFile(sources=sources, request=Request(**_named(extract, _REQUEST)), fits=fits)


def _steps(stores: Sequence[Path], fits: Sequence[FitOptions]) -> list[_Step]:
    """Every search of the plan, with what it is known by, and its result where it has one."""
    steps = []
    for options in fits:
        for job in jobs_of(_trainable(stores), options):
            job_id = identify(job, options)
            steps.append(_Step(job, options, job_id, records.done_job(results_path(), job_id)))
    return steps


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
    rows += [
        ["fit", step.job.name, "to do" if step.done is None else f"done: result {step.done}"]
        for step in _steps(stored, fits)
    ]
    absent = [plan.store for _, plan in plans if not plan.stored and "train" in plan.rows]
    for options in fits:
        rows += [["fit", job.name, "to do, after its extraction"] for job in jobs_of(absent, options)]
    console.table(["what", "which", "state"], rows)


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
            wanted = f"a list of one {kind[0].__name__} or more"
        else:
            good, wanted = _is(value, kind), kind.__name__
        if not good:
            raise ConfigError(f"{where}: {name} must be {wanted}; found {value!r}")


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _named(table: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The table's values by field name, lists as tuples."""
    return {
        _FIELD.get(name, name): tuple(value) if isinstance(value, list) else value
        for name, value in table.items()
        if name in known
    }

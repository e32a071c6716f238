"""Tells finished searches to TensorBoard, Weights & Biases or MLflow. Off unless asked for; each is an extra.

A search is one run of the tracker: its settings as parameters, its accuracies as metrics, and the points of its grid as
steps, for training itself is stacked and over in seconds. The record stays `results.sqlite`: its id is told to each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from featcache.errors import ConfigError, InputError, UnknownNameError
from featcache.outcome import Outcome, varying
from featcache.reporting.grid import grid_rows

Logger = Callable[[Outcome, int], None]
"""Is told a finished search and the id of its result."""
EXPERIMENT = "featcache"
"""What the project or experiment is called, unless the user says."""


def open_loggers(asked: Sequence[str]) -> list[Logger]:
    """Loggers as typed: `tensorboard:DIR`, `wandb[:PROJECT]`, `mlflow[:URI]`.

    Raises UnknownNameError for another kind, ConfigError without a folder for TensorBoard, InputError where the
    package is missing: all before any work is done.
    """
    return [_open(*text.partition(":")[::2]) for text in asked]


def _open(kind: str, place: str) -> Logger:
    kinds = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
    if kind not in kinds:
        raise UnknownNameError("logger", kind, kinds)
    told = kinds[kind](place)

    def log(outcome: Outcome, result: int) -> None:
        try:
            told(outcome, result)
        except Exception as error:  # a tracker's own, of whatever kind: a network, a login, a full disk
            raise InputError(
                f"result {result} is recorded, but {kind} was not told of it ({type(error).__name__}: {error})"
            ) from error

    return log


def parameters(outcome: Outcome, result: int) -> dict[str, str | int | float | bool]:
    """What a search was, flat; the chosen values of searched fields are lists in words, draw by draw."""
    told: dict[str, str | int | float | bool] = {
        "result": result,
        **{name: getattr(outcome, name) for name in _TOLD},
        "shots": outcome.runs[0].shots,
        "shot_seeds": ",".join(map(str, outcome.settings.shot_seeds or ())),
    }
    for name in varying(outcome.runs):
        told[f"chosen.{name}"] = ",".join(str(run.config[name]) for run in outcome.chosen)
    if outcome.trained:
        told |= {f"recipe.{name}": value for name, value in asdict(outcome.recipe).items() if value is not None}
    return told


_TOLD = (
    "adapter",
    "dataset",
    "backbone",
    "untrained",
    "store",
    "store_key",
    "text_set",
    "classes",
    "protocol",
    "choose",
    "views",
    "device",
)


def metrics(outcome: Outcome) -> dict[str, float]:
    """The numbers of a search; accuracies are fractions, and what is not known is left out."""
    mean, spread = outcome.test_accuracy
    selected = [run.selection.accuracy for run in outcome.chosen if run.selection]
    told = {
        "test_accuracy": mean,
        "test_spread": spread,
        "zero_shot_accuracy": outcome.zero_shot.accuracy,
        "gain": mean - outcome.zero_shot.accuracy,
        "selection_accuracy": sum(selected) / len(selected) if selected else math.nan,
        "seconds": sum(outcome.seconds.values()),
    }
    return {name: value for name, value in told.items() if math.isfinite(value)}


def steps(outcome: Outcome) -> list[dict[str, float]]:
    """The points of the grid in order: means over draws, and alpha where the method has one."""
    told = [
        {
            "grid/alpha": row.alpha,
            "grid/selection_accuracy": row.selection[0] if row.selection else math.nan,
            "grid/test_accuracy": row.test[0],
            "grid/times_chosen": float(row.times_chosen),
        }
        for row in grid_rows(outcome.runs)
    ]
    return [{name: value for name, value in step.items() if math.isfinite(value)} for step in told]


def _title(outcome: Outcome, result: int) -> str:
    return f"{result:05d}-{outcome.adapter}-{outcome.store}-{outcome.runs[0].shots}shot"


def _tensorboard(place: str) -> Logger:
    """Event files below a folder, one folder a search."""
    if not place:
        raise ConfigError("--log tensorboard: say where to, as in --log tensorboard:logs")
    _package("tensorboard")
    writer: Any = import_module("torch.utils.tensorboard").SummaryWriter

    def log(outcome: Outcome, result: int) -> None:
        with writer(log_dir=str(Path(place) / _title(outcome, result))) as events:
            for number, step in enumerate(steps(outcome)):
                for name, value in step.items():
                    events.add_scalar(name, value, number)
            events.add_hparams(parameters(outcome, result), metrics(outcome), run_name=".")

    return log


def _wandb(place: str) -> Logger:
    """A run of a project; WANDB_MODE=offline keeps it on the disk."""
    wandb = _package("wandb")

    def log(outcome: Outcome, result: int) -> None:
        told = {"name": _title(outcome, result), "config": parameters(outcome, result)}
        with wandb.init(project=place or EXPERIMENT, reinit="finish_previous", **told) as run:
            for number, step in enumerate(steps(outcome)):
                run.log(step, step=number)
            run.summary.update(metrics(outcome))

    return log


def _mlflow(place: str) -> Logger:
    """A run of an experiment at a tracking address: a URI, or MLflow's own default (MLFLOW_TRACKING_URI)."""
    mlflow = _package("mlflow")

    def log(outcome: Outcome, result: int) -> None:
        client = mlflow.MlflowClient(tracking_uri=place or None)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
        run = client.create_run(experiment, run_name=_title(outcome, result)).info.run_id
        for name, value in parameters(outcome, result).items():
            client.log_param(run, name, value)
        for name, value in metrics(outcome).items():
            client.log_metric(run, name, value)
        for number, step in enumerate(steps(outcome)):
            for name, value in step.items():
                client.log_metric(run, name, value, step=number)
        client.set_terminated(run)

    return log


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"--log {name} needs a package that is not here ({error}): pip install 'featcache[tracking]'"
        ) from error

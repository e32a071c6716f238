"""CLAP against a plain reference, and what it must obey."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from featcache import registry
from featcache.errors import ConfigError
from featcache.task import Params, Task
from featcache.training import Run, train
from tests import synthetic
from tests.references import fitting
from tests.references.clap import Clap as Plain
from tests.references.clap import multipliers

Clap = registry.load("clap")
HOW = fitting.recipe("coop")


@pytest.fixture(scope="module")
def task() -> Task:
    return synthetic.task()


def _fitted(task: Task, *strengths: float) -> list[Params]:
    return train([Run(method=Clap(strength=s), lr=HOW.lr, draw=0, init_seed=0) for s in strengths], [task], HOW)


@pytest.mark.parametrize("strength", [0.0, 1.0, 30.0])
def test_matches_the_plain_reference(strength: float, task: Task) -> None:
    fitting.compare(
        Clap(strength=strength),
        task,
        HOW,
        lambda start: Plain(start, task, strength),
        lambda plain: plain.loss,  # type: ignore[return-value]
    )


def test_multipliers_are_the_mean_zero_shot_probability_of_the_own_class(task: Task) -> None:
    without = replace(task, image=task.image[task.label != 2], label=task.label[task.label != 2])
    for each in (task, without):
        found = Clap().init(each, torch.Generator())["multiplier"]
        torch.testing.assert_close(found, torch.tensor(multipliers(each)), rtol=1e-4, atol=1e-5)
    assert found[2] == 1
    assert found.isfinite().all()


def test_multipliers_are_never_trained(task: Task) -> None:
    (params,) = _fitted(task, 1.0)
    assert torch.equal(params["multiplier"], Clap().init(task, torch.Generator())["multiplier"])


def test_a_stronger_pull_ends_nearer_the_text(task: Task) -> None:
    distances = [(params["probe"] - task.text).norm() for params in _fitted(task, 0.0, 10.0, 100.0)]
    assert distances[0] > 1.05 * distances[1] > 1.05**2 * distances[2] > 0


def test_a_longer_text_is_a_stronger_pull_and_a_smaller_rate(task: Task) -> None:
    """What the file says of the authors' un-normalised text: length L, rate lr are unit length, lr / L^2, L^2."""
    length, lr, plain = 3.0, 0.018, replace(HOW, weight_decay=0.0, warmup_lr=None)
    long = Plain({"probe": length * task.text}, replace(task, text=length * task.text), 1.0)
    fitting.fit(long, task, replace(plain, lr=lr), 0, long.loss)
    run = Run(method=Clap(strength=length**2), lr=lr / length**2, draw=0, init_seed=0)
    (ours,) = train([run], [task], plain)
    torch.testing.assert_close(ours["probe"], long.probe.detach() / length, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_bad_values_are_refused(strength: float) -> None:
    with pytest.raises(ConfigError, match="at least 0; got"):
        Clap(strength=strength)

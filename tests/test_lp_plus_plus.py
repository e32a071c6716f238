"""LP++ against torch's own layers and SGD, and what must hold of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from featcache import registry
from featcache.errors import ConfigError
from featcache.loading import present
from featcache.task import Params, Task
from featcache.training import predict, single_hyper
from tests import synthetic
from tests.references import lp_plus_plus as reference

LpPlusPlus = registry.load("lp_plus_plus")


@pytest.fixture(scope="module")
def task() -> Task:
    return present(synthetic.task(), "mean")


def _fit(task: Task, **fields: float) -> Params:
    method = LpPlusPlus(**fields)
    return method.solve(task, single_hyper(method, torch.device("cpu")))


@pytest.mark.parametrize(("steps", "momentum"), [(20, 0.9), (20, 0.0), (300, 0.9)])
def test_parameters_and_accuracy_equal_the_reference(task: Task, steps: int, momentum: float) -> None:
    slow = reference.fit(task.rows, task.label, task.text, steps=steps, momentum=momentum, start=250.0)
    fast = _fit(task, iterations=steps, momentum=momentum)
    for name, value in slow.items():
        torch.testing.assert_close(fast[name].double(), value, rtol=1e-5, atol=1e-5 if steps == 20 else 1e-4)
    image = synthetic.task(seed=3).image[:, 0]
    logits = predict(LpPlusPlus(), fast, image, task)
    again = predict(LpPlusPlus(), {name: value.float() for name, value in slow.items()}, image, task)
    assert torch.equal(logits.argmax(1), again.argmax(1))


def test_plain_steps_never_raise_the_loss(task: Task) -> None:
    def loss(steps: int) -> float:
        logits = predict(LpPlusPlus(), _fit(task, iterations=steps, momentum=0.0), task.rows, task)
        return F.cross_entropy(logits, task.label).item()

    losses = [loss(steps) for steps in (1, 2, 5, 10, 11, 30, 100)]
    assert losses == sorted(losses, reverse=True)


def test_it_learns_and_is_the_same_each_time(task: Task) -> None:
    params = _fit(task)
    assert (predict(LpPlusPlus(), params, task.rows, task).argmax(1) == task.label).float().mean() > 0.9
    assert all(torch.equal(value, params[name]) for name, value in _fit(task).items())


def test_the_start_weighs_the_text(task: Task) -> None:
    little, much = (_fit(task, iterations=1, start=start)["alpha"].mean() for start in (50.0, 250.0))
    assert much == pytest.approx(5 * little)


def test_a_class_without_rows_stays_finite(task: Task) -> None:
    kept = task.label != 2
    lacking = replace(task, image=task.image[kept], label=task.label[kept])
    assert predict(LpPlusPlus(), _fit(lacking), task.rows, lacking).isfinite().all()


@pytest.mark.parametrize(
    "fields",
    [{"iterations": 0}, {"momentum": 1.0}, {"momentum": float("nan")}, {"start": -1.0}, {"start": float("inf")}],
)
def test_values_outside_their_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="; got"):
        LpPlusPlus(**fields)

"""Proximal kernel ridge regression against its reference in numpy, and what must hold of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from featcache import registry
from featcache.errors import ConfigError
from featcache.loading import present
from featcache.ops import cosine_logits
from featcache.task import Params, Task
from featcache.training import predict, single_hyper
from tests import synthetic
from tests.references import proker as reference

ProKeR = registry.load("proker")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task() -> Task:
    return present(synthetic.task(), "mean")


def _fit(task: Task, **fields: float) -> Params:
    return ProKeR(**fields).solve(task, single_hyper(ProKeR(**fields), CPU))


@pytest.mark.parametrize(("beta", "lmbda"), [(1.0, 0.1), (3.0, 0.001), (0.5, 1.0)])
def test_logits_equal_the_reference(task: Task, beta: float, lmbda: float) -> None:
    image = synthetic.task(seed=3).image[:, 0]
    made = predict(ProKeR(beta=beta, lmbda=lmbda), _fit(task, beta=beta, lmbda=lmbda), image, task)
    slow = reference.predict(
        image.double().numpy(),
        task.rows.double().numpy(),
        task.label.numpy(),
        task.text.double().numpy(),
        beta=beta,
        lmbda=lmbda,
        scale=task.logit_scale,
    )
    np.testing.assert_allclose(made, slow, rtol=1e-4, atol=1e-4 * task.logit_scale)
    assert (made.argmax(1).numpy() == slow.argmax(1)).all()


def test_runs_together_equal_one_by_one(task: Task) -> None:
    other = present(synthetic.task(seed=5, shots=4), "mean")
    methods = [ProKeR(beta=beta, lmbda=lmbda) for lmbda in (0.1, 1.0) for beta in (0.5, 2.0)]
    runs = [(drawn, single_hyper(method, CPU)) for method in methods for drawn in (task, other)]
    for together, run in zip(ProKeR().solve_runs(runs), runs, strict=True):
        alone = ProKeR().solve(*run)
        assert all(torch.equal(together[name], alone[name]) for name in alone)


def test_a_small_lmbda_is_near_zero_shot_and_a_larger_one_learns(task: Task) -> None:
    zero_shot = cosine_logits(task.rows, task.text, task.logit_scale)
    near = predict(ProKeR(lmbda=1e-6), _fit(task, lmbda=1e-6), task.rows, task)
    torch.testing.assert_close(near, zero_shot, rtol=1e-3, atol=1e-2)
    learnt = predict(ProKeR(), _fit(task), task.rows, task)
    target = torch.nn.functional.one_hot(task.label, task.num_classes)
    before, after = ((made / task.logit_scale - target).square().sum() for made in (zero_shot, learnt))
    assert after < before


def test_without_text_it_is_kernel_ridge_regression(task: Task) -> None:
    bare = replace(task, text=task.text[:, :0])
    logits = predict(ProKeR(), _fit(bare), bare.rows, bare)
    assert (logits.argmax(1) == bare.label).float().mean() > 0.9


@pytest.mark.parametrize("fields", [{"beta": 0.0}, {"lmbda": -1.0}, {"lmbda": float("nan")}, {"beta": float("inf")}])
def test_values_outside_their_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="is a positive number; got"):
        ProKeR(**fields)

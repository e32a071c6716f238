"""The Gaussian classifier against its paper in numpy, and what must hold of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from featcache import registry
from featcache.errors import ConfigError
from featcache.loading import present
from featcache.ops import cosine_logits
from featcache.task import Task
from featcache.training import predict, predict_each, single_hyper
from tests import synthetic
from tests.references import gda as reference

Gda = registry.load("gda")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task() -> Task:
    return present(synthetic.task(), "all")


def _fit(task: Task, **fields: float) -> dict[str, torch.Tensor]:
    return Gda(**fields).solve(task, single_hyper(Gda(**fields), CPU))


def test_solution_and_logits_equal_the_reference(task: Task) -> None:
    image = task.rows.double().numpy()
    weight, bias = reference.fit(image, task.label.numpy(), task.num_classes)
    params = _fit(task)
    np.testing.assert_allclose(params["weight"].T, weight, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(params["bias"], bias, rtol=1e-4, atol=1e-4)
    other = synthetic.task(seed=3).image[:, 0]
    for alpha in (0.0, 0.1, 10.0):
        made = predict(Gda(alpha=alpha), params, other, task)
        text = task.text.double().numpy()
        slow = reference.logits(weight, bias, other.double().numpy(), text, scale=task.logit_scale, alpha=alpha)
        np.testing.assert_allclose(made, slow, rtol=1e-4, atol=1e-3)
        assert (made.argmax(1).numpy() == slow.argmax(1)).all()


def test_a_sweep_gives_what_each_alpha_gives_and_zero_is_zero_shot(task: Task) -> None:
    params = _fit(task)
    methods = [Gda(alpha=alpha) for alpha in (0.0, 0.1, 1.0)]
    swept = [logits.clone() for logits in predict_each(methods, params, task.rows, task)]
    for method, logits in zip(methods, swept, strict=True):
        assert torch.equal(logits, predict(method, params, task.rows, task))
    torch.testing.assert_close(swept[0], cosine_logits(task.rows, task.text, task.logit_scale))
    assert (swept[2] - swept[1]).abs().max() > 1


def test_the_length_of_the_embeddings_changes_nothing(task: Task) -> None:
    longer = _fit(replace(task, image=task.image * 7))
    for name, value in _fit(task).items():
        torch.testing.assert_close(longer[name], value, rtol=1e-4, atol=1e-4)


def test_without_text_the_gaussian_stands_alone(task: Task) -> None:
    bare = replace(task, text=task.text[:, :0])
    params = _fit(bare)
    logits = predict(Gda(), params, bare.rows, bare)
    assert (logits.argmax(1) == bare.label).float().mean() > 0.9
    assert torch.equal(logits, predict(Gda(alpha=0.0), params, bare.rows, bare))


def test_one_row_a_class_still_tells_classes_apart() -> None:
    """Within-class scatter is zero then: that between classes stands in."""
    task = present(synthetic.task(shots=1, views=1), "all")
    logits = predict(Gda(alpha=1.0), _fit(task), task.rows, replace(task, text=task.text[:, :0]))
    assert (logits.argmax(1) == task.label).all()


def test_a_class_without_a_row_and_rows_all_alike_stay_finite(task: Task) -> None:
    kept = task.label != 2
    lacking = replace(task, image=task.image[kept], label=task.label[kept])
    alike = replace(task, image=torch.ones_like(task.image))
    for odd in (lacking, alike):
        assert predict(Gda(alpha=1.0), _fit(odd), task.rows, odd).isfinite().all()


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_an_alpha_that_is_no_weight_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="at least 0; got"):
        Gda(alpha=alpha)

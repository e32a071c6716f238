"""Tip-Adapter, free and trained, against a plain reference, and what they must obey."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from featcache import grids, registry
from featcache.errors import ConfigError
from featcache.loading import Rows, present
from featcache.ops import cosine_logits, normalise
from featcache.selection import score_each
from featcache.task import Params, Task, Trained
from featcache.training import predict, predict_each, single_hyper
from tests import synthetic
from tests.references import fitting
from tests.references import tip_adapter as plain

TipAdapter = registry.load("tip_adapter")
TipAdapterF = registry.load("tip_adapter_f")
CPU = torch.device("cpu")
POINTS = list(itertools.product((0.0, 0.3, 1.17, 2.9), (0.0, 0.5, 1.0, 5.5)))


def _task(**shape: int) -> Task:
    """A task with one class short of images."""
    task = synthetic.task(**shape)
    return replace(task, image=task.image[3:], label=task.label[3:])


def _solve(task: Task) -> Params:
    method = TipAdapter()
    return method.solve(present(task, "mean"), single_hyper(method, CPU))


def _test_rows(task: Task) -> Rows:
    """Rows of the same classes that are not in the cache."""
    noise = torch.randn(200, task.dim, generator=torch.Generator().manual_seed(9))
    label = torch.arange(200) % task.num_classes
    return Rows(image=task.text[label] + 0.6 * noise, label=label)


def _shuffled(task: Task) -> Task:
    order = torch.randperm(len(task.label), generator=torch.Generator().manual_seed(4))
    return replace(task, image=task.image[order], label=task.label[order])


@pytest.mark.parametrize("task", [_shuffled(_task()), _shuffled(synthetic.task())], ids=["a class short", "all alike"])
def test_every_point_matches_the_plain_search(task: Task) -> None:
    rows, params = _test_rows(task), _solve(task)
    methods = [TipAdapter(alpha=alpha, beta=beta) for alpha, beta in POINTS]
    scores = score_each(methods, params, rows, task)
    swept = predict_each(methods, params, rows.image, task)
    slow = plain.search(task, rows.image, rows.label, POINTS)
    for method, score, logits, (accuracy, expected) in zip(methods, scores, swept, slow, strict=True):
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(predict(method, params, rows.image, task), expected, rtol=1e-5, atol=1e-4)
        assert score.accuracy == pytest.approx(accuracy, abs=1e-6)
    assert len({score.loss for score in scores}) > 3, "the grid made no difference"


def test_keys_are_the_unit_means_of_views_and_values_their_classes() -> None:
    task = _task()
    params = _solve(task)
    torch.testing.assert_close(params["keys"].norm(dim=1), torch.ones(len(task.label)))
    assert torch.equal(params["values"].argmax(dim=1), task.label)
    assert (params["values"].sum(dim=1) == 1).all()


def test_alpha_zero_is_zero_shot() -> None:
    task = _task()
    image = _test_rows(task).image
    expected = cosine_logits(image, task.text, task.logit_scale)
    assert torch.equal(predict(TipAdapter(alpha=0.0), _solve(task), image, task), expected)


def test_a_sharp_cache_alone_is_the_nearest_neighbour() -> None:
    task = _task()
    params, image = _solve(task), _test_rows(task).image
    nearest = task.label[(normalise(image) @ params["keys"].mT).argmax(dim=1)]
    bare = replace(task, text=task.text[:, :0])
    logits = predict(TipAdapter(alpha=1.0, beta=60.0), params, image, bare)
    agree = (logits.argmax(dim=1) == nearest).float().mean()
    assert agree > 0.9, "without text the cache classifies alone"


def test_the_default_grid_is_the_authors() -> None:
    betas, alphas = (grids.parse(TipAdapter.grid[name]) for name in ("beta", "alpha"))
    assert betas == pytest.approx([i * (7 - 0.1) / 200 + 0.1 for i in range(200)])
    assert alphas == pytest.approx([i * (3 - 0.1) / 20 + 0.1 for i in range(20)])
    assert list(TipAdapter.grid)[-1] == "alpha", "the last field is the one that costs least"


@pytest.mark.parametrize(("alpha", "beta"), [(1.17, 1.0), (1.0, 5.5)])
@pytest.mark.parametrize("preset", ["coop", "adamw"])
def test_training_matches_the_plain_reference(preset: str, alpha: float, beta: float) -> None:
    task = synthetic.task()
    how = replace(fitting.recipe(preset), lr=0.05 if preset == "coop" else 0.001)
    method = TipAdapterF(alpha=alpha, beta=beta, train_alpha=alpha, train_beta=beta)
    fitting.compare(method, task, how, lambda start: plain.TipAdapterF(start, task, alpha, beta))


def test_it_is_trained_at_its_own_alpha_and_beta_whatever_is_swept_after() -> None:
    task = synthetic.task()
    method = TipAdapterF(alpha=0.0, beta=3.0, train_alpha=1.0, train_beta=2.0)
    assert isinstance(method, Trained)
    assert not method.inert
    params = method.init(task, torch.Generator())
    hyper = single_hyper(method, CPU)
    at_training = predict(replace(method, alpha=1.0, beta=2.0), params, task.image[:, 0], task)  # type: ignore[type-var]
    expected = torch.nn.functional.cross_entropy(at_training, task.label)
    torch.testing.assert_close(method.loss(params, task.image[:, 0], task.label, task, hyper), expected)


def test_untrained_it_is_tip_adapter_and_its_sweep_its_logits() -> None:
    task = _task()
    image = _test_rows(task).image
    start = TipAdapterF().init(task, torch.Generator())
    for alpha, beta in POINTS:
        expected = predict(TipAdapter(alpha=alpha, beta=beta), _solve(task), image, task)
        torch.testing.assert_close(predict(TipAdapterF(alpha=alpha, beta=beta), start, image, task), expected)
    methods = [TipAdapterF(alpha=alpha, beta=beta) for alpha, beta in POINTS]
    for method, logits in zip(methods, predict_each(methods, start, image, task), strict=True):
        torch.testing.assert_close(logits, predict(method, start, image, task), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_bad_values_are_refused(name: str, value: float) -> None:
    for kind in (TipAdapter, TipAdapterF):
        with pytest.raises(ConfigError, match="at least 0; got"):
            kind(**{name: value})
    with pytest.raises(ConfigError, match="no vote depends on a key"):
        TipAdapterF(**{f"train_{name}": 0.0})

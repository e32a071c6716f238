"""APE, free and trained, against a plain reference, and what they must obey."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from featcache import registry
from featcache.errors import ConfigError
from featcache.loading import present
from featcache.ops import cosine_logits
from featcache.task import Method, Params, Task, field_values
from featcache.training import predict, predict_each, single_hyper
from tests import synthetic
from tests.references import ape as plain
from tests.references import fitting

Ape = registry.load("ape")
ApeT = registry.load("ape_t")
TipAdapter = registry.load("tip_adapter")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task() -> Task:
    """Two classes are short of images."""
    whole = synthetic.task(shots=4)
    kept = torch.tensor([0, *range(4, 17), 19])
    return replace(whole, image=whole.image[kept], label=whole.label[kept])


def _solve(method: Method, task: Task) -> Params:
    return method.solve(present(task, "mean"), single_hyper(method, CPU))  # type: ignore[attr-defined]


@pytest.mark.parametrize("similarity", ["both", "text"])
@pytest.mark.parametrize(("alpha", "beta", "gamma"), [(1.0, 1.0, 0.1), (2.0, 5.5, 0.8)])
def test_matches_the_plain_reference(task: Task, similarity: str, alpha: float, beta: float, gamma: float) -> None:
    method = Ape(alpha=alpha, beta=beta, gamma=gamma, kept=0.5, balance=0.7, similarity=similarity)
    logits = predict(method, _solve(method, task), task.image[:, 1], task)
    slow = plain.training_free(
        task, task.image[:, 1], field_values(method), count=task.dim // 2, both=similarity == "both"
    )
    np.testing.assert_allclose(logits.numpy(), slow, rtol=1e-5, atol=1e-4)
    assert (logits.argmax(dim=1).numpy() == slow.argmax(axis=1)).all()


@pytest.mark.parametrize("num_rows", [3, 4])
def test_the_sweep_gives_each_points_logits(num_rows: int) -> None:
    """Where classes are of one size, and where the first is short of images."""
    whole = synthetic.task(shots=4)
    task = replace(whole, image=whole.image[4 - num_rows :], label=whole.label[4 - num_rows :])
    points = itertools.product((0.0, 0.5), (0.5, 5.5), (0.0, 0.3, 2.0))
    methods = [Ape(gamma=gamma, beta=beta, alpha=alpha) for gamma, beta, alpha in points]
    params, image = _solve(methods[0], task), task.image[:, 1]
    swept = [logits.clone() for logits in predict_each(methods, params, image, task)]
    for method, logits in zip(methods, swept, strict=True):
        torch.testing.assert_close(logits, predict(method, params, image, task), rtol=1e-5, atol=1e-4)
    assert not torch.equal(swept[2], swept[8]), "gamma makes a difference"


def test_with_every_channel_and_gamma_zero_it_is_tip_adapter(task: Task) -> None:
    ours, theirs = Ape(alpha=0.7, beta=3.0, gamma=0.0, kept=1.0), TipAdapter(alpha=0.7, beta=3.0)
    image = task.image[:, 1]
    logits, expected = (predict(method, _solve(method, task), image, task) for method in (ours, theirs))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)


def test_channels_shared_by_all_classes_are_dropped_first(task: Task) -> None:
    """A channel that is large in every row and says nothing of the class costs most, whatever the balance."""
    text = task.text.clone()
    text[:, 5] = 1.0
    for balance in (0.5, 1.0):
        method = Ape(kept=31 / 32, balance=balance, similarity="text")
        kept = _solve(method, replace(task, text=text))["channels"]
        assert sorted(kept.tolist()) == [c for c in range(32) if c != 5]


def test_a_key_unlike_its_text_weighs_more(task: Task) -> None:
    image = task.image.clone()
    image[0] = 3 * task.text[(task.label[0] + 1) % task.num_classes]
    params = _solve(Ape(), replace(task, image=image))
    same = params["divergence"][task.label == task.label[1]]
    assert params["divergence"][0] > same.min()
    assert (params["divergence"] > 0).all()


@pytest.mark.parametrize("preset", ["coop", "adamw"])
def test_training_matches_the_plain_reference(preset: str) -> None:
    task = synthetic.task()
    how = replace(fitting.recipe(preset), lr=0.002)
    point = {"alpha": 1.5, "beta": 2.0}
    method = ApeT(**point, train_alpha=1.5, train_beta=2.0, kept=0.75, balance=0.3)
    fitting.compare(method, task, how, lambda start: plain.ApeT(start, task, **point, count=24, balance=0.3))


def test_untrained_it_is_tip_adapter(task: Task) -> None:
    image = task.image[:, 1]
    methods = [ApeT(beta=beta, alpha=alpha) for beta in (0.5, 3.0) for alpha in (0.0, 0.7)]
    start = methods[0].init(task, torch.Generator())
    for method, logits in zip(methods, predict_each(methods, start, image, task), strict=True):
        cache = TipAdapter(alpha=method.alpha, beta=method.beta)
        expected = predict(cache, _solve(cache, task), image, task)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
    expected = cosine_logits(image, task.text, task.logit_scale)
    torch.testing.assert_close(predict(methods[0], start, image, task), expected)
    assert not methods[0].inert


@pytest.mark.parametrize("kind", [Ape, ApeT])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alpha", -1.0, "at least 0; got -1"),
        ("beta", float("nan"), "at least 0; got nan"),
        ("kept", 0.0, "fraction of the channels"),
        ("kept", 1.5, "fraction of the channels"),
        ("balance", 1.1, "between 0 and 1; got 1.1"),
    ],
)
def test_bad_values_are_refused(kind: type[Method], name: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**{name: value})


def test_an_unknown_similarity_is_refused() -> None:
    with pytest.raises(ConfigError, match="text or both; got 'image'"):
        Ape(similarity="image")

"""CLIP-Adapter's text adapter, both at once, and its ratios: against a plain reference, and what they must obey."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from featcache import registry
from featcache.errors import ConfigError
from featcache.fit_options import grid_of
from featcache.fits import expand
from featcache.ops import cosine_logits
from featcache.task import Method, Params, Task
from featcache.training import Run, _by_autograd, _by_hand, predict, stack_hyper, train
from tests import synthetic
from tests.commandline import Run as Command
from tests.references import fitting
from tests.references.clip_adapter import ClipAdapter as Plain

ClipAdapter = registry.load("clip_adapter")
HEEDED = {"visual": ("alpha",), "text": ("beta",), "both": ("alpha", "beta")}
FAST = replace(fitting.recipe("coop"), lr=0.02)


@pytest.fixture(scope="module")
def task() -> Task:
    return synthetic.task()


def _make(where: str, **fields: Any) -> tuple[Method, dict[str, float]]:
    """The method with ratios of its own where it heeds them, and those ratios."""
    given = {name: value for name, value in (("alpha", 0.6), ("beta", 0.3)) if name in HEEDED[where]}
    return ClipAdapter(where=where, **given, **fields), given


def _fitted(method: Method, task: Task) -> Params:
    (params,) = train([Run(method=method, lr=FAST.lr, draw=0, init_seed=1)], [task], FAST)
    return params


@pytest.mark.parametrize("where", HEEDED)
@pytest.mark.parametrize("ratio", ["fixed", "learned", "predicted"])
@pytest.mark.parametrize("last", ["relu", "linear"])
def test_matches_the_plain_reference(where: str, ratio: str, last: str, task: Task) -> None:
    method, given = _make(where, ratio=ratio, last=last)
    fitting.compare(method, task, FAST, lambda start: Plain(start, task, given, last=last))


def test_the_default_is_the_authors_code_and_draws_what_it_always_drew(task: Task) -> None:
    generator = torch.Generator().manual_seed(5)
    params = ClipAdapter().init(task, torch.Generator().manual_seed(5))
    assert list(params) == ["down", "up"]
    assert torch.equal(params["down"], (torch.rand(32, 8, generator=generator) * 2 - 1) / 32**0.5)
    assert torch.equal(params["up"], (torch.rand(8, 32, generator=generator) * 2 - 1) / 8**0.5)
    assert ClipAdapter().by_hand
    assert ClipAdapter(last="linear").by_hand
    assert not ClipAdapter(where="both").by_hand
    assert not ClipAdapter(ratio="learned").by_hand


def test_gradient_factors_of_a_linear_end_equal_autograd(task: Task) -> None:
    methods = [ClipAdapter(alpha=alpha, last="linear") for alpha in (0.0, 0.3, 1.0)]
    starts = [method.init(task, torch.Generator().manual_seed(5)) for method in methods]
    params = {key: torch.stack([start[key] for start in starts]).requires_grad_() for key in starts[0]}
    batch = (task.image[::2, 1].expand(3, -1, -1), task.label[::2].expand(3, -1))
    hyper = stack_hyper(methods, torch.device("cpu"))
    by_hand = _by_hand(methods[0], params, batch, task, hyper)
    for key, gradient in _by_autograd(methods[0], params, batch, task, hyper).items():
        left, right = by_hand[key]
        torch.testing.assert_close(left.mT @ right, gradient, rtol=1e-4, atol=1e-5)


def test_ratios_of_zero_are_zero_shot_and_are_not_trained(task: Task) -> None:
    for method in (ClipAdapter(where="text", beta=0.0), ClipAdapter(where="both", alpha=0.0, beta=0.0)):
        assert method.inert
        logits = predict(method, _fitted(method, task), task.image[:, 0], task)
        expected = cosine_logits(task.image[:, 0], task.text, task.logit_scale)
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
    assert not ClipAdapter(where="both", alpha=0.0).inert


@pytest.mark.parametrize("where", HEEDED)
@pytest.mark.parametrize("ratio", ["learned", "predicted"])
def test_ratios_start_where_they_are_told_and_move(where: str, ratio: str, task: Task) -> None:
    method, given = _make(where, ratio=ratio)
    hyper = {name: torch.tensor(value) for name, value in given.items()}
    start = method.ratios(method.init(task, torch.Generator().manual_seed(1)), task, hyper)
    end = method.ratios(_fitted(method, task), task, hyper)
    assert {name: value.item() for name, value in start.items()} == pytest.approx(given)
    assert all(0 < end[name] < 1 and abs(end[name] - value) > 1e-4 for name, value in given.items())


def test_q_does_not_look_at_the_images_beside_the_one_it_predicts(task: Task) -> None:
    method, _ = _make("both", ratio="predicted")
    params = _fitted(method, task)
    assert params["q_out"].abs().max() > 1e-5, "Q is trained"
    image = task.image[:, 0]
    apart = predict(method, params, image, task, block=3)
    torch.testing.assert_close(apart, predict(method, params, image, task), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("where", HEEDED)
@pytest.mark.parametrize("ratio", ["fixed", "predicted"])
def test_stacked_equals_one_by_one(where: str, ratio: str, task: Task) -> None:
    name = HEEDED[where][-1]
    methods = [ClipAdapter(where=where, ratio=ratio, **{name: value}) for value in (0.1, 0.5, 0.9)]
    runs = [Run(method=method, lr=FAST.lr, draw=0, init_seed=0) for method in methods]
    for run, params in zip(runs, train(runs, [task], FAST), strict=True):
        (alone,) = train([run], [task], FAST)
        for key, value in params.items():
            torch.testing.assert_close(value, alone[key], rtol=0, atol=1e-5)


def test_permuting_the_classes_permutes_the_logits_of_both_adapters(task: Task) -> None:
    method, _ = _make("both", ratio="learned")
    order = torch.randperm(task.num_classes, generator=torch.Generator().manual_seed(3))
    other = replace(task, text=task.text[order], label=torch.argsort(order)[task.label])
    plain = predict(method, _fitted(method, task), task.image[:, 0], task)
    permuted = predict(method, _fitted(method, other), task.image[:, 0], other)
    torch.testing.assert_close(permuted, plain[:, order], rtol=1e-4, atol=1e-2)


def test_what_it_learnt_classifies_other_classes(task: Task) -> None:
    method, _ = _make("both", ratio="predicted")
    other = synthetic.task(classes=9, seed=4)
    assert predict(method, _fitted(method, task), other.image[:, 0], other).shape == (len(other.label), 9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"where": "image"}, "visual, text, both; got 'image'"),
        ({"ratio": "guessed"}, "fixed, learned, predicted; got 'guessed'"),
        ({"last": "tanh"}, "relu, linear; got 'tanh'"),
        ({"beta": 0.5}, "beta=0.5 has no effect where=visual"),
        ({"where": "text", "alpha": 0.5}, "leave it out and search beta"),
        ({"where": "text", "beta": 1.5}, "beta is a residual ratio between 0 and 1; got 1.5"),
        ({"ratio": "learned", "alpha": 0.0}, "above 0 and below 1"),
        ({"ratio": "predicted", "where": "both", "beta": 1.0}, "--grid beta=0.2"),
    ],
)
def test_bad_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipAdapter(**fields)


@pytest.mark.parametrize(
    ("asked", "searched"),
    [
        ([], {"alpha": 11}),
        (["reduction=2,8"], {"alpha": 11, "reduction": 2}),
        (["where=text"], {"where": 1, "beta": 11}),
        (["where=both"], {"where": 1, "alpha": 6, "beta": 6}),
        (["where=both", "beta=0.3"], {"where": 1, "alpha": 6, "beta": 1}),
        (["ratio=learned"], {"ratio": 1}),
        (["where=both", "ratio=predicted", "alpha=0.2,0.6"], {"where": 1, "ratio": 1, "alpha": 2}),
    ],
)
def test_what_is_searched_by_default_is_what_has_an_effect(asked: list[str], searched: dict[str, int]) -> None:
    grid = grid_of("clip_adapter", asked)
    assert {name: len(values) for name, values in grid.items()} == searched
    assert len(expand("clip_adapter", grid)) == math.prod(searched.values())


def test_a_ratio_without_effect_is_refused_and_so_is_a_default_that_two_values_do_not_share() -> None:
    with pytest.raises(ConfigError, match="alpha=0 has no effect where=text: leave it out and search beta"):
        expand("clip_adapter", grid_of("clip_adapter", ["alpha=0:1:0.1", "where=text"]))
    with pytest.raises(ConfigError, match=r"0:1:0.1 with where=visual but beta .* with where=text; fit them"):
        grid_of("clip_adapter", ["where=visual,text"])
    given = grid_of("clip_adapter", ["where=visual,text", "alpha=0.2", "beta=0.2"])
    assert len(expand("clip_adapter", given)) == 2


def test_a_learned_ratio_is_one_run_from_the_command_line(run: Command, tmp_path: Path) -> None:
    run("import", synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), "--name", "toy")
    few = ("--shots", "2", "--seeds", "1", "--epochs", "2", "--json")
    assert len(json.loads(run("fit", "toy", "--grid", "ratio=learned", *few).out)["runs"]) == 1
    made = json.loads(run("fit", "toy", "--grid", "where=text", *few).out)["runs"]
    assert [each["config"]["beta"] for each in made] == [index / 10 for index in range(11)]
    said = run("fit", "toy", "--grid", "where=text", "--alpha-grid", "0:1:0.1", *few)
    assert (said.code, "has no effect where=text" in " ".join(said.err.split())) == (2, True)

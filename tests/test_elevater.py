"""ELEVATER's baselines against a plain reference, and what they must obey."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from featcache import optimisers, registry
from featcache.errors import ConfigError
from featcache.ops import cosine_logits
from featcache.training import Run, predict, train
from tests import synthetic
from tests.commandline import Run as Command
from tests.references import fitting
from tests.references.elevater import Elevater as Plain

Elevater = registry.load("elevater")
HOW = fitting.recipe("coop")


@pytest.mark.parametrize("projections", [1, 2])
@pytest.mark.parametrize("start", ["language", "random"])
def test_matches_the_plain_reference(start: str, projections: int) -> None:
    task = synthetic.task()
    method = Elevater(start=start, projections=projections)
    fitting.compare(method, task, HOW, lambda params: Plain(params, task))


@pytest.mark.parametrize("projections", [1, 2])
def test_language_init_starts_as_zero_shot(projections: int) -> None:
    task = synthetic.task()
    method = Elevater(projections=projections)
    logits = predict(method, method.init(task, torch.Generator()), task.image[:, 0], task)
    expected = cosine_logits(task.image[:, 0], task.text, task.logit_scale)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)


def test_random_init_needs_no_text_and_language_init_says_that_it_does() -> None:
    task = synthetic.task()
    bare = replace(task, text=task.text[:, :0])
    method = Elevater(start="random")
    (params,) = train([Run(method=method, lr=0.01, draw=0, init_seed=0)], [bare], HOW)
    assert (predict(method, params, bare.image[:, 0], bare).argmax(1) == bare.label).float().mean() > 0.5
    with pytest.raises(ConfigError, match="take start=random"):
        Elevater().init(bare, torch.Generator())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start": "zero"}, "start is one of language, random; got 'zero'"),
        ({"projections": 3}, "projections is 1 or 2; got 3"),
    ],
)
def test_bad_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Elevater(**fields)


def test_a_store_without_text_is_refused_before_training_and_random_is_the_way_out(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = synthetic.arrays()
    del values["text_features"]
    run("import", synthetic.save(tmp_path / "bare.npz", values), "--name", "bare")
    few = ("--adapter", "elevater", "--shots", "4", "--seeds", "1", "--epochs", "20", "--lr", "0.05", "--json")
    steps: list[int] = []
    plain = optimisers.Sgd.step

    def counted(self: optimisers.Sgd, *given: Any) -> None:
        steps.append(1)
        plain(self, *given)

    monkeypatch.setattr(optimisers.Sgd, "step", counted)
    for grid in ("start=language", "start=random,language"):
        said = run("fit", "bare", "--grid", grid, *few)
        assert said.code == 2
        assert "error: start=language needs text weights and this store has none; take start=random" in " ".join(
            said.err.split()
        )
        assert not steps
    said = run("fit", "bare", "--grid", "start=random", *few)
    assert said.code == 0, said.err
    assert steps
    assert json.loads(said.out)["runs"][0]["test"]["accuracy"] > 0.5

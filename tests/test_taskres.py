"""TaskRes against a plain reference, and what it must obey."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from featcache import registry
from featcache.errors import ConfigError
from featcache.ops import cosine_logits
from featcache.training import predict
from tests import synthetic
from tests.references import fitting
from tests.references.taskres import TaskRes as Plain

TaskRes = registry.load("taskres")


@pytest.mark.parametrize("alpha", [0.5, 1.0])
@pytest.mark.parametrize("preset", ["coop", "adamw"])
def test_matches_the_plain_reference(preset: str, alpha: float) -> None:
    task = synthetic.task()
    how = replace(fitting.recipe(preset), lr=0.002)
    fitting.compare(TaskRes(alpha=alpha), task, how, lambda start: Plain(start, task, alpha))


def test_it_starts_as_zero_shot() -> None:
    task = synthetic.task()
    method = TaskRes()
    logits = predict(method, method.init(task, torch.Generator()), task.image[:, 0], task)
    expected = cosine_logits(task.image[:, 0], task.text, task.logit_scale)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
    assert TaskRes(alpha=0.0).inert
    assert not method.inert


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_bad_values_are_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="at least 0; got"):
        TaskRes(alpha=alpha)

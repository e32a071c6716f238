"""The cross-modal linear probe against a plain reference, and what it must obey."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from featcache import registry
from featcache.errors import ConfigError
from featcache.ops import cosine_logits
from featcache.training import Run, predict, train
from tests import synthetic
from tests.references import fitting
from tests.references.cross_modal import CrossModal as Plain

CrossModal = registry.load("cross_modal")
HOW = replace(fitting.recipe("adamw"), lr=0.005)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("start", ["text", "random"])
def test_matches_the_plain_reference(start: str, share: float) -> None:
    task = synthetic.task()
    fitting.compare(
        CrossModal(start=start, share=share),
        task,
        HOW,
        lambda params: Plain(params, task),
        lambda plain: lambda image, label: plain.loss(image, label, share),  # type: ignore[operator]
    )


def test_it_starts_as_zero_shot() -> None:
    task = synthetic.task()
    logits = predict(CrossModal(), CrossModal().init(task, torch.Generator()), task.image[:, 0], task)
    assert torch.equal(logits, cosine_logits(task.image[:, 0], task.text, task.logit_scale))


def test_texts_alone_teach_the_classes() -> None:
    """A random head that sees no image but by the text's side of the modality gap."""
    task = synthetic.task()
    method = CrossModal(start="random", share=1.0)
    (params,) = train([Run(method=method, lr=0.05, draw=0, init_seed=0)], [task], HOW)
    assert torch.equal(predict(method, params, task.text, task).argmax(1), torch.arange(task.num_classes))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": -0.1}, "between 0 and 1; got -0.1"),
        ({"share": 1.1}, "between 0 and 1; got 1.1"),
        ({"share": float("nan")}, "between 0 and 1; got nan"),
        ({"start": "zero"}, "start is one of text, random; got 'zero'"),
    ],
)
def test_bad_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CrossModal(**fields)

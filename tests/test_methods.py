"""The contract: every file in adapters/ is tested here before it has a test of its own."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from featcache import recipes, registry
from featcache.errors import ConfigError, UnknownNameError
from featcache.loading import Rows, present
from featcache.ops import EPS, cosine_logits, cosine_loss_gradient, normalise
from featcache.task import Factored, Method, Params, Solved, Task, Trained, field_values, swept_fields
from featcache.training import Run, _by_autograd, _by_hand, predict, stack_hyper, train
from tests import synthetic

NAMES = sorted(registry.known())
ClipAdapter = registry.load("clip_adapter")


@pytest.fixture(scope="module")
def task() -> Task:
    return synthetic.task()


def _fitted(method: Method, task: Task) -> Params:
    task = present(task, method.views)
    if isinstance(method, Solved):
        return method.solve(
            task, {name: value[0] for name, value in stack_hyper([method], torch.device("cpu")).items()}
        )
    recipe = replace(recipes.make("coop", shots=8, dataset="any"), epochs=4, batch_size=16)
    (params,) = train([Run(method=method, lr=0.05, draw=0, init_seed=1)], [task], recipe)
    return params


def test_the_known_methods() -> None:
    assert {"clip_adapter", "zero_shot"} <= set(NAMES)
    with pytest.raises(UnknownNameError, match="did you mean clip_adapter"):
        registry.load("clip_adaptor")


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_what_it_is(name: str) -> None:
    kind = registry.load(name)
    module = registry.known()[name].read_text(encoding="utf-8")
    assert "arXiv" in module.split('"""')[1], "the file opens with its paper"
    assert kind.__doc__
    assert kind.needs <= {"text", "tower"}
    for field in fields(kind):
        after = module.split(f"    {field.name}: ", 1)[1].splitlines()[1]
        assert after.strip().startswith('"""'), f"{field.name} has a docstring under it"


@pytest.mark.parametrize("name", NAMES)
def test_logits_have_a_score_for_each_class_and_are_finite_on_a_row_of_zeros(name: str, task: Task) -> None:
    method = registry.load(name)()
    params = _fitted(method, task)
    image = torch.cat([task.image[:, 0], torch.zeros(1, task.dim)])
    logits = predict(method, params, image, task)
    assert logits.shape == (len(image), task.num_classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_permuting_the_classes_permutes_the_logits(name: str, task: Task) -> None:
    method = registry.load(name)()
    order = torch.randperm(task.num_classes, generator=torch.Generator().manual_seed(3))
    permuted = replace(task, text=task.text[order], label=torch.argsort(order)[task.label])
    image = task.image[:, 0]
    plain = predict(method, _fitted(method, task), image, task)
    other = predict(method, _fitted(method, permuted), image, permuted)
    torch.testing.assert_close(other, plain[:, order], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_do_not_change_a_prediction(name: str, task: Task) -> None:
    method = registry.load(name)()
    params = _fitted(method, task)
    whole = predict(method, params, task.image[:, 0], task)
    torch.testing.assert_close(predict(method, params, task.image[:, 0], task, block=7), whole, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(registry.load(name)(), Factored)])
def test_gradient_factors_equal_autograd(name: str, task: Task) -> None:
    methods = [registry.load(name)(alpha=alpha) for alpha in (0.0, 0.3, 0.8, 1.0)]
    starts = [method.init(task, torch.Generator().manual_seed(5)) for method in methods]
    params = {key: torch.stack([start[key] for start in starts]).requires_grad_() for key in starts[0]}
    hyper = stack_hyper(methods, torch.device("cpu"))
    rows = torch.arange(0, 40, 2)
    batch = (task.image[rows, 1].expand(4, -1, -1), task.label[rows].expand(4, -1))
    by_hand = _by_hand(methods[0], params, batch, task, hyper)
    for key, gradient in _by_autograd(methods[0], params, batch, task, hyper).items():
        left, right = by_hand[key]
        torch.testing.assert_close(left.mT @ right, gradient, rtol=1e-4, atol=1e-5)


def test_alpha_zero_is_zero_shot_exactly(task: Task) -> None:
    method = ClipAdapter(alpha=0.0)
    params = method.init(task, torch.Generator().manual_seed(1))
    image = task.image[:, 0]
    assert torch.equal(predict(method, params, image, task), cosine_logits(image, task.text, task.logit_scale))


def test_distinct_alphas_give_distinct_logits(task: Task) -> None:
    params = _fitted(ClipAdapter(alpha=0.5), task)
    logits = [predict(ClipAdapter(alpha=alpha), params, task.image[:, 0], task) for alpha in (0.0, 0.2, 0.5, 1.0)]
    assert all((a - b).abs().max() > 0.01 for i, a in enumerate(logits) for b in logits[:i])


def test_scaling_the_input_changes_no_logit(task: Task) -> None:
    """The bias-free bottleneck is positively homogeneous: raw and unit inputs agree."""
    params = _fitted(ClipAdapter(alpha=0.6), task)
    image = task.image[:, 0]
    raw, unit = (predict(ClipAdapter(alpha=0.6), params, rows, task) for rows in (image, normalise(image)))
    torch.testing.assert_close(raw, unit, rtol=1e-4, atol=1e-3)


def test_an_all_zero_blend_stays_finite(task: Task) -> None:
    params = {"down": torch.zeros(task.dim, 8), "up": torch.zeros(8, task.dim)}
    assert (predict(ClipAdapter(alpha=1.0), params, task.image[:, 0], task) == 0).all()
    gradient = cosine_loss_gradient(torch.zeros(1, 4, task.dim), torch.zeros(1, 4, dtype=torch.long), task.text, 10.0)
    assert gradient.isfinite().all()
    assert EPS > 0


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_the_unit_interval_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        ClipAdapter(alpha=alpha)


def test_bottleneck_is_a_fraction_of_the_width(task: Task) -> None:
    assert ClipAdapter(reduction=8).init(task, torch.Generator())["down"].shape == (32, 4)
    with pytest.raises(ConfigError, match="at least 1"):
        ClipAdapter(reduction=0)


def test_fields_are_split_into_swept_and_fixed() -> None:
    assert swept_fields(ClipAdapter) == ("alpha", "beta")
    fixed = {"reduction": 4, "where": "visual", "ratio": "fixed", "last": "relu"}
    assert field_values(ClipAdapter(alpha=0.5)) == {"alpha": 0.5, "beta": 0.2, **fixed}
    assert isinstance(ClipAdapter(), Trained)


def test_a_malformed_method_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text('"""Nothing here (arXiv 0)."""\n')
    monkeypatch.setattr(registry, "adapters_folder", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"broken\.py holds 0 methods"):
        registry.load("broken")


def test_rows_hold_no_views(task: Task) -> None:
    assert Rows(image=task.image[:, 0], label=task.label).image.dim() == 2

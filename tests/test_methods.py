"""The contract: every file in adapters/ is tested here before it has a test of its own."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from featcache import grids, recipes, registry
from featcache.errors import ConfigError, UnknownNameError
from featcache.loading import Rows, present
from featcache.ops import EPS, cosine_logits, cosine_loss_gradient, normalise
from featcache.task import (
    Factored,
    Frozen,
    Method,
    Params,
    Solved,
    SolvedTogether,
    Swept,
    Task,
    Trained,
    field_values,
    swept_fields,
)
from featcache.training import Run, _by_autograd, _by_hand, predict, predict_each, single_hyper, stack_hyper, train
from featcache.vetting import vet, vet_solved
from tests import synthetic

NAMES = sorted(registry.known())
ClipAdapter = registry.load("clip_adapter")
WITHOUT_TEXT = {"elevater": {"start": "random"}}
"""Fields of methods that do without text only so."""
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task() -> Task:
    return synthetic.task_with_tower()


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
    _check_logits(registry.load(name)(), task)


@pytest.mark.parametrize("name", [name for name in NAMES if not registry.load(name).needs])
def test_what_needs_no_text_does_without(name: str, task: Task) -> None:
    _check_logits(registry.load(name)(**WITHOUT_TEXT.get(name, {})), replace(task, text=task.text[:, :0]))


def _check_logits(method: Method, task: Task) -> None:
    params = _fitted(method, task)
    image = torch.cat([task.image[:, 0], torch.zeros(1, task.dim)])
    logits = predict(method, params, image, task)
    assert logits.shape == (len(image), task.num_classes)
    assert logits.dtype == image.dtype
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_what_a_method_is_given_stays_as_it_is(name: str, task: Task) -> None:
    method = registry.load(name)()
    given = present(replace(task, **{key: getattr(task, key).clone() for key in ("text", "image", "label")}), "turn")
    params = _fitted(method, given)
    before = {key: value.clone() for key, value in params.items()}
    rows = given.image[:, 0].clone()
    predict(method, params, rows, given)
    list(predict_each([method, method], params, rows, given))
    assert all(torch.equal(getattr(given, key), getattr(task, key)) for key in ("text", "image", "label"))
    assert torch.equal(rows, task.image[:, 0])
    assert all(torch.equal(value, params[key]) for key, value in before.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_engines_own_look_finds_nothing(name: str, task: Task) -> None:
    stack = _variants(registry.load(name)())
    if isinstance(stack[0], Trained):
        vet(stack, stack, present(task, stack[0].views))
    else:
        vet_solved(stack, [_fitted(stack[0], task)], 1, present(task, stack[0].views))


def _variants(method: Method) -> list[Method]:
    """The method and, for each float field that can be had at half its value, the method so."""
    found = [method]
    for name in swept_fields(method):
        with suppress(ConfigError):
            found.append(replace(method, **{name: getattr(method, name) / 2}))  # type: ignore[type-var]
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(registry.load(name), "init")])
def test_stacked_equals_one_by_one(name: str, task: Task) -> None:
    other = synthetic.task(seed=1)
    both = (task, replace(task, image=other.image, label=other.label))
    tasks = [present(each, registry.load(name).views) for each in both]
    recipe = replace(recipes.make("coop", shots=8, dataset="any"), epochs=10, batch_size=20, warmup_lr=None)
    places = [(0, 1, 0.01), (0, 2, 0.03), (1, 1, 0.01)]
    runs = [
        Run(method=method, lr=lr, draw=draw, init_seed=seed)
        for method in _variants(registry.load(name)())
        for draw, seed, lr in places
    ]
    for run, stacked in zip(runs, train(runs, tasks, recipe), strict=True):
        (alone,) = train([run], tasks, recipe)  # 20 steps
        for key, value in alone.items():
            torch.testing.assert_close(stacked[key], value, rtol=1e-5, atol=1e-5)
        start = run.method.init(tasks[run.draw], torch.Generator().manual_seed(run.init_seed))  # type: ignore[attr-defined]
        assert any(not torch.equal(value, start[key]) for key, value in alone.items()), "it was trained"


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(registry.load(name)(), SolvedTogether)])
def test_solved_together_is_solved_one_by_one(name: str, task: Task) -> None:
    method = registry.load(name)()
    assert isinstance(method, SolvedTogether)
    tasks = [present(each, method.views) for each in (task, synthetic.task(seed=1), synthetic.task(shots=6))]
    pairs = [(each, single_hyper(variant, CPU)) for variant in _variants(method) for each in tasks]
    for pair, together in zip(pairs, method.solve_runs(pairs), strict=True):
        alone = method.solve(*pair)
        assert alone.keys() == together.keys()
        for key, value in alone.items():
            torch.testing.assert_close(together[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(registry.load(name)(), Swept)])
def test_a_sweep_gives_what_logits_give(name: str, task: Task) -> None:
    method = registry.load(name)()
    grid = {key: grids.parse(values)[:3] for key, values in method.grid.items() if key in method.post_hoc}
    methods = [
        replace(method, **dict(zip(grid, values, strict=True)))  # type: ignore[type-var]
        for values in itertools.product(*grid.values())
    ]
    assert len(methods) > 2
    for given in (task, replace(task, text=task.text[:, :0])) if not method.needs else (task,):
        params = _fitted(method, given)
        rows = given.image[:, 0]
        for variant, swept in zip(methods, predict_each(methods, params, rows, given), strict=True):
            torch.testing.assert_close(swept, predict(variant, params, rows, given), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if "alpha" in swept_fields(registry.load(name))])
def test_alpha_zero_is_zero_shot_where_a_method_says_so(name: str, task: Task) -> None:
    said = registry.known()[name].read_text(encoding="utf-8").split("    alpha: float", 1)[1].split('"""')[1]
    method = registry.load(name)(alpha=0.0)
    claims = "0 is zero-shot CLIP" in " ".join(said.split())
    assert claims or not getattr(method, "inert", False), "what is inert says that 0 is zero-shot"
    if claims:
        params, image = _fitted(method, task), task.image[:, 0]
        expected = cosine_logits(image, task.text, task.logit_scale)
        torch.testing.assert_close(predict(method, params, image, task), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if registry.load(name).transfers])
def test_what_transfers_classifies_other_classes_by_their_text(name: str, task: Task) -> None:
    method = registry.load(name)()
    params = _fitted(method, task)
    others = synthetic.task(classes=7, seed=2)
    elsewhere = Frozen(text=others.text, logit_scale=others.logit_scale, names=others.names, tower=task.tower)
    logits = predict(method, params, others.image[:, 0], elsewhere)
    assert logits.shape == (len(others.label), 7)
    assert logits.isfinite().all()
    if "tower" not in method.needs:  # the tower here is random
        assert (logits.argmax(dim=1) == others.label).float().mean() > 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(("name", "field"), [(n, field) for n in NAMES for field in swept_fields(registry.load(n))])
def test_no_float_field_takes_what_is_no_number(name: str, field: str, value: float) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.load(name)(**{field: value})
    assert field in str(caught.value)
    assert f"got {value:g}" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_permuting_the_classes_permutes_the_logits(name: str, task: Task) -> None:
    method = registry.load(name)()
    order = torch.randperm(task.num_classes, generator=torch.Generator().manual_seed(3))
    names = tuple(task.names[index] for index in order)
    permuted = replace(task, text=task.text[order], label=torch.argsort(order)[task.label], names=names)
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

"""The stacked trainer: equal to torch's optimisers, to a plain reference, and to one run at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from featcache import recipes, registry
from featcache.devices import check_products
from featcache.errors import ConfigError, UnknownNameError
from featcache.optimisers import Sgd, make_optimiser
from featcache.task import Task
from featcache.training import (
    Run,
    _by_autograd,
    _by_hand,
    _by_own_loss,
    _cut,
    _epoch_rows,
    _way_of,
    num_run_epochs,
    predict,
    train,
)
from tests import reference, synthetic
from tests.references import fitting
from tests.references.clip_adapter import ClipAdapter as Plain

ClipAdapter = registry.load("clip_adapter")
COOP = recipes.make("coop", shots=16, dataset="any")


def _runs(alphas: list[float], *, draws: int = 1, lr: float = 0.02) -> list[Run]:
    return [
        Run(method=ClipAdapter(alpha=alpha), lr=lr, draw=draw, init_seed=draw)
        for draw in range(draws)
        for alpha in alphas
    ]


def test_all_runs_at_once_equal_one_by_one() -> None:
    tasks = [synthetic.task(seed=seed) for seed in (0, 1)]
    recipe = replace(COOP, epochs=20, batch_size=16)
    runs = _runs([0.1, 0.4, 0.7, 1.0], draws=2)
    together = train(runs, tasks, recipe)
    for run, params in zip(runs, together, strict=True):
        (alone,) = train([run], tasks, recipe)
        for name in params:
            torch.testing.assert_close(params[name], alone[name], rtol=0, atol=1e-5)
        accuracies = [
            (
                predict(run.method, p, tasks[run.draw].image[:, 0], tasks[run.draw]).argmax(1) == tasks[run.draw].label
            ).sum()
            for p in (params, alone)
        ]
        assert abs(int(accuracies[0] - accuracies[1])) <= 1


def test_each_configuration_has_its_gradient_taken_its_own_way() -> None:
    """By hand where the method has written it out, from its own loss where it has one, else by autograd."""
    assert _way_of(ClipAdapter(alpha=0.9)) is _by_hand
    assert _way_of(ClipAdapter(where="both")) is _by_autograd
    assert _way_of(registry.load("taskres")()) is _by_autograd
    assert _way_of(registry.load("clap")()) is _by_own_loss


def test_draws_of_unequal_size_are_trained_apart() -> None:
    whole = synthetic.task()
    tasks = [whole, replace(whole, image=whole.image[1:], label=whole.label[1:])]
    recipe = replace(COOP, epochs=4, batch_size=16)
    runs = _runs([0.2, 0.9], draws=2)
    for run, params in zip(runs, train(runs, tasks, recipe), strict=True):
        (alone,) = train([run], tasks, recipe)
        torch.testing.assert_close(params["up"], alone["up"], rtol=0, atol=1e-5)


def test_a_wide_stack_is_cut_to_what_memory_serves_well(monkeypatch: pytest.MonkeyPatch) -> None:
    task, recipe = synthetic.task(), replace(COOP, epochs=2, batch_size=16)
    runs = _runs([0.1, 0.2, 0.4, 0.5, 0.7, 0.8, 0.9])
    weights = sum(value.numel() for value in runs[0].method.init(task, torch.Generator()).values())
    whole, _ = _cut(runs, [task], weights)
    assert len(whole) == 1, "so little stays together"
    params = train(runs, [task], recipe)
    monkeypatch.setattr("featcache.training.WORTH_SPLITTING", 0)
    monkeypatch.setattr("featcache.training.STACK_BYTES", 1)
    narrow, at_once = _cut(runs, [task], weights)
    assert len(narrow) == len(runs) > len(whole)
    assert at_once <= max(1, torch.get_num_threads())
    for one, other in zip(train(runs, [task], recipe), params, strict=True):
        torch.testing.assert_close(one["up"], other["up"], rtol=0, atol=1e-5)


def test_products_of_another_kind_are_taken_while_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("featcache.training._epoch_rows", _telling(seen))
    train(_runs([0.5]), [synthetic.task()], replace(COOP, epochs=1, products="bf16"))
    assert (seen, torch.get_float32_matmul_precision()) == (["medium"], "highest")


def _telling(seen: list[str]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Rows of an epoch as ever, with the precision of products noted."""

    def rows(*arguments: Any) -> tuple[Tensor, Tensor]:
        seen.append(torch.get_float32_matmul_precision())
        return _epoch_rows(*arguments)

    return rows


def test_products_that_the_device_lacks_are_refused() -> None:
    with pytest.raises(ConfigError, match="--products tf32 is for cuda, and this runs on cpu; there it is bf16"):
        check_products("tf32", torch.device("cpu"))
    check_products("bf16", torch.device("cpu"))
    check_products("fp32", torch.device("cpu"))


def test_an_exception_in_one_stack_ends_the_call() -> None:
    task = synthetic.task()
    broken = replace(task, label=task.label + 100)

    def fail(_: int) -> None:
        raise RuntimeError("told")

    with pytest.raises(RuntimeError, match="told"):
        train(_runs([0.2, 0.9]), [task], replace(COOP, epochs=50), progress=fail)
    with pytest.raises((IndexError, RuntimeError)):
        train(_runs([0.2, 0.9]), [broken], replace(COOP, epochs=50))
    assert torch.get_num_threads() >= 1


def test_matches_the_plain_reference() -> None:
    task = synthetic.task()
    recipe = replace(COOP, epochs=6, batch_size=16)
    run = _runs([0.6])[0]
    (params,) = train([run], [task], recipe)
    start = run.method.init(task, torch.Generator().manual_seed(run.init_seed))
    model = reference.ClipAdapter(start["down"], start["up"], 0.6)
    batches = [
        (image, label, recipe.lr_at(epoch, run.lr))
        for epoch in range(recipe.epochs)
        for image, label in fitting.batches(task, run.init_seed, epoch, recipe)
    ]
    losses = reference.fit_sgd(model, batches, task.text, task.logit_scale, momentum=0.9, weight_decay=5e-4)
    torch.testing.assert_close(params["down"], model.fc[0].weight.T, rtol=0, atol=1e-5)
    torch.testing.assert_close(params["up"], model.fc[2].weight.T, rtol=0, atol=1e-5)
    assert max(losses) > 0.5, "a task that is solved from the start would prove nothing"


SAME, OWN = [0.03] * 3, [0.0, 0.03, 0.3]


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("eps", [1e-8, 1e-3])
@pytest.mark.parametrize(("decays", "momenta"), [(None, None), (SAME, OWN), (OWN, SAME), (OWN, [0.0, 0.9, 0.5])])
def test_optimisers_equal_torch(
    optimiser: str, factored: bool, eps: float, decays: list[float] | None, momenta: list[float] | None
) -> None:
    """Each run against torch's optimiser alone, at its own learning rate, weight decay and momentum."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 7, 5, generator=generator)
    lrs = [0.1, 0.01, 0.001]
    recipe = replace(COOP, optimiser=optimiser, weight_decay=0.03, eps=eps)
    ours = {"w": start.clone()}
    stacked = make_optimiser(recipe, ours, weight_decay=decays, momentum=momenta)
    theirs = [start[index].clone().requires_grad_() for index in range(3)]
    own = [
        replace(recipe, lr=lr, weight_decay=decay, momentum=momentum)
        for lr, decay, momentum in zip(lrs, decays or SAME, momenta or [0.9] * 3, strict=True)
    ]
    singles = [fitting.torch_optimiser([p], how) for p, how in zip(theirs, own, strict=True)]
    for _ in range(20):
        left, right = torch.randn(3, 4, 7, generator=generator), torch.randn(3, 4, 5, generator=generator)
        whole = left.mT @ right
        for index, (param, single) in enumerate(zip(theirs, singles, strict=True)):
            param.grad = whole[index].clone()
            single.step()
        stacked.set_lr(lrs)
        stacked.step({"w": (left, right) if factored else whole.clone()})
    # torch's AdamW takes eps and weight decay in another order of operations: equal to rounding.
    torch.testing.assert_close(ours["w"], torch.stack([p.detach() for p in theirs]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("momentum", "decay"), [(0.9, 5e-4), (0.9, 0.05), (0.5, 1e-6), (0.9, 0.0), (0.0, 0.1), (0.9, 0.9)]
)
@pytest.mark.parametrize("factored", [False, True])
def test_sgd_equals_torch_while_runs_share_a_rate_and_after(factored: bool, momentum: float, decay: float) -> None:
    """A warm-up, a falling rate, two steps at rates of their own, and one rate again: z is held, left and taken up."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 7, 5, generator=generator)
    ours = {"w": start.clone()}
    stacked = Sgd(ours, momentum=momentum, weight_decay=decay)
    theirs = [start[index].clone().requires_grad_() for index in range(2)]
    singles = [torch.optim.SGD([p], lr=1.0, momentum=momentum, weight_decay=decay) for p in theirs]
    rates = [(1e-5, 1e-5)] * 3 + [(0.1 - 0.01 * k,) * 2 for k in range(6)] + [(0.05, 0.02)] * 2 + [(0.03, 0.03)] * 5
    held = []
    for lrs in rates:
        left, right = torch.randn(2, 4, 7, generator=generator), torch.randn(2, 4, 5, generator=generator)
        whole = left.mT @ right
        for index, (param, single) in enumerate(zip(theirs, singles, strict=True)):
            single.param_groups[0]["lr"] = lrs[index]
            param.grad = whole[index].clone()
            single.step()
        stacked.set_lr(lrs)
        stacked.step({"w": (left, right) if factored else whole.clone()})
        held.append(stacked._k is not None)
        torch.testing.assert_close(ours["w"], torch.stack([p.detach() for p in theirs]), rtol=1e-5, atol=2e-6)
    if not momentum or not decay:
        assert not any(held), "there is no z"
    elif decay < 1e-3:
        assert held == [one == other for one, other in rates]
    else:
        assert any(held), "held while the rate is small"
        assert not held[3], "the equation has no root at a rate of 0.1"


def test_equal_values_stay_one_number() -> None:
    """Then weight decay and momentum cost no pass over memory of their own."""
    params = {"w": torch.zeros(2, 3)}
    equal = make_optimiser(COOP, params, weight_decay=[0.1, 0.1], momentum=[0.5, 0.5])
    assert isinstance(equal, Sgd)
    assert (equal.weight_decay, equal.momentum) == (0.1, 0.5)


def test_unknown_optimiser_and_preset_list_the_known() -> None:
    with pytest.raises(UnknownNameError, match="sgd"):
        make_optimiser(replace(COOP, optimiser="lion"), {})
    with pytest.raises(UnknownNameError, match="coop"):
        recipes.make("cop", shots=1, dataset="any")


def test_schedule_is_dassls() -> None:
    """Warm-up epoch at 1e-5, then a cosine that the warm-up has not advanced."""
    rates = [replace(COOP, epochs=4).lr_at(epoch, 0.002) for epoch in range(4)]
    cosine = [0.001 * (1 + math.cos(math.pi * done / 4)) for done in range(3)]
    assert rates == pytest.approx([1e-5, *cosine])
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.002)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 4.0)
    for rate in rates[1:]:
        assert theirs.param_groups[0]["lr"] == pytest.approx(rate)
        theirs.step()
        schedule.step()


@pytest.mark.parametrize(
    ("shots", "dataset", "epochs"),
    [(1, "dtd", 50), (2, "dtd", 100), (4, "dtd", 100), (8, "dtd", 200), (16, "dtd", 200), (16, "imagenet", 50)],
)
def test_coop_epochs(shots: int, dataset: str, epochs: int) -> None:
    assert recipes.make("coop", shots=shots, dataset=dataset).epochs == epochs


@pytest.mark.parametrize("shots", [1, 4, 8])
def test_taskres_in_our_unit_turns_its_text_as_theirs_does(shots: int) -> None:
    """Text ten times as long under the authors' own numbers: the same directions, step by step."""
    how = recipes.make("taskres", shots=shots, dataset="any")
    theirs = replace(how, lr=2e-3, weight_decay=5e-4, eps=1e-8, warmup_lr=1e-5)
    assert how.epochs == (200 if shots == 8 else 100)
    task = synthetic.task(classes=4, dim=12)
    turned = []
    for recipe, length in ((how, 1.0), (theirs, 10.0)):
        residual = torch.zeros(4, 12, dtype=torch.double, requires_grad=True)
        optimiser = fitting.torch_optimiser([residual], recipe)
        text, unit = length * task.text.double(), torch.nn.functional.normalize(task.image[:, 0].double(), dim=-1)
        for epoch in range(30):
            optimiser.param_groups[0]["lr"] = recipe.lr_at(epoch, recipe.lr)
            tuned = torch.nn.functional.normalize(text + 0.5 * residual, dim=-1)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(50 * unit @ tuned.T, task.label).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        turned.append(torch.nn.functional.normalize(text + 0.5 * residual.detach(), dim=-1))
    torch.testing.assert_close(turned[0], turned[1], rtol=0, atol=1e-9)
    assert (turned[0] - torch.nn.functional.normalize(task.text.double(), dim=-1)).abs().max() > 1e-3


def test_every_preset_is_a_recipe_under_its_own_name_and_every_method_has_one() -> None:
    for name in recipes.PRESETS:
        for shots in (1, 16):
            assert recipes.make(name, shots=shots, dataset="any").preset == name
    presets = {kind.preset for kind in map(registry.load, registry.known()) if hasattr(kind, "preset")}
    assert presets <= set(recipes.PRESETS)


def test_what_authors_do_otherwise_on_imagenet() -> None:
    theirs = {name: recipes.make(name, shots=16, dataset=recipes.IMAGENET) for name in recipes.PRESETS}
    assert {name: (how.lr, how.epochs) for name, how in theirs.items() if name in ("coop", "ape-t", "taskres")} == {
        "coop": (0.002, 50),
        "ape-t": (1e-4, 20),
        "taskres": (2e-5, 200),
    }


@pytest.mark.parametrize("preset", ["ape-t", "coop"])
@pytest.mark.parametrize("last_batch", ["drop", "keep"])
def test_last_batches_and_schedules_are_those_of_torchs_loader_and_scheduler(preset: str, last_batch: str) -> None:
    """40 images in batches of 12: three, or three and one of 4."""
    task = synthetic.task()
    how = replace(recipes.make(preset, shots=16, dataset="any"), epochs=5, batch_size=12, last_batch=last_batch)
    how = replace(how, warmup_lr=None, lr=0.02)
    fitting.compare(ClipAdapter(alpha=0.6), task, how, lambda start: Plain(start, task, {"alpha": 0.6}))
    loader = torch.utils.data.DataLoader(range(40), batch_size=12, drop_last=last_batch == "drop")  # type: ignore[arg-type, var-annotated]
    shown = [len(label) for _, label in fitting.batches(task, 3, 1, how)]
    assert shown == [len(batch) for batch in loader]
    optimiser = fitting.torch_optimiser([torch.nn.Parameter(torch.zeros(1))], how)
    steps = how.epochs * (len(shown) if how.schedule == "cosine-step" else 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        assert how.lr_at(step * how.epochs / steps, how.lr) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()


def test_a_last_batch_that_is_the_only_one_is_never_dropped() -> None:
    task = _numbered(images=10, views=3)
    for last_batch in ("drop", "keep"):
        how = replace(COOP, batch_size=32, last_batch=last_batch)
        assert [len(label) for _, label in fitting.batches(task, 1, 0, how)] == [10]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", 0.0),
        ("lr", float("nan")),
        ("epochs", 0),
        ("batch_size", 0),
        ("eps", 0.0),
        ("weight_decay", -1e-3),
        ("weight_decay", float("inf")),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("last_batch", "some"),
        ("schedule", "linear"),
    ],
)
def test_unusable_recipes_are_refused(field: str, value: float | str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=field.split("_")[0]):
        replace(COOP, **{field: value})


def test_a_diverging_run_leaves_the_others_alone() -> None:
    task = synthetic.task()
    recipe = replace(COOP, epochs=5, batch_size=16)
    calm = _runs([0.3, 0.6])
    wild = [replace(calm[0], lr=1e30), *calm]
    with_wild = train(wild, [task], recipe)[1:]
    without = train(calm, [task], recipe)
    for one, other in zip(with_wild, without, strict=True):
        torch.testing.assert_close(one["down"], other["down"], rtol=0, atol=1e-6)
        assert one["down"].isfinite().all()


def test_inert_runs_keep_their_start_and_are_not_counted() -> None:
    task = synthetic.task()
    recipe = replace(COOP, epochs=3)
    runs = _runs([0.0, 0.5])
    done: list[int] = []
    zero, half = train(runs, [task], recipe, progress=done.append)
    start = runs[0].method.init(task, torch.Generator().manual_seed(0))
    assert torch.equal(zero["down"], start["down"])
    assert not torch.equal(half["down"], start["down"])
    assert sum(done) == num_run_epochs(runs, recipe) == 3


def test_epochs_show_every_view_once_in_v_epochs_and_drop_the_last_batch() -> None:
    task = _numbered(images=10, views=3)
    seen: list[Tensor] = []
    fours, tens = replace(COOP, batch_size=4), replace(COOP, batch_size=10)
    for epoch in range(3):
        image, label = _epoch_rows(task, 7, epoch, fours)
        assert image.shape == (8, 2)
        assert torch.equal(image[:, 0].long(), label)
        seen.append(image)
    whole = torch.cat([_epoch_rows(task, 7, epoch, tens)[0] for epoch in range(3)])
    assert len({tuple(row) for row in whole.tolist()}) == 30
    again, _ = _epoch_rows(task, 7, 2, fours)
    assert torch.equal(again, seen[2])


def _numbered(*, images: int, views: int) -> Task:
    """Images that say which image and which view they are."""
    number = torch.arange(images, dtype=torch.float)[:, None].expand(images, views)
    view = torch.arange(views, dtype=torch.float).expand(images, views)
    return Task(
        text=torch.eye(2), logit_scale=1.0, image=torch.stack([number, view], dim=-1), label=torch.arange(images)
    )

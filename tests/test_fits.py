"""Grids of any field: what shares a fit, what shares a stack, and that neither changes a number."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from featcache import fewshot, fits, grids, recipes, registry
from featcache.errors import ConfigError, UnknownNameError
from featcache.fit_options import grid_of
from featcache.importing import import_npz
from featcache.loading import present
from featcache.ops import cosine_logits, normalise
from featcache.outcome import varying
from featcache.search import Outcome, Settings, search
from featcache.selection import Score, mean_score, score_each
from featcache.store import Store
from featcache.task import Frozen, Hyper, Params, Task
from tests import synthetic


@pytest.fixture
def store(home: Path) -> Store:
    home.mkdir()
    return Store(import_npz(synthetic.save(home / "toy.npz", synthetic.arrays()), name="toy"))


def recipe(shots: int) -> recipes.Recipe:
    return replace(recipes.make("coop", shots=shots, dataset="any"), epochs=3, lr=0.02)


def fit(
    store: Store,
    adapter: str,
    grid: Mapping[str, tuple[object, ...]],
    make: Callable[[int], recipes.Recipe] = recipe,
    **more: object,
) -> Outcome:
    settings = Settings(adapter=adapter, grid=dict(grid), shots=4, shot_seeds=(1, 2, 3), **more)  # type: ignore[arg-type]
    return search(store, settings, make)


@pytest.mark.parametrize(
    ("kind", "text", "values"),
    [
        (float, "0:1:0.5", (0.0, 0.5, 1.0)),
        (int, "2:6:2", (2, 4, 6)),
        (int, "4", (4,)),
        (bool, "true, false", (True, False)),
        (str, "visual,text", ("visual", "text")),
    ],
)
def test_values_are_read_as_the_fields_type(kind: type, text: str, values: tuple[object, ...]) -> None:
    read = grids.parse_as(kind, text, "field")
    assert read == values
    assert [type(value) for value in read] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("kind", "text"),
    [(int, "0.5"), (bool, "yes"), (str, "a,,b"), (str, "a,b,a"), (bool, "true,true"), (dict, "a"), (float, "x")],
)
def test_values_of_another_type_are_refused(kind: type, text: str) -> None:
    with pytest.raises(ConfigError):
        grids.parse_as(kind, text, "field")


def test_a_learning_rate_in_the_grid_equals_one_searched_alone(store: Store) -> None:
    together = fit(store, "clip_adapter", {"alpha": (0.5,), "lr": (0.02, 0.2)})
    for lr in (0.02, 0.2):
        alone = fit(store, "clip_adapter", {"alpha": (0.5,)}, lambda k, lr=lr: replace(recipe(k), lr=lr))
        same = [run for run in together.runs if run.config["lr"] == lr]
        for run, other in zip(same, alone.runs, strict=True):
            assert run.test is not None
            assert other.test is not None
            assert run.test.accuracy == other.test.accuracy
            assert run.test.loss == pytest.approx(other.test.loss, rel=1e-5)
    assert varying(together.runs) == ["lr"]


def test_weight_decay_and_momentum_in_the_grid_equal_ones_searched_alone(store: Store) -> None:
    grid = {"alpha": (0.5,), "weight_decay": (0.0, 0.5), "momentum": (0.5, 0.9), "lr": (0.02, 0.2)}
    together = fit(store, "clip_adapter", grid)
    assert len(together.runs) == 24
    assert varying(together.runs) == ["weight_decay", "momentum", "lr"]
    for weight_decay, momentum, lr in itertools.product((0.0, 0.5), (0.5, 0.9), (0.02, 0.2)):
        own = {"weight_decay": weight_decay, "momentum": momentum, "lr": lr}
        alone = fit(store, "clip_adapter", {"alpha": (0.5,)}, lambda k, own=own: replace(recipe(k), **own))
        same = [run for run in together.runs if own.items() <= run.config.items()]
        for run, other in zip(same, alone.runs, strict=True):
            assert run.test is not None
            assert other.test is not None
            assert run.test.accuracy == other.test.accuracy
            assert run.test.loss == pytest.approx(other.test.loss, rel=1e-4)
    assert len({round(run.test.loss, 6) for run in together.runs if run.test}) == 24


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("lr", (0.1, -0.1), "lr is a positive number; got -0.1"),
        ("weight_decay", (0.0, -1.0), "weight_decay is a number of at least 0; got -1"),
        ("momentum", (0.5, 1.0), "momentum is at least 0 and below 1; got 1"),
    ],
)
def test_training_values_out_of_their_range_are_refused(
    store: Store, name: str, values: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(store, "clip_adapter", {"alpha": (0.5,), name: values})


def test_momentum_under_adamw_is_refused(store: Store) -> None:
    def adamw(shots: int) -> recipes.Recipe:
        return recipes.make("adamw", shots=shots, dataset="any")

    with pytest.raises(ConfigError, match="momentum does nothing under adamw"):
        fit(store, "clip_adapter", {"alpha": (0.5,), "momentum": (0.5, 0.9)}, adamw)


def test_every_draw_is_fitted_from_every_init_seed(store: Store) -> None:
    alphas = {"alpha": (0.2, 0.5, 0.8)}
    both = fit(store, "clip_adapter", alphas, init_seeds=(4, 2))
    assert [(run.shot_seed, run.init_seed) for run in both.chosen] == [(1, 4), (1, 2), (2, 4), (2, 2), (3, 4), (3, 2)]
    for init_seed in (4, 2):
        alone = fit(store, "clip_adapter", alphas, init_seeds=(init_seed,))
        same = [run for run in both.runs if run.init_seed == init_seed]
        for run, other in zip(same, alone.runs, strict=True):
            assert (run.config, run.shot_seed, run.chosen) == (other.config, other.shot_seed, other.chosen)
            assert run.test is not None
            assert other.test is not None
            assert run.test.loss == pytest.approx(other.test.loss, rel=1e-5)
    default = fit(store, "clip_adapter", alphas)
    assert [(run.shot_seed, run.init_seed) for run in default.chosen] == [(1, 1), (2, 2), (3, 3)]
    own = [run.test.loss for run in default.runs if run.test and run.shot_seed == 2]
    again = [run.test.loss for run in both.runs if run.test and (run.shot_seed, run.init_seed) == (2, 2)]
    assert again == pytest.approx(own, rel=1e-5)
    losses = [run.test.loss for run in both.runs if run.test and run.shot_seed == 2]
    assert len({round(loss, 4) for loss in losses}) == 6
    mean, spread = both.test_accuracy
    accuracies = [run.test.accuracy for run in both.chosen if run.test]
    assert (mean, spread) == (statistics.fmean(accuracies), statistics.stdev(accuracies))


def test_a_pooled_choice_is_over_draws_and_init_seeds(store: Store) -> None:
    pooled = fit(store, "clip_adapter", {"alpha": (0.2, 0.5, 0.8)}, init_seeds=(1, 2), choose="pooled")
    assert len(pooled.chosen) == 6
    assert len({run.alpha for run in pooled.chosen}) == 1


def test_init_seeds_that_do_nothing_or_make_no_sense_are_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="zero_shot is not trained, so init seeds would do nothing"):
        fit(store, "zero_shot", {}, init_seeds=(1,))
    for seeds in ((1, 1), (-1,)):
        with pytest.raises(ConfigError, match="init seeds are 0 or more, each named once"):
            fit(store, "clip_adapter", {"alpha": (0.5,)}, init_seeds=seeds)


def test_a_field_that_changes_shapes_splits_stacks_and_no_number(store: Store) -> None:
    together = fit(store, "clip_adapter", {"reduction": (2, 4), "alpha": (0.3, 0.6)})
    assert [run.config["reduction"] for run in together.runs[:4]] == [2, 2, 4, 4]
    for reduction in (2, 4):
        alone = fit(store, "clip_adapter", {"reduction": (reduction,), "alpha": (0.3, 0.6)})
        same = [run.test for run in together.runs if run.config["reduction"] == reduction]
        assert same == [run.test for run in alone.runs]


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Solved once, swept after: logits = alpha x cosine, and it counts."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    transfers: ClassVar[bool] = True
    views: ClassVar[str] = "mean"
    post_hoc: ClassVar[tuple[str, ...]] = ("alpha",)
    grid: ClassVar[Mapping[str, str]] = {}
    solved: ClassVar[list[float]] = []

    alpha: float = 1.0
    """Post-hoc."""
    strength: float = 0.0
    """Fitted."""

    def solve(self, task: Task, hyper: Hyper) -> Params:
        self.solved.append(float(hyper["strength"]))
        return {"shift": hyper["strength"] * task.rows.mean()}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        return hyper["alpha"] * cosine_logits(image, frozen.text, frozen.logit_scale) + params["shift"]


def test_post_hoc_fields_share_a_fit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda _: Counting)
    Counting.solved.clear()
    outcome = fit(store, "counting", {"alpha": (0.5, 1.0, 2.0), "strength": (0.0, 1.0)})
    assert sorted(Counting.solved) == [0.0] * 3 + [1.0] * 3  # three draws, two strengths, whatever the alphas
    assert len(outcome.runs) == 18
    losses = [run.test.loss for run in outcome.runs[:6] if run.test]
    assert len({round(loss, 5) for loss in losses}) == 3  # a shift of all logits alike changes nothing, alpha does


def test_a_post_hoc_sweep_of_alpha_is_of_one_trained_head(store: Store) -> None:
    swept = fit(store, "clip_adapter", {"alpha": (0.5,)}, post_hoc_alpha=(0.0, 0.2, 0.5, 1.0))
    trained = fit(store, "clip_adapter", {"alpha": (0.0, 0.2, 0.5, 1.0)})
    assert [run.config["post_hoc_alpha"] for run in swept.runs[:4]] == [0.0, 0.2, 0.5, 1.0]
    assert {run.config["alpha"] for run in swept.runs} == {0.5}
    same = [a.test == b.test for a, b in zip(swept.runs, trained.runs, strict=True)]
    assert same == [True, False, True, False] * 3  # alpha 0 is zero-shot however trained, 0.5 is what was trained
    with pytest.raises(ConfigError, match="nothing is trained at alpha 0"):
        fit(store, "clip_adapter", {"alpha": (0.0,)}, post_hoc_alpha=(0.5,))
    with pytest.raises(ConfigError, match="has no alpha that is trained"):
        fit(store, "zero_shot", {}, post_hoc_alpha=(0.5,))


def test_a_field_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="no field 'gamma'; it has: alpha"):
        fits.expand("clip_adapter", {"gamma": (1.0,)})
    with pytest.raises(ConfigError, match="no field 'lr'"):
        fits.expand("zero_shot", {"lr": (1.0,)})


def test_what_the_user_searches_stands_beside_what_the_method_does() -> None:
    assert grid_of("clip_adapter", ["lr=1e-3,1e-2"])["alpha"] == tuple(index / 10 for index in range(11))
    assert grid_of("clip_adapter", ["alpha=0.5", "reduction=2,8"]) == {"alpha": (0.5,), "reduction": (2, 8)}
    with pytest.raises(ConfigError, match="write FIELD=VALUES"):
        grid_of("clip_adapter", ["alpha"])


def test_a_pooled_choice_is_the_best_mean(store: Store) -> None:
    alphas = tuple(index / 10 for index in range(11))
    outcome = fit(store, "clip_adapter", {"alpha": alphas}, choose="pooled")
    chosen = {run.config["alpha"] for run in outcome.chosen}
    assert len(outcome.chosen) == 3
    means = {
        alpha: mean_score([run.selection for run in outcome.runs if run.alpha == alpha and run.selection])
        for alpha in alphas
    }
    best = max(means.values(), key=lambda score: (score.accuracy, -score.loss))
    assert chosen == {alpha for alpha, score in means.items() if score == best}
    assert outcome.choose == "pooled"
    with pytest.raises(UnknownNameError, match="way to choose"):
        fit(store, "clip_adapter", {"alpha": alphas}, choose="best")


def test_kshot_val_takes_as_many_val_images_as_train_ones(store: Store) -> None:
    settings = {"shots": 5, "shot_seeds": (1,)}
    made = search(store, Settings(adapter="zero_shot", grid={}, protocol="kshot-val", **settings), recipe)  # type: ignore[arg-type]
    usual = search(store, Settings(adapter="zero_shot", grid={}, **settings), recipe)  # type: ignore[arg-type]
    assert made.chosen[0].selection is not None
    assert usual.chosen[0].selection is not None
    assert (made.chosen[0].selection.num_rows, usual.chosen[0].selection.num_rows) == (30, 24)
    train, val = store.label("train"), store.label("val")
    more = fewshot.draw(train, val, shots=5, shot_seed=1, max_val_shots=5)
    assert more.train.tolist() == fewshot.draw(train, val, shots=5, shot_seed=1).train.tolist()


def test_views_are_taken_as_asked() -> None:
    task = synthetic.task(shots=2, views=3)
    assert present(task, "turn") is task
    every = present(task, "all")
    assert every.image.shape == (30, 1, 32)
    assert torch.equal(every.rows[:3], task.image[0])
    assert every.label[:4].tolist() == [0, 0, 0, 0]
    mean = present(task, "mean")
    assert torch.allclose(mean.rows[0], normalise(normalise(task.image[0]).mean(dim=0)))
    with pytest.raises(UnknownNameError, match="way of taking views"):
        present(task, "some")
    with pytest.raises(AssertionError, match="views are still apart"):
        _ = task.rows


def test_scores_do_not_hang_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from featcache import selection
    from featcache.loading import Rows

    task = synthetic.task()
    rows = Rows(image=task.image[:, 0], label=task.label)
    method = registry.load("zero_shot")()
    (whole,) = score_each([method], {}, rows, task)
    monkeypatch.setattr(selection, "BLOCK", 7)
    (cut,) = score_each([method], {}, rows, task)
    assert (cut.accuracy, cut.num_rows) == (whole.accuracy, whole.num_rows)
    assert cut.loss == pytest.approx(whole.loss, rel=1e-6)
    assert isinstance(cut, Score)

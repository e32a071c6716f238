"""The batched solver against Newton's method and scikit-learn, and what must hold of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from featcache import registry
from featcache.errors import ConfigError
from featcache.loading import present
from featcache.ops import normalise
from featcache.task import Params, Task
from featcache.training import predict, single_hyper
from tests import synthetic
from tests.references import linear_probe as reference

LinearProbe = registry.load("linear_probe")
STRENGTHS = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)


@pytest.fixture(scope="module")
def task() -> Task:
    """Noisy labels: no classifier is right on all rows, so that weak penalties have a minimum near by."""
    made = present(synthetic.task(shots=10, classes=4, dim=8), "mean")
    return replace(made, label=made.label.where(torch.arange(len(made.label)) % 7 > 0, 0))


def _fit(runs: list[tuple[Task, float]], **fields: float) -> list[Params]:
    method = LinearProbe(**fields)
    hyper = single_hyper(method, torch.device("cpu"))
    return method.solve_runs([(task, {**hyper, "c": torch.tensor(c)}) for task, c in runs])


@pytest.mark.parametrize("c", [1e4, 1e2, 30.0, 1.0, 1e-2])
def test_solution_equals_newtons(task: Task, c: float) -> None:
    weight, bias = reference.fit(task.rows, task.label, task.num_classes, c=c)
    (params,) = _fit([(replace(task, image=task.image.double()), c)], tolerance=1e-7)
    torch.testing.assert_close(params["weight"], weight, rtol=1e-4, atol=1e-5 * weight.abs().max().item())
    torch.testing.assert_close(params["bias"], bias, rtol=1e-4, atol=1e-5 * weight.abs().max().item())


def test_fewer_rows_than_columns_are_solved_in_their_span() -> None:
    """4 classes x 2 rows in 12 columns, and a draw one row shorter, whose padded row must count for nothing."""
    wide = present(synthetic.task(shots=2, classes=4, dim=12), "mean")
    wide = replace(wide, image=wide.image.double())
    shorter = replace(wide, image=wide.image[:-1], label=wide.label[:-1])
    for one, params in zip((wide, shorter), _fit([(wide, 30.0), (shorter, 30.0)], tolerance=1e-8), strict=True):
        weight, bias = reference.fit(one.rows, one.label, one.num_classes, c=30.0)
        torch.testing.assert_close(params["weight"], weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(params["bias"], bias, rtol=1e-4, atol=1e-5)


def test_rounding_along_an_axis_without_spread_makes_no_weights(task: Task) -> None:
    flat = task.rows.clone()
    flat[:, 5:] = 0.3  # but for rounding, what normalising leaves of these columns is a combination of the others
    flat[:, 3:5] = flat[:, :2]
    (params,) = _fit([(replace(task, image=flat[:, None]), 1e6)])
    gap = (params["weight"][3:5] - params["weight"][:2]).abs().max()
    assert gap < 1e-4 * params["weight"].abs().max()


def test_draws_side_by_side_are_solved_as_one_after_the_other(task: Task) -> None:
    runs = [(one, c) for c in (1.0, 1e4) for one in (task, replace(task, label=task.label.flip(0)), task)]
    threads = torch.get_num_threads()
    made = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            made.append(_fit(runs, tolerance=1e-4))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*made, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-2, atol=1e-2 * value.abs().max().item())
    assert (made[1][0]["weight"] - made[1][1]["weight"]).abs().max() > 0.1, "the draws differ"


def test_accuracies_equal_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    tasks = [present(synthetic.task(shots=8, classes=6, dim=24, seed=seed), "mean") for seed in (0, 1)]
    # New rows of the same classes: other noise, same text and shift.
    test = [synthetic.task(shots=300, classes=6, dim=24, seed=seed) for seed in (0, 1)]
    fitted = iter(_fit([(task, c) for task in tasks for c in STRENGTHS], tolerance=0.005))
    for task, rows in zip(tasks, test, strict=True):
        # About the mean: a free bias takes it up, so the minimum is the same. On rows as they are scikit-learn stops
        # short of the bias at small c, where the loss hardly changes.
        mean = normalise(task.rows).double().mean(dim=0)
        train, new = ((normalise(some).double() - mean).numpy() for some in (task.rows, rows.image[:, 1]))
        for c in STRENGTHS:
            slow = linear_model.LogisticRegression(C=c, max_iter=10_000, tol=1e-10).fit(train, task.label.numpy())
            ours = predict(LinearProbe(c=c), next(fitted), rows.image[:, 1], task).argmax(dim=1)
            theirs = torch.from_numpy(slow.predict(new))
            accuracies = [(made == rows.label).double().mean().item() for made in (ours, theirs)]
            assert accuracies[0] == pytest.approx(accuracies[1], abs=0.003), f"c {c:g}"


def test_what_the_default_tolerance_gives_is_near_the_minimum() -> None:
    tasks = [present(synthetic.task(shots=8, classes=10, dim=48, seed=seed), "mean") for seed in range(6)]
    rows = [synthetic.task(shots=200, classes=10, dim=48, seed=seed) for seed in range(6)]
    runs = [(task, c) for task in tasks for c in STRENGTHS]

    def accuracies(**fields: float) -> torch.Tensor:
        fitted = iter(_fit(runs, **fields))
        return torch.tensor(
            [
                [
                    (predict(LinearProbe(c=c), next(fitted), new.image[:, 1], task).argmax(dim=1) == new.label)
                    .double()
                    .mean()
                    for c in STRENGTHS
                ]
                for task, new in zip(tasks, rows, strict=True)
            ]
        )

    gap = (accuracies() - accuracies(tolerance=1e-6)).abs()
    assert gap.mean() < 0.001
    assert gap.max() < 0.005


def test_a_strength_between_two_rungs_is_reached(task: Task) -> None:
    """The first step goes on along the path only as far as the loss falls."""
    whole = replace(task, image=task.image.double())
    strengths = (101.0, 300.0, 15_000.0)
    for c, params in zip(strengths, _fit([(whole, c) for c in strengths], tolerance=1e-7), strict=True):
        weight, _ = reference.fit(task.rows, task.label, task.num_classes, c=c)
        torch.testing.assert_close(params["weight"], weight, rtol=1e-4, atol=1e-5 * weight.abs().max().item())


def test_a_run_fits_the_same_alone_and_among_others(task: Task) -> None:
    shorter = replace(task, image=task.image[:-3], label=task.label[:-3])
    runs = [(one, c) for one in (task, shorter) for c in (*STRENGTHS, 300.0)]
    for run, together in zip(runs, _fit(runs, tolerance=1e-4), strict=True):
        (alone,) = _fit([run], tolerance=1e-4)
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=1e-2, atol=1e-2 * value.abs().max().item())


def test_a_stack_cut_to_bound_memory_gives_the_same(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [(task, c) for c in (1.0, 0.5, 0.1)]
    whole = _fit(runs, tolerance=1e-3)
    monkeypatch.setitem(LinearProbe.solve_runs.__globals__, "STACK", 1)
    for cut, params in zip(_fit(runs, tolerance=1e-3), whole, strict=True):
        torch.testing.assert_close(cut["weight"], params["weight"], rtol=1e-3, atol=1e-4)


def test_a_stronger_penalty_gives_smaller_weights(task: Task) -> None:
    sizes = [params["weight"].norm().item() for params in _fit([(task, c) for c in STRENGTHS])]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 1e-4


def test_a_looser_tolerance_stops_earlier(task: Task) -> None:
    def loss(tolerance: float) -> float:
        (params,) = _fit([(task, 100.0)], tolerance=tolerance)
        whole = torch.cat([params["weight"], params["bias"][None]]).flatten()
        return reference.objective(whole, task.rows, task.label, task.num_classes, 100.0).item()

    assert loss(1e-3) < loss(0.9)


def test_a_class_without_rows_and_broken_rows_end(task: Task) -> None:
    kept = task.label != 2
    (params,) = _fit([(replace(task, image=task.image[kept], label=task.label[kept]), 1e4)])
    assert all(value.isfinite().all() for value in params.values())
    broken = replace(task, image=task.image * float("nan"))
    healthy, lost = _fit([(task, 1.0), (broken, 1.0)])
    assert healthy["weight"].isfinite().all()
    assert not lost["bias"].isfinite().all()


@pytest.mark.parametrize(
    "fields", [{"c": 0.0}, {"c": float("nan")}, {"c": 1e13}, {"tolerance": 0.0}, {"max_iterations": 0}]
)
def test_values_outside_their_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="; got"):
        LinearProbe(**fields)

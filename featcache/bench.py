"""The alpha grid both ways: all runs stacked, and one alpha after another as peers write it. Same start, same batches.

`featcache bench` runs it on a user's own store, benchmarks/alpha_search.py on drawn data of many sizes. No speed is
told unless both ways reach the same parameters and the same accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from featcache.errors import FeatcacheError
from featcache.loading import Rows
from featcache.peer_loop import Classifier, begin, cached_rows, fit_one, make_method
from featcache.recipes import Recipe
from featcache.task import Params, Task
from featcache.timing import matrix_rate, now, ratios, summary, three_digits, turns
from featcache.training import Run, predict, train

WITHIN, TYPICALLY = 0.05, 1e-3
"""Gap between a run's two sets of parameters, by norm, as a share of the way that training moved them: of any run, and
of the median run. Sums taken in another order are 1e-6 apart, but now and then put a hidden unit on the other side of
its ReLU, which is 1e-3 to 1e-2 for the one run."""
ROUNDING, NEARBY, AS_FAR = 1e-6, 5, 2.0
"""A run beyond WITHIN, or more than one row apart, may be one that a rounding decides: near alpha 1 a hidden unit that
changes sides early is learnt from ever after. The loop tells: begun NEARBY times with each weight changed by as little
as sums taken in another order, it must itself end apart, and the stack at most AS_FAR times as far."""
ENOUGH_STEPS = 100
"""Steps of each run that tell the time of one."""


class UnequalError(FeatcacheError):
    """The two ways did not reach the same: there is no speed to tell."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every alpha on every task: what is fitted both ways."""

    alphas: tuple[float, ...]
    tasks: tuple[Task, ...]
    """One a draw."""
    init_seeds: tuple[int, ...]
    """One a task."""
    rows: tuple[Rows, ...]
    """What accuracies are compared on, for each task."""
    recipe: Recipe
    """SGD, its learning rate falling by epoch: what peers train with."""

    @property
    def points(self) -> list[tuple[int, float]]:
        """(task, alpha) of every run, task by task."""
        return [(task, alpha) for task in range(len(self.tasks)) for alpha in self.alphas]

    @property
    def num_trained(self) -> int:
        """Runs of which training changes anything: alpha 0 is zero-shot CLIP."""
        return sum(alpha > 0 for _, alpha in self.points)

    @property
    def num_steps(self) -> int:
        """Steps of each run, by the first task."""
        return self.recipe.epochs * num_batches(len(self.tasks[0].label), self.recipe)

    @property
    def device(self) -> torch.device:
        """Where the tasks are."""
        return self.tasks[0].image.device

    @cached_property
    def cached(self) -> tuple[TensorDataset, ...]:
        """Each task's features as a loop reads them: images (S V, D) and labels (S V,) in main memory."""
        return tuple(cached_rows(task) for task in self.tasks)


class Looped(NamedTuple):
    """What the loop over alphas gave."""

    params: list[Params]
    """Of each run."""
    seconds: list[float]
    """Of each run."""


def shortened(recipe: Recipe, rows: int) -> Recipe:
    """The recipe with as many epochs as tell the time of a step, all at its learning rate: a warm-up moves nothing."""
    epochs = -(-ENOUGH_STEPS // num_batches(rows, recipe))
    return replace(recipe, epochs=min(recipe.epochs, epochs), warmup_lr=None)


def num_batches(rows: int, recipe: Recipe) -> int:
    """Batches of an epoch over some rows."""
    return max(1, rows // recipe.batch_size) if recipe.last_batch == "drop" else -(-rows // recipe.batch_size)


def batch_rows(task: Task, recipe: Recipe) -> int:
    """Rows of a full batch."""
    return min(recipe.batch_size, len(task.label))


def step_flops(task: Task, batch_size: int) -> int:
    """FLOPs of one run's step: the matrix products it cannot do without, and nothing else.

    Five products of the adapter's D x B: two forward, two weight gradients and one gradient to the bottleneck, for the
    first layer's input needs none. Two of the classifier's D x C: its weights need none.
    """
    return 2 * batch_size * (5 * begin(task, 0)["down"].numel() + 2 * task.text.numel())


# -- the two ways ----------------------------------------------------------------------------------------------------


def stacked(grid: Grid) -> list[Params]:
    """The parameters of every run, as a search fits them: all at once."""
    runs = [
        Run(method=make_method(alpha), lr=grid.recipe.lr, draw=task, init_seed=grid.init_seeds[task])
        for task, alpha in grid.points
    ]
    return train(runs, grid.tasks, grid.recipe)


def one_by_one(grid: Grid) -> Looped:
    """The same as peers write it: a loop over alphas."""
    fitted, seconds = [], []
    for index, alpha in grid.points:
        start = now(grid.device)
        task, seed = grid.tasks[index], grid.init_seeds[index]
        fitted.append(fit_one(task, grid.cached[index], alpha, init_seed=seed, recipe=grid.recipe))
        seconds.append(now(grid.device) - start)
    return Looped(fitted, seconds)


# -- the comparison --------------------------------------------------------------------------------------------------


def compare(
    grid: Grid,
    repeats: int,
    *,
    beside: Grid | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, Any]:
    """Both ways timed in turns, and what they reached; raises UnequalError where that differs.

    A grid `beside` has the stack's turns too: told is how long a run of `grid` takes, over a run of that one.
    The share of the matrix rate is the time that the FLOPs of `step_flops` take at the rate of plain products, over the
    time they took: the rate is measured at every turn, right before the stack's, for it wanders on a shared machine.
    """
    whole, grid = grid, cut(grid)
    small = replace(grid, tasks=tuple(_first_rows(task, 3 * grid.recipe.batch_size) for task in grid.tasks))
    stacked(small)  # warms up at little cost
    one_by_one(replace(small, alphas=grid.alphas[-1:]))
    assert len(grid.cached) == len(grid.tasks)  # made before the clock runs: peers have theirs in memory too
    idle: list[float] = []  # what the loop spends on runs that need no training, turn by turn

    def loop() -> list[Params]:
        looped = one_by_one(grid)
        idle.append(sum(spent for spent, (_, alpha) in zip(looped.seconds, grid.points, strict=True) if alpha == 0))
        return looped.params

    rates: list[float] = []
    ways: dict[str, Callable[[], Any]] = {
        "rate": lambda: rates.append(matrix_rate(grid.device)),
        "stacked": lambda: stacked(grid),
    }
    other = cut(beside or grid)
    if beside:
        ways["beside"] = lambda: stacked(other)
    seconds, given = turns({**ways, "loop": loop}, repeats, grid.device, warm_up=0, progress=progress)
    del seconds["rate"]
    seconds_beside = seconds.pop("beside", [])
    trained_only = [whole - part for whole, part in zip(seconds["loop"], idle, strict=True)]
    flops = grid.num_trained * step_flops(grid.tasks[0], batch_rows(grid.tasks[0], grid.recipe))
    at_rate = [grid.num_steps * flops / rate for rate in rates]
    told = {
        "shape": {**_shape(whole), "images a sampled epoch": len(grid.tasks[0].label), "steps": grid.num_steps},
        "seconds": {
            "stacked": summary(seconds["stacked"]),
            "loop": summary(seconds["loop"]),
            "loop without alpha 0": summary(trained_only),
        },
        "ms a step of the whole grid": {
            way: three_digits(1e3 * summary(spent)["median"] / grid.num_steps) for way, spent in seconds.items()
        },
        "seconds an epoch of the whole grid": {
            way: three_digits(summary(spent)["median"] / grid.num_steps * (whole.num_steps / grid.recipe.epochs))
            for way, spent in seconds.items()
        },
        "times as fast": {
            "all alphas of the loop": ratios(seconds["loop"], seconds["stacked"]),
            "trained alphas alone": ratios(trained_only, seconds["stacked"]),
        },
        "GFLOP a step of the trained runs": three_digits(flops / 1e9),
        "matrix product, GFLOP/s, at each turn": [three_digits(rate / 1e9) for rate in rates],
        "share of the matrix rate": {
            "stacked": ratios(at_rate, seconds["stacked"]),
            "loop without alpha 0": ratios(at_rate, trained_only),
        },
        **check_equal(grid, given["stacked"], given["loop"]),
    }
    if beside:
        told["a run, over one beside"] = _per_run(grid, seconds["stacked"], other, seconds_beside)
    return told


def _per_run(grid: Grid, seconds: list[float], other: Grid, beside: list[float]) -> dict[str, float]:
    """Of the stack, turn by turn: a trained run's step over one of the other grid."""
    own, others = (one.num_trained * one.num_steps for one in (grid, other))
    return ratios([spent / own for spent in seconds], [spent / others for spent in beside])


def _shape(grid: Grid) -> dict[str, int]:
    task = grid.tasks[0]
    return {
        "classes": task.num_classes,
        "width": task.dim,
        "images": task.image.shape[0],
        "views": task.image.shape[1],
        "draws": len(grid.tasks),
        "runs": len(grid.points),
        "trained runs": grid.num_trained,
        "batch": batch_rows(task, grid.recipe),
        "epochs": grid.recipe.epochs,
    }


def check_equal(grid: Grid, ours: Sequence[Params], theirs: Sequence[Params]) -> dict[str, Any]:
    """How far apart the two ways ended; raises UnequalError beyond WITHIN, TYPICALLY or one row of accuracy.

    A run that goes further is held against the loop's own spread under roundings (AS_FAR), and told apart.
    """
    gaps, right, sensitive = [], [], []
    for (index, alpha), own, other in zip(grid.points, ours, theirs, strict=True):
        logits = _of_search(grid, index, alpha, own), _of_loop(grid, index, alpha, other)
        right.append([_rows_right(grid, index, each) for each in logits])
        if not alpha:  # alpha 0 is in no logits: the loop only decays its weights
            continue
        gap, rows = _gap(own, other, begin(grid.tasks[index], grid.init_seeds[index])), abs(right[-1][0] - right[-1][1])
        if gap > WITHIN or rows > 1:
            alone_gap, alone_rows = _spread_of_roundings(grid, index, alpha, other)
            if gap > AS_FAR * alone_gap or rows > 1 + AS_FAR * alone_rows:
                raise UnequalError(
                    f"the stacked grid and the loop over alphas ended apart, so there is no speed to tell: at alpha "
                    f"{alpha:g} the parameters by {gap:.2g} of the way trained (at most {WITHIN:g}), rows right by "
                    f"{rows} (at most 1), while the loop begun a rounding away ends {alone_gap:.2g} and {alone_rows} "
                    "rows from itself"
                )
            sensitive.append(
                {
                    "alpha": alpha,
                    "draw": index,
                    "gap": three_digits(gap),
                    "gap of the loop from itself": three_digits(alone_gap),
                    "rows apart": rows,
                    "rows of the loop from itself": alone_rows,
                }
            )
        gaps.append(gap)
    if median(gaps) > TYPICALLY:
        raise UnequalError(
            "the stacked grid and the loop over alphas ended apart, so there is no speed to tell: parameters of the "
            f"median run by {median(gaps):.2g} of the way trained (at most {TYPICALLY:g})"
        )
    return {
        "gap of parameters, of the way trained": {name: three_digits(kind(gaps)) for name, kind in _KINDS.items()},
        "rows right": {"of": len(grid.rows[0].label), "stacked, loop": right},
        "runs that a rounding decides": sensitive,
    }


def _rows_right(grid: Grid, index: int, logits: Tensor) -> int:
    return int((logits.argmax(dim=1) == grid.rows[index].label).sum())


def rows_right(grid: Grid, index: int, alpha: float, params: Params) -> int:
    """Rows that one run of the search gets right."""
    return _rows_right(grid, index, _of_search(grid, index, alpha, params))


@torch.no_grad()
def _of_search(grid: Grid, index: int, alpha: float, params: Params) -> Tensor:
    """(N, C) logits as a search makes them."""
    return predict(make_method(alpha), params, grid.rows[index].image, grid.tasks[index])


@torch.no_grad()
def _of_loop(grid: Grid, index: int, alpha: float, params: Params) -> Tensor:
    """(N, C) logits by torch's own layers."""
    logits: Tensor = Classifier(params, grid.tasks[index], alpha).to(grid.device)(grid.rows[index].image)
    return logits


def _spread_of_roundings(grid: Grid, index: int, alpha: float, ended: Params) -> tuple[float, int]:
    """How far the loop ends from where it ended when it begins a rounding away: the gap and the rows, at most."""
    task, init_seed = grid.tasks[index], grid.init_seeds[index]
    begun, generator = begin(task, init_seed), torch.Generator().manual_seed(0)
    right = _rows_right(grid, index, _of_loop(grid, index, alpha, ended))
    gaps, rows = [], []
    for _ in range(NEARBY):
        nearby = {name: start * (1 + ROUNDING * _signs(start, generator)) for name, start in begun.items()}
        again = fit_one(task, grid.cached[index], alpha, init_seed=init_seed, recipe=grid.recipe, begun=nearby)
        gaps.append(_gap(again, ended, begun))
        rows.append(abs(_rows_right(grid, index, _of_loop(grid, index, alpha, again)) - right))
    return max(gaps), max(rows)


def _signs(start: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers between -1 and 1, one a weight."""
    return (2 * torch.rand(start.shape, generator=generator) - 1).to(start.device)


_KINDS: dict[str, Callable[[list[float]], float]] = {"median": median, "max": max}


def _gap(own: Params, other: Params, begun: Params) -> float:
    """The distance of two sets of parameters over that of the other from the start."""
    apart = sum(float((other[name] - own[name]).square().sum()) for name in begun)
    moved = sum(float((other[name] - begun[name]).square().sum()) for name in begun)
    return math.sqrt(apart / moved) if moved else math.inf


def cut(grid: Grid) -> Grid:
    """The grid with epochs of no more than ENOUGH_STEPS batches, of images from all over each draw.

    A step costs the same, and roundings have not yet grown to what training makes of them in many hundred steps.
    """
    most = ENOUGH_STEPS * grid.recipe.batch_size
    return replace(grid, tasks=tuple(_spread(task, most) for task in grid.tasks))


def _spread(task: Task, most: int) -> Task:
    count = len(task.label)
    if count <= most:
        return task
    chosen = torch.arange(most, device=task.label.device) * count // most
    return replace(task, image=task.image[chosen], label=task.label[chosen])


def _first_rows(task: Task, count: int) -> Task:
    return replace(task, image=task.image[:count], label=task.label[:count])

"""Linear probe: L2-regularised logistic regression on frozen embeddings (Radford et al. 2021, arXiv 2103.00020, A.3).

    minimise over W, b:   c * sum_i cross_entropy(f_i W + b, y_i) + |W|^2 / 2          logits = f W + b

This is scikit-learn's LogisticRegression(C=c), bias unpenalised, as CoOp's lpclip/linear_probe.py (MIT) calls it; the
grid is the seven strengths its search begins with. Its binary search goes on between a tenth and ten times the best
one: give those as a second grid. Departures from CoOp's script:

- Unit embeddings, where CoOp takes raw ones: a strength then means the same for every backbone and for imported unit
  features, and the mean of augmented views, which is unit, has the length of the test rows. On embeddings of length l,
  CoOp's C equals c / l^2 here; the grid's spread covers both.
- A closer solution. scikit-learn stops where the largest entry of the mean loss's gradient is 1e-4, which a weak
  penalty reaches long before it acts: at c 1e6 on 70 classes of genuine features (8 shots) at 92.3 % test accuracy, and
  94.7 % at the minimum. Here the gradient is measured against the penalty's, so a strength means what it says.

All draws are solved in one stack by L-BFGS. Rows are centred (the free bias takes the mean up, so the minimum is the
same and better conditioned), a line search costs no product (logits are linear along the line), and a weak penalty
starts from the solution of the next rung of 1, 100, 1e4, .. below it. The rungs do not hang on the grid, so a run has
the same path alone and among others; those the grid asks for anyway come free.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import normalise
from featcache.task import Frozen, Hyper, Params, Task

MEMORY = 5
"""Steps L-BFGS looks back on: twice as many save a tenth of the steps, and each costs more than that."""
RUNG = 100.0
"""Ratio of neighbouring strengths on the path."""
STACK = 2**26
"""Logits (runs x images x classes) worked on at once: bounds memory."""


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A linear classifier on unit image embeddings; text is not used."""

    needs: ClassVar[frozenset[str]] = frozenset()
    transfers: ClassVar[bool] = False
    views: ClassVar[str] = "mean"
    post_hoc: ClassVar[tuple[str, ...]] = ()
    grid: ClassVar[Mapping[str, str]] = {"c": "1e6,1e4,1e2,1,1e-2,1e-4,1e-6"}

    c: float = 100.0
    """Inverse strength of the penalty, above 0: scikit-learn's C. Default: the grid's choice at 16 shots on the
    two sets of genuine features tried; at 8 shots 1e4 and 1e6 were chosen too."""
    tolerance: float = 0.05
    """A fit stops when c |gradient| is at most this share of |W|, between 0 and 1; the penalty's curvature then bounds
    W's distance to the minimum by that share. Default: accuracies within 0.1 point of the
    minimum's on the genuine features of benchmarks/linear_probe.py."""
    max_iterations: int = 1000
    """Steps after which a fit stops in any case, for each strength on its path. Default: CoOp's."""

    def __post_init__(self) -> None:
        if not 0 < self.c <= 1e12:
            raise ConfigError(f"c is the inverse strength of the penalty, above 0 and at most 1e12; got {self.c:g}")
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"tolerance bounds a gradient and is between 0 and 1; got {self.tolerance:g}")
        if self.max_iterations < 1:
            raise ConfigError(f"max_iterations counts steps and is at least 1; got {self.max_iterations}")

    def solve(self, task: Task, hyper: Hyper) -> Params:
        """`weight` (D, C) and `bias` (C,)."""
        (params,) = self.solve_runs([(task, hyper)])
        return params

    def solve_runs(self, runs: Sequence[tuple[Task, Hyper]]) -> list[Params]:
        """The same for each run; strengths share their draw's path, draws share a stack."""
        tasks = {id(task): task for task, _ in runs}
        design = _Design.of(list(tasks.values()))
        place = {key: index for index, key in enumerate(tasks)}
        wanted = [(place[id(task)], float(hyper["c"]), float(hyper["tolerance"])) for task, hyper in runs]
        solved = self._along_paths(design, wanted)
        return [design.params(draw, solved[draw, c, tolerance]) for draw, c, tolerance in wanted]

    def _along_paths(self, design: _Design, wanted: Sequence[_Node]) -> dict[_Node, Tensor]:
        """The solution (D + 1, C) of every wanted node and of the rungs below it, rung by rung."""
        paths = {node: _path(node) for node in wanted}
        solved: dict[_Node, Tensor] = {}
        for stage in range(max(len(path) for path in paths.values())):
            begin = {path[stage]: path[stage - 1] if stage else None for path in paths.values() if stage < len(path)}
            for low in range(0, len(begin), design.runs_at_once):
                nodes = list(begin)[low : low + design.runs_at_once]
                start = torch.stack([design.zero if (at := begin[node]) is None else solved[at] for node in nodes])
                solved.update(zip(nodes, _minimise(design.for_runs(nodes), start, self.max_iterations), strict=True))
        return solved

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:  # noqa: ARG002
        """(N, C) from raw images (N, D)."""
        return torch.addmm(params["bias"], normalise(image), params["weight"])


_Node = tuple[int, float, float]
"""A fit: draw, strength, tolerance."""


def _path(node: _Node) -> list[_Node]:
    """The fits that lead to one, itself last: the rungs below its strength, which hang on nothing else."""
    draw, c, tolerance = node
    rungs = itertools.takewhile(lambda rung: rung < c, (RUNG**power for power in itertools.count()))
    return [*((draw, rung, tolerance) for rung in rungs), node]


@dataclass(frozen=True, kw_only=True)
class _Design:
    """Some draws' rows, centred, with a column of ones for the bias; short draws are padded with rows of no weight."""

    image: Tensor
    """(G, N, D + 1)."""
    mean: Tensor
    """(G, D) what was taken off the rows."""
    label: Tensor
    """(G, N)."""
    weight: Tensor
    """(G, N) 1, or 0 for a padded row."""
    num_classes: int

    @staticmethod
    def of(tasks: Sequence[Task]) -> _Design:
        rows = [normalise(task.rows) for task in tasks]
        means = torch.stack([row.mean(dim=0) for row in rows])
        centred = [
            torch.cat([row - mean, torch.ones_like(row[:, :1])], 1) for row, mean in zip(rows, means, strict=True)
        ]
        pad = torch.nn.utils.rnn.pad_sequence
        return _Design(
            image=pad(centred, batch_first=True),
            mean=means,
            label=pad([task.label for task in tasks], batch_first=True),
            weight=pad([torch.ones_like(row[:, 0]) for row in rows], batch_first=True),
            num_classes=tasks[0].num_classes,
        )

    @property
    def runs_at_once(self) -> int:
        return max(1, STACK // (self.label.shape[1] * self.num_classes))

    @property
    def zero(self) -> Tensor:
        return self.image.new_zeros(self.image.shape[2], self.num_classes)

    def for_runs(self, nodes: Sequence[_Node]) -> _Problem:
        draw = torch.tensor([node[0] for node in nodes], device=self.label.device)
        penalty = 1 / torch.tensor([node[1] for node in nodes]).to(self.image)
        tolerance = torch.tensor([node[2] for node in nodes]).to(self.image)
        return _Problem(
            image=self.image.expand(len(nodes), -1, -1) if len(self.image) == 1 else self.image[draw],
            label=self.label[draw][:, :, None],
            weight=self.weight[draw][:, :, None],
            penalty=penalty[:, None, None] * _all_but_last(self.image),
            enough=tolerance * penalty,
        )

    def params(self, draw: int, fitted: Tensor) -> Params:
        weight, bias = fitted[:-1], fitted[-1]
        return {"weight": weight.clone(), "bias": bias - self.mean[draw] @ weight}


def _all_but_last(image: Tensor) -> Tensor:
    """(D + 1, 1) ones, and 0 for the bias, which is not penalised."""
    penalised = image.new_ones(image.shape[2], 1)
    penalised[-1] = 0
    return penalised


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """R runs: each minimises its summed cross-entropy plus penalty / 2 |W|^2 over W (D + 1, C)."""

    image: Tensor
    """(R, N, D + 1)."""
    label: Tensor
    """(R, N, 1)."""
    weight: Tensor
    """(R, N, 1)."""
    penalty: Tensor
    """(R, D + 1, 1): 1 / c, 0 for the bias."""
    enough: Tensor
    """(R,) a run is done when its gradient is at most this many times as long as its weights: tolerance / c."""

    def keep(self, runs: Tensor) -> _Problem:
        return replace(self, **{name: value[runs] for name, value in vars(self).items()})

    def error(self, logits: Tensor) -> Tensor:
        """(R, N, C) gradient of the summed cross-entropy with respect to the logits.

        A row's own entry is minus the sum of the others: p - 1 would lose all digits where p is near 1.
        """
        error = logits.softmax(dim=2).scatter_(2, self.label, 0.0)
        return error.scatter_(2, self.label, -error.sum(dim=2, keepdim=True)).mul_(self.weight)

    def gradient(self, fitted: Tensor, error: Tensor) -> Tensor:
        """(R, D + 1, C) at parameters and the error of their logits."""
        return torch.baddbmm(self.penalty * fitted, self.image.mT, error)


def _minimise(problem: _Problem, fitted: Tensor, max_iterations: int) -> Tensor:
    """(R, D + 1, C) the minima from given starts, by L-BFGS; a run that is done leaves the stack."""
    result = fitted.clone()
    runs = torch.arange(len(fitted), device=fitted.device)
    logits = torch.bmm(problem.image, fitted)
    gradient = problem.gradient(fitted, problem.error(logits))
    memory: list[_Pair] = []
    for _ in range(max_iterations):
        # Written so that a run whose gradient is not a number is done too.
        going = _length(gradient) > problem.enough * _length(fitted[:, :-1])
        if not going.all():
            result[runs[~going]] = fitted[~going]
            if not going.any():
                return result
            runs, problem, fitted = runs[going], problem.keep(going), fitted[going]
            logits, gradient = logits[going], gradient[going]
            memory = [pair.keep(going) for pair in memory]
        direction = _direction(gradient, memory)
        line = _Line.of(problem, fitted, direction, gradient, logits)
        step, error = line.search(line.newton_step() if not memory else torch.ones_like(line.start))
        moved = step * direction
        fitted = fitted + moved
        logits = logits.addcmul_(step, line.along)
        before, gradient = gradient, problem.gradient(fitted, error)
        memory = [*memory[-MEMORY + 1 :], _Pair.of(moved, gradient - before)]
    result[runs] = fitted
    return result


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One remembered step: how the parameters moved and how the gradient changed, (R, D + 1, C) each."""

    moved: Tensor
    changed: Tensor
    product: Tensor
    """(R, 1, 1) of the two: above 0, as the loss is convex, unless rounding says otherwise."""

    @staticmethod
    def of(moved: Tensor, changed: Tensor) -> _Pair:
        return _Pair(moved=moved, changed=changed, product=_dot(moved, changed))

    def keep(self, runs: Tensor) -> _Pair:
        return _Pair(moved=self.moved[runs], changed=self.changed[runs], product=self.product[runs])

    def share(self, vector: Tensor, other: Tensor) -> Tensor:
        return torch.where(self.product > 0, _dot(vector, other) / self.product, 0)


def _direction(gradient: Tensor, memory: Sequence[_Pair]) -> Tensor:
    """(R, D + 1, C) minus the inverse Hessian's estimate times the gradient (Nocedal and Wright, algorithm 7.4)."""
    direction = -gradient
    shares = []
    for pair in reversed(memory):
        share = pair.share(pair.moved, direction)
        direction = direction.addcmul_(share, pair.changed, value=-1)
        shares.append(share)
    if memory:
        last = memory[-1]
        scale = last.product / _dot(last.changed, last.changed)
        direction = direction.mul_(torch.where(last.product > 0, scale, 1))
    for pair, share in zip(memory, reversed(shares), strict=True):
        direction = direction.addcmul_(share - pair.share(pair.changed, direction), pair.moved)
    return direction


@dataclass(frozen=True, kw_only=True)
class _Line:
    """The loss along a direction from the present point: convex, and without products, as logits are linear on it."""

    problem: _Problem
    logits: Tensor
    """(R, N, C) at the present point."""
    along: Tensor
    """(R, N, C) how they change over a step of 1."""
    start: Tensor
    """(R, 1, 1) slope at the present point, below 0."""
    linear: Tensor
    square: Tensor
    """(R, 1, 1) the penalty's slope: linear + step x square."""

    @staticmethod
    def of(problem: _Problem, fitted: Tensor, direction: Tensor, gradient: Tensor, logits: Tensor) -> _Line:
        held = problem.penalty * direction
        return _Line(
            problem=problem,
            logits=logits,
            along=torch.bmm(problem.image, direction),
            start=_dot(gradient, direction),
            linear=_dot(held, fitted),
            square=_dot(held, direction),
        )

    def at(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """The logits' error (R, N, C) and the slope (R, 1, 1) after a step."""
        error = self.problem.error(torch.addcmul(self.logits, step, self.along))
        return error, _dot(error, self.along) + self.linear + step * self.square

    def newton_step(self) -> Tensor:
        """(R, 1, 1) where the loss would be least if it were the parabola it is near the present point."""
        chance = self.logits.softmax(dim=2) * self.problem.weight
        mean = (chance * self.along).sum(dim=2, keepdim=True)
        return -self.start / (_dot(chance, (self.along - mean).square()) + self.square)

    def search(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (R, 1, 1) where the loss is nearly flat, tried from given ones, and the logits' error there.

        Its slope alone brackets the minimum. A step is taken where the slope is between 0.9 of the first, still
        falling, and half of it, rising.
        """
        low, low_slope, high = torch.zeros_like(step), self.start, torch.full_like(step, torch.inf)
        for _ in range(20):
            error, slope = self.at(step)
            short, long = slope < 0.9 * self.start, slope > -0.5 * self.start
            if not (short | long).any():
                break
            low, low_slope = torch.where(short, step, low), torch.where(short, slope, low_slope)
            high = torch.where(long, step, high)
            secant = (low_slope / (low_slope - slope)).clamp(0.1, 0.9)
            inside = low + (high - low) * torch.where(long, secant, 0.5)
            step = torch.where(short | long, torch.where(high.isinf(), 4 * step, inside), step)
        return step, error


def _length(parameters: Tensor) -> Tensor:
    """(R,) Euclidean length of each run's parameters."""
    length: Tensor = torch.linalg.vector_norm(parameters.flatten(1), dim=1)
    return length


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """(R, 1, 1) inner products of each run's entries."""
    product: Tensor = torch.linalg.vecdot(left.flatten(1), right.flatten(1))
    return product[:, None, None]

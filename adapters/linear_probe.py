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
  94.7 % at the minimum. Here a fit ends when the weights have little further to go, so a strength means what it says.

All strengths are solved in one stack by L-BFGS, draws side by side on the cores of a CPU. Rows are centred (the free
bias takes the mean up, so the minimum is the same) and turned to their principal axes. There the Hessian is nearly
diagonal: the rows' spread along an axis times the sum of p (1 - p) over rows, plus the penalty. So one decomposition a
draw serves every strength: dividing by that diagonal is nearly a Newton step, and L-BFGS mends the rest. A line search
costs no product (logits are linear along the line). A weak penalty is reached by the rungs 1, 100, 1e4, .. below it:
a fit starts from the last rung's solution, and its first step goes on along the line from the one before, for where
classes can be separated weights grow with the logarithm of c. The rungs do not hang on the grid, so a run has the same
path alone and among others; those the grid asks for anyway come free.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import normalise
from featcache.task import Frozen, Hyper, Params, Task
from featcache.threads import side_by_side

MAX_PARTS = 4
"""Cores that draws are shared out among."""
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
    tolerance: float = 0.01
    """A fit stops when a Newton step, its Hessian taken as diagonal, is at most this share of |W|; between 0 and 1.
    Default: at 8 and 16 shots every accuracy within 0.2 point of the minimum's on the two sets of genuine features
    tried (70 objects, 47 textures), at 1 shot within 0.5."""
    max_iterations: int = 1000
    """Steps after which a fit stops in any case, for each strength on its path. Default: CoOp's."""

    def __post_init__(self) -> None:
        if not 0 < self.c <= 1e12:
            raise ConfigError(f"c is the inverse strength of the penalty, above 0 and at most 1e12; got {self.c:g}")
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"tolerance bounds a step and is between 0 and 1; got {self.tolerance:g}")
        if self.max_iterations < 1:
            raise ConfigError(f"max_iterations counts steps and is at least 1; got {self.max_iterations}")

    def solve(self, task: Task, hyper: Hyper) -> Params:
        """`weight` (D, C) and `bias` (C,)."""
        (params,) = self.solve_runs([(task, hyper)])
        return params

    def solve_runs(self, runs: Sequence[tuple[Task, Hyper]]) -> list[Params]:
        """The same for each run; strengths share their draw's path, and draws that are not side by side a stack."""
        parts = _parts([task for task, _ in runs])

        def solve_part(part: list[int]) -> list[Params]:
            return self._solve_stack([runs[index] for index in part])

        if len(parts) == 1:
            return solve_part(parts[0])
        with side_by_side(len(parts), each=torch.get_num_threads() // len(parts)) as pool:
            solved = dict(itertools.chain(*map(zip, parts, pool.map(solve_part, parts))))
        return [solved[index] for index in range(len(runs))]

    def _solve_stack(self, runs: Sequence[tuple[Task, Hyper]]) -> list[Params]:
        tasks = {id(task): task for task, _ in runs}
        design = _Design.of(list(tasks.values()))
        place = {key: index for index, key in enumerate(tasks)}
        wanted = [(place[id(task)], float(hyper["c"]), float(hyper["tolerance"])) for task, hyper in runs]
        solved = self._along_paths(design, wanted)
        return [design.params(node[0], solved[node]) for node in wanted]

    def _along_paths(self, design: _Design, wanted: Sequence[_Node]) -> dict[_Node, Tensor]:
        """The solution (Q + 1, C) of every wanted node and of the rungs below it, rung by rung."""
        paths = {node: _path(node) for node in wanted}
        solved: dict[_Node, Tensor] = {}

        def below(node: _Node, rungs: int) -> Tensor:
            path = paths_to[node]
            return solved[path[-rungs]] if len(path) >= rungs else design.zero

        for stage in range(max(len(path) for path in paths.values())):
            paths_to = {path[stage]: path[:stage] for path in paths.values() if stage < len(path)}
            for low in range(0, len(paths_to), design.runs_at_once):
                nodes = list(paths_to)[low : low + design.runs_at_once]
                last, before = (torch.stack([below(node, rungs) for node in nodes]) for rungs in (1, 2))
                found = _minimise(design.for_runs(nodes), last, last - before, self.max_iterations)
                solved.update(zip(nodes, found, strict=True))
        return solved

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:  # noqa: ARG002
        """(N, C) from raw images (N, D)."""
        return torch.addmm(params["bias"], normalise(image), params["weight"])


_Node = tuple[int, float, float]
"""A fit: draw, strength, tolerance."""


def _parts(tasks: Sequence[Task]) -> list[list[int]]:
    """The runs, by index, that each core solves: those of a draw together, and all where there is no CPU to share."""
    draws = list(dict.fromkeys(map(id, tasks)))
    cores = min(torch.get_num_threads(), MAX_PARTS, len(draws)) if tasks[0].image.device.type == "cpu" else 1
    return [[run for run, task in enumerate(tasks) if draws.index(id(task)) % cores == core] for core in range(cores)]


def _path(node: _Node) -> list[_Node]:
    """The fits that lead to one, itself last: the rungs below its strength, which hang on nothing else."""
    draw, c, tolerance = node
    rungs = itertools.takewhile(lambda rung: rung < c, (RUNG**power for power in itertools.count()))
    return [*((draw, rung, tolerance) for rung in rungs), node]


@dataclass(frozen=True, kw_only=True)
class _Design:
    """Some draws' rows, centred and along their axes, with a column of ones for the bias.

    Short draws are padded with rows of no weight. Q is the number of axes, the lesser of N and D.
    """

    image: Tensor
    """(G, N, Q + 1)."""
    mean: Tensor
    """(G, D) what was taken off the rows."""
    axes: Tensor
    """(G, D, Q) what the rows were turned into."""
    label: Tensor
    """(G, N)."""
    weight: Tensor
    """(G, N) 1, or 0 for a padded row."""
    num_classes: int

    @staticmethod
    def of(tasks: Sequence[Task]) -> _Design:
        rows = [normalise(task.rows) for task in tasks]
        means = torch.stack([row.mean(dim=0) for row in rows])
        pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
        weight = pad([torch.ones_like(row[:, 0]) for row in rows])
        turned, axes = _along_axes(pad([row - mean for row, mean in zip(rows, means, strict=True)]))
        return _Design(
            image=torch.cat([turned, weight[:, :, None]], dim=2),
            mean=means,
            axes=axes,
            label=pad([task.label for task in tasks]),
            weight=weight,
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
            spread=(self.image.square().sum(dim=1) / self.weight.sum(dim=1, keepdim=True))[draw][:, :, None],
            penalty=F.pad(penalty[:, None, None].expand(-1, self.axes.shape[2], -1), (0, 0, 0, 1)),  # none for the bias
            tolerance=tolerance,
        )

    def params(self, draw: int, fitted: Tensor) -> Params:
        """On rows as they are. A shift of all biases changes no probability: of those minima, the one of mean 0."""
        weight = self.axes[draw] @ fitted[:-1]
        bias = fitted[-1] - self.mean[draw] @ weight
        return {"weight": weight, "bias": bias - bias.mean()}


def _along_axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Centred rows (G, N, D) along their principal axes (G, N, Q), and the axes (G, D, Q); Q is the lesser of N and D.

    Along an axis on which they do not differ but by rounding rows are 0: a weak penalty would make weights of it.
    """
    num_rows, dim = rows.shape[1:]
    span = torch.linalg.qr(rows.mT).Q if num_rows < dim else None  # (G, D, N)
    inner = rows if span is None else rows @ span  # (G, N, Q)
    products = inner.mT @ inner
    # A draw with NaN keeps its NaN, but has no axes, and must not keep the others from theirs.
    whole = products.isfinite().all(dim=2).all(dim=1)[:, None, None]
    spread, turn = torch.linalg.eigh(torch.where(whole, products, torch.eye(products.shape[1]).to(products)))
    least = max(num_rows, dim) * torch.finfo(rows.dtype).eps * spread[:, -1:]
    turned = (inner @ turn) * (spread > least)[:, None]
    return turned, turn if span is None else span @ turn


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """R runs: each minimises its summed cross-entropy plus penalty / 2 |W|^2 over W (Q + 1, C)."""

    image: Tensor
    """(R, N, Q + 1)."""
    label: Tensor
    """(R, N, 1)."""
    weight: Tensor
    """(R, N, 1)."""
    spread: Tensor
    """(R, Q + 1, 1) the mean square of each column of the rows."""
    penalty: Tensor
    """(R, Q + 1, 1): 1 / c, 0 for the bias."""
    tolerance: Tensor
    """(R,) a run is done when a Newton step is at most this share of its weights' length."""

    def keep(self, runs: Tensor) -> _Problem:
        return replace(self, **{name: value[runs] for name, value in vars(self).items()})

    def error(self, logits: Tensor) -> Tensor:
        """(R, N, C) gradient of the summed cross-entropy with respect to the logits.

        A row's own entry is minus the sum of the others: p - 1 would lose all digits where p is near 1.
        """
        error = logits.softmax(dim=2).scatter_(2, self.label, 0.0)
        return error.scatter_(2, self.label, -error.sum(dim=2, keepdim=True)).mul_(self.weight)

    def gradient(self, fitted: Tensor, error: Tensor) -> Tensor:
        """(R, Q + 1, C) at parameters and the error of their logits."""
        return torch.baddbmm(self.penalty * fitted, self.image.mT, error)

    def inverse(self, error: Tensor) -> Tensor:
        """(R, Q + 1, C) one over the Hessian's diagonal, were rows' p (1 - p) and their squares independent.

        The bias counts as penalised here: under a strong penalty its gradient is rounding, not to be made a step of.
        """
        # p is the error where it is not the label's, and 1 - |error| where it is: p (1 - p) is the same of both.
        curvature = (error.abs() - error.square()).sum(dim=1, keepdim=True)  # (R, 1, C)
        return (self.penalty[:, :1] + self.spread * curvature).reciprocal_()


def _minimise(problem: _Problem, fitted: Tensor, onward: Tensor, max_iterations: int) -> Tensor:
    """(R, Q + 1, C) the minima from given starts, by L-BFGS; a run that is done leaves the stack.

    The first step is along `onward` (R, Q + 1, C) where the loss falls that way.
    """
    result = fitted.clone()
    runs = torch.arange(len(fitted), device=fitted.device)
    logits = torch.bmm(problem.image, fitted)
    error = problem.error(logits)
    gradient = problem.gradient(fitted, error)
    memory: list[_Pair] = []
    for _ in range(max_iterations):
        inverse = problem.inverse(error)
        # Written so that a run whose gradient is not a number is done too.
        going = _length(inverse * gradient) > problem.tolerance * _length(fitted[:, :-1])
        if not going.all():
            result[runs[~going]] = fitted[~going]
            if not going.any():
                return result
            runs, problem, fitted = runs[going], problem.keep(going), fitted[going]
            logits, gradient, inverse, onward = logits[going], gradient[going], inverse[going], onward[going]
            memory = [pair.keep(going) for pair in memory]
        if memory:
            direction = _direction(gradient, memory, inverse)
            line = _Line.of(problem, fitted, direction, gradient, logits)
            tried = torch.ones_like(line.start)
        else:
            falls = _dot(gradient, onward) < 0
            direction = torch.where(falls, onward, -inverse * gradient)
            line = _Line.of(problem, fitted, direction, gradient, logits)
            tried = torch.where(falls, 1.0, line.newton_step())
        step, error = line.search(tried)
        moved = step * direction
        fitted = fitted + moved
        logits = logits.addcmul_(step, line.along)
        before, gradient = gradient, problem.gradient(fitted, error)
        memory = [*memory[-MEMORY + 1 :], _Pair.of(moved, gradient - before)]
    result[runs] = fitted
    return result


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One remembered step: how the parameters moved and how the gradient changed, (R, Q + 1, C) each."""

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


def _direction(gradient: Tensor, memory: Sequence[_Pair], inverse: Tensor) -> Tensor:
    """(R, Q + 1, C) minus the inverse Hessian's estimate times the gradient (Nocedal and Wright, algorithm 7.4)."""
    direction = -gradient
    shares = []
    for pair in reversed(memory):
        share = pair.share(pair.moved, direction)
        direction = direction.addcmul_(share, pair.changed, value=-1)
        shares.append(share)
    direction = direction.mul_(inverse)
    if memory:
        last = memory[-1]
        scale = last.product / _dot(last.changed, inverse * last.changed)
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

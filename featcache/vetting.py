"""Looks a method over before it is relied on: tried on a few rows, does it give what a method must?

A method is a file of anyone's, and most of what can be wrong with it shows on three images: a shape, a dtype, a
gradient that reaches no parameter, an input written over. Tried so, it is told in words of the contract, not by an
error from within the engine. It costs a handful of calls for each stack of runs, none for each run or step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from featcache.errors import BreachError, MethodError, SpoiltError
from featcache.faults import Place, blame, check_scores, kind_of, lent, shared
from featcache.task import Factored, Frozen, Hyper, Method, Params, Penalised, Swept, Task, Trained, swept_fields
from featcache.training import _way_of, single_hyper, stack_hyper

ROWS = 3
"""Rows tried: the fewest that are neither one nor, but for data sets of three, as many as classes."""


def vet(methods: Sequence[Method], served: Sequence[Method], task: Task) -> None:
    """Raises MethodError where some trained methods that share a stack do not give what training takes from them.

    The first that is trained answers for all, but for what only shows on two: the last is set beside it. `served` are
    those that predict from the first's fit.
    """
    stack = cast(Sequence[Trained], methods)
    with blame(stack[0], "inert"):
        moved = [method for method in stack if not method.inert]
    first, last = (moved or stack)[0], (moved or stack)[-1]
    trial = _Trial(first, task)
    with blame(first, "init", shared(task)):
        starts = [method.init(task, torch.Generator().manual_seed(seed)) for method, seed in ((first, 1), (last, 2))]
        trial.check_start(starts[0], "init")
        before = {name: value.clone() for name, value in starts[0].items()}
        again = first.init(task, torch.Generator().manual_seed(1))
    trial.check_starts(before, starts, again)
    _check_any(served, starts[0], task)
    if moved:
        trial.check_steps((first, last), starts)


def vet_solved(served: Sequence[Method], made: object, num_runs: int, task: Task) -> None:
    """Raises MethodError where a method has not solved one dict of tensors for each run, or where `served`, which
    predict from the first, give no usable logits; `task` is the first's."""
    trial = _Trial(served[0], task)
    if not isinstance(made, list) or len(made) != num_runs:
        raise trial.place.breach(f"gives {kind_of(made)} from solve_runs; it must give a list of one dict for each run")
    for params in made:
        trial.check_tensors(params, "solve")
    _check_any(served, made[0], task)


def _check_any(served: Sequence[Method], params: Params, task: Task) -> None:
    """The logits of the first that gives any: where another raises, it will be told when it is to predict."""
    for number, method in enumerate(served):
        try:
            _Trial(method, task).check_logits(params)
        except (BreachError, SpoiltError):
            raise
        except MethodError:
            if number + 1 == len(served):
                raise
        else:
            return


class _Trial:
    """A method on copies of the first few rows of a task; what it gives is checked, and that it leaves them alone."""

    def __init__(self, method: Method, task: Task) -> None:
        self.method = method
        self.place = Place.of(method)
        self.task = task
        # What predictions are given: a method that reads the task's images in `logits` would fail only then.
        self.frozen = Frozen(**{field.name: getattr(task, field.name) for field in fields(Frozen)})
        self.image = task.image[:ROWS, 0].clone()  # (n, D)
        self.label = task.label[:ROWS].clone()
        self.usable = bool(self.image.isfinite().all())
        self.hyper: Hyper = single_hyper(method, task.image.device)

    def check_tensors(self, params: object, stage: str) -> None:
        if not isinstance(params, Mapping) or not all(isinstance(value, Tensor) for value in params.values()):
            raise self.place.breach(f"gives {kind_of(params)} from {stage}; it must give a dict of tensors by name")

    def check_start(self, params: Params, stage: str) -> None:
        """A usable start of one run."""
        self.check_tensors(params, stage)
        constant = cast(Trained, self.method).constant
        learnt = {name: value for name, value in params.items() if name not in constant}
        if not learnt:
            raise self.place.breach(
                f"gives no parameter to train from {stage}: it names {', '.join(constant) or 'none'}"
            )
        for name, value in learnt.items():
            if value.dtype != self.image.dtype:
                raise self.place.breach(
                    f"gives {name} as {_name(value.dtype)} from {stage}; it must be {_name(self.image.dtype)}, "
                    f"as images are: {name}.to(task.image.dtype)"
                )
            if self.usable and not value.isfinite().all():
                raise self.place.error(f"gives {name} with NaN or infinite values from {stage}, before any step")

    def check_starts(self, before: Params, starts: Sequence[Params], again: Params) -> None:
        """That runs can be stacked, and that nothing but the generator decides where one starts."""
        shapes = [{name: tuple(value.shape) for name, value in start.items()} for start in starts]
        if shapes[0] != shapes[1]:
            raise self.place.breach(
                f"gives unequal parameters from init, {shapes[0]} and {shapes[1]}; runs that differ in float fields "
                "or seed alone share a stack and must have the same names and shapes"
            )
        if not all(_alike(starts[0][name], value) for name, value in before.items()):
            raise self.place.spoilt("what an earlier init gave")
        if again.keys() != before.keys() or not all(_alike(again[name], value) for name, value in before.items()):
            raise self.place.breach(
                "gives other parameters from init for the same generator; all randomness must come from the "
                "generator, as in torch.randn(n, generator=generator), or no run can be repeated"
            )

    def check_logits(self, params: Params) -> None:
        """Class scores of three rows and of one, in one call and swept."""
        text = self.task.text.clone()
        with torch.no_grad():
            for rows in (self.image, self.image[:1]):
                with self._watch(params):
                    self._check_scores(self.method.logits(params, rows, self.frozen, self.hyper), len(rows), "logits")
            if isinstance(self.method, Swept):
                with self._watch(params):
                    for scores in self.method.sweep(params, self.image, self.frozen, [self.hyper, self.hyper]):
                        self._check_scores(scores, len(self.image), "sweep")
        self._check_inputs(text)

    def _watch(self, params: Params) -> AbstractContextManager[None]:
        return blame(self.method, "logits", [("its labels", self.label), *lent(params, self.image, self.task)])

    def _check_scores(self, scores: object, num_rows: int, stage: str) -> None:
        scores = check_scores(self.method, scores, num_rows, self.frozen, stage)
        if scores.dtype != self.image.dtype:
            raise self.place.breach(
                f"gives {_name(scores.dtype)} from {stage}; it must give {_name(self.image.dtype)}, as images are"
            )
        if self.usable and not scores.isfinite().all():
            raise self.place.error(f"gives NaN or infinite scores from {stage} on the first training images")

    def _check_inputs(self, text: Tensor) -> None:
        """By value too: what is written through NumPy or `.data` leaves no trace on a tensor's version."""
        if not _alike(self.image, self.task.image[:ROWS, 0]) or not _alike(self.label, self.task.label[:ROWS]):
            raise self.place.spoilt("its rows")
        if not _alike(self.task.text, text):
            raise self.place.spoilt("frozen.text")

    def check_steps(self, methods: tuple[Trained, Trained], starts: Sequence[Params]) -> None:
        """That each run's loss reaches its parameters, and that a stack of two has each run's own gradient."""
        text = self.task.text.clone()
        alone = [self._gradient(method, start) for method, start in zip(methods, starts, strict=True)]
        constant = methods[0].constant
        stacked = {
            name: torch.stack([start[name] for start in starts]).detach().requires_grad_(name not in constant)
            for name in starts[0]
        }
        hyper = stack_hyper(methods, self.task.image.device)
        batch = (self.image.expand(2, -1, -1), self.label.expand(2, -1))
        stage = "gradient_factors" if isinstance(methods[0], Factored) and methods[0].by_hand else "a stack of runs"
        with self._watch(stacked), torch.enable_grad():
            found = _way_of(methods[0])(methods[0], stacked, batch, self.frozen, hyper)
            if found.keys() != alone[0].keys():
                lacking = ", ".join(sorted(alone[0].keys() ^ found.keys()))
                raise self.place.breach(
                    f"must give one gradient for each parameter from {stage}, and does not: {lacking}"
                )
            whole = {
                name: value if isinstance(value, Tensor) else value[0].mT @ value[1] for name, value in found.items()
            }
        self._check_inputs(text)
        for name, gradient in whole.items():
            wanted = torch.stack([each[name] for each in alone])
            # Where the gradient is zero, either way leaves rounding of its terms, which are of the scale's size.
            rounding = 1e-6 * self.frozen.logit_scale
            if gradient.shape != wanted.shape or not _alike(gradient, wanted, slack=1e-2, floor=rounding):
                fields = ", ".join(swept_fields(methods[0])) or "a float field"
                raise self.place.breach(
                    f"has another gradient of {name} from {stage} than from one run alone; logits and loss must read "
                    f"{fields} from `hyper`, where each run has its own, never from `self`"
                    if stage != "gradient_factors"
                    else f"has another gradient of {name} from {stage} than autograd of its logits"
                )

    def _gradient(self, method: Trained, start: Params) -> Params:
        """The gradient of one run's loss by its learnt parameters."""
        params = {name: value.detach().clone() for name, value in start.items()}
        learnt = {name: value.requires_grad_() for name, value in params.items() if name not in method.constant}
        hyper = single_hyper(method, self.task.image.device)
        stage = "loss" if isinstance(method, Penalised) else "logits"
        with self._watch(params), torch.enable_grad():
            if isinstance(method, Penalised):
                loss = method.loss(params, self.image, self.label, self.frozen, hyper)
            else:
                loss = F.cross_entropy(method.logits(params, self.image, self.frozen, hyper), self.label)
            if not isinstance(loss, Tensor) or loss.shape != ():
                raise self.place.breach(f"gives {kind_of(loss)} from {stage}; it must give one number, a tensor ()")
            if self.usable and not loss.isfinite():
                raise self.place.error(f"gives a loss of {loss.item()} from {stage} at its start, before any step")
            values = list(learnt.values())
            found = torch.autograd.grad(loss, values, allow_unused=True) if loss.requires_grad else [None] * len(values)
        idle = [name for name, value in zip(learnt, found, strict=True) if value is None]
        if idle:
            raise self.place.breach(
                f"gives a value from {stage} that no step can change by {', '.join(idle)}: it does not depend on it, "
                "or is cut off from it (detach, no_grad, item, NumPy); training would do nothing. What is not to be "
                "trained is named in `constant`"
            )
        return {name: value for name, value in zip(learnt, found, strict=True) if value is not None}


def _alike(one: Tensor, other: Tensor, slack: float = 1e-4, floor: float = 0.0) -> bool:
    """Equal up to rounding (some sums on a GPU are never twice the same) and to `floor`, NaN to NaN."""
    if one.shape != other.shape:
        return False
    size = float(other.abs().nan_to_num(0.0, 0.0, 0.0).max()) if other.numel() else 0.0
    return bool(torch.allclose(one.double(), other.double(), rtol=slack, atol=max(slack * size, floor), equal_nan=True))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

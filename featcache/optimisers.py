"""SGD, Adam and AdamW over stacked parameters (R, ...). Tested against torch.optim run by run.

Each run has its own learning rate, weight decay and momentum. Where all runs have the same, it stays one number: a
number costs no pass over memory of its own, and SGD's momentum then goes into the product that makes the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from featcache.recipes import Recipe
from featcache.task import Params

Gradient = Tensor | tuple[Tensor, Tensor]
"""A gradient (R, m, n), or factors (R, b, m) and (R, b, n) of it: it is their product over b."""
PerRun = float | Tensor
"""One number for all runs, or (R,) where they differ."""


class Optimiser(Protocol):
    """Moves stacked parameters in place."""

    def set_lr(self, lr: Sequence[float]) -> bool:
        """The learning rate of each run from now on; whether that changes what a step does."""
        ...

    def step(self, gradient: Mapping[str, Gradient]) -> None:
        """One step; `gradient` may be used up. No number in it changes from step to step but those in tensors, so that
        it can be recorded and replayed."""
        ...


def make_optimiser(
    recipe: Recipe,
    params: Params,
    *,
    weight_decay: Sequence[float] | None = None,
    momentum: Sequence[float] | None = None,
) -> Optimiser:
    """The recipe's optimiser for these parameters.

    `weight_decay` and `momentum` hold one value a run; without them every run has the recipe's.
    """
    device = _device_of(params)
    decay = recipe.weight_decay if weight_decay is None else _per_run(weight_decay, device)
    if recipe.optimiser == "sgd":
        kept = recipe.momentum if momentum is None else _per_run(momentum, device)
        return Sgd(params, momentum=kept, weight_decay=decay)
    return {"adam": Adam, "adamw": AdamW}[recipe.optimiser](params, weight_decay=decay, eps=recipe.eps)


def _device_of(params: Params) -> torch.device:
    return next((value.device for value in params.values()), torch.device("cpu"))


def _same(one: PerRun, other: PerRun) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other


def _per_run(values: Sequence[float], device: torch.device) -> PerRun:
    return values[0] if len(set(values)) == 1 else torch.tensor(values, device=device)


class Sgd:
    """SGD with momentum and an L2 penalty, as torch.optim.SGD has them.

    v' = momentum v + g + weight_decay p and p' = p - lr v' pass over memory eight times, which costs about as much as
    the products that make g. Where all runs share their three numbers, z = p + v / k is held in place of v. For the
    root k of lr momentum k^2 + (1 - momentum - lr weight_decay) k + weight_decay = 0 and a = 1 - k lr, it is the same
    step to say

        z' = a momentum z + (a / k) g        p' = p + (k lr / a) (p - z')

    which passes five times, for the penalty needs no pass of its own and the first line goes into the product.
    """

    def __init__(self, params: Params, *, momentum: PerRun, weight_decay: PerRun) -> None:
        self.params = params
        self.momentum = momentum
        self.weight_decay = weight_decay
        self._velocity = {name: torch.zeros_like(value) for name, value in params.items()}
        self._rate: PerRun = 0.0
        self._k: float | None = None
        """The k of z, where `_velocity` holds z."""

    @torch.no_grad()
    def set_lr(self, lr: Sequence[float]) -> bool:
        """The learning rate of each run from now on; whether that changes what a step does."""
        before, self._rate = self._rate, _per_run(lr, _device_of(self.params))
        self._hold(self._root())
        return not _same(before, self._rate)

    @torch.no_grad()
    def step(self, gradient: Mapping[str, Gradient]) -> None:
        """One step of all runs."""
        for name, param in self.params.items():
            held = self._velocity[name]
            if self._k is None:
                _add(_decay_and_add(held, gradient[name], self.momentum), param, self.weight_decay)
                _subtract(param, held, self._rate)
            else:
                assert not isinstance(self.momentum, Tensor)
                assert not isinstance(self._rate, Tensor)
                a = 1 - self._k * self._rate
                _decay_and_add(held, gradient[name], a * self.momentum, scale=a / self._k)
                param.lerp_(held, -self._k * self._rate / a)

    def _root(self) -> float | None:
        """k, the same for as long as lr is; None where runs differ or the equation has no root worth taking."""
        momentum, decay, lr = self.momentum, self.weight_decay, self._rate
        if isinstance(momentum, Tensor) or isinstance(decay, Tensor) or isinstance(lr, Tensor):
            return None
        if not (momentum and decay):
            return None
        middle = 1 - momentum - lr * decay
        square = middle**2 - 4 * lr * momentum * decay
        return -2 * decay / (middle + math.sqrt(square)) if middle > 0 and square > 0 else None

    def _hold(self, k: float | None) -> None:
        """Turn what is held into z at this k, or into v where it is None."""
        if k == self._k:
            return
        for name, param in self.params.items():
            held = self._velocity[name]
            if self._k is not None:
                held.sub_(param).mul_(self._k)
            if k is not None:
                held.div_(k).add_(param)
        self._k = k


class AdamW:
    """Adam with decoupled weight decay, as torch.optim.AdamW has it (betas 0.9 and 0.999)."""

    def __init__(self, params: Params, *, weight_decay: PerRun, eps: float) -> None:
        self.params = params
        self.weight_decay = weight_decay
        self.eps = eps
        self._rate: PerRun = 0.0
        self._steps = torch.zeros((), dtype=torch.float64, device=_device_of(params))
        """A tensor, so that a recorded step counts on; float64 is needed at 0.999 ** steps."""
        self._mean = {name: torch.zeros_like(value) for name, value in params.items()}
        self._square = {name: torch.zeros_like(value) for name, value in params.items()}

    def set_lr(self, lr: Sequence[float]) -> bool:
        """The learning rate of each run from now on; whether that changes what a step does."""
        before, self._rate = self._rate, _per_run(lr, _device_of(self.params))
        return not _same(before, self._rate)

    @torch.no_grad()
    def step(self, gradient: Mapping[str, Gradient]) -> None:
        """Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2."""
        self._steps += 1
        for name, param in self.params.items():
            update = self._direction(name, _whole(gradient[name]))
            _subtract(param, _add(update, param, self.weight_decay), self._rate)

    def _direction(self, name: str, grad: Tensor) -> Tensor:
        """The first moment over the root of the second, both as they are after this step's gradient."""
        unbias_mean, unbias_square = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        mean, square = self._mean[name], self._square[name]
        mean.lerp_(grad, 1 - 0.9)
        square.mul_(0.999).addcmul_(grad, grad, value=1 - 0.999)
        return (mean / unbias_mean) / ((square / unbias_square).sqrt_().add_(self.eps))


class Adam(AdamW):
    """Adam with an L2 penalty in the gradient, as torch.optim.Adam has it (betas 0.9 and 0.999)."""

    @torch.no_grad()
    def step(self, gradient: Mapping[str, Gradient]) -> None:
        """Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1, of the gradient and weight_decay p."""
        self._steps += 1
        for name, param in self.params.items():
            penalised = _add(_whole(gradient[name]), param, self.weight_decay)
            _subtract(param, self._direction(name, penalised), self._rate)


def _decay_and_add(velocity: Tensor, gradient: Gradient, momentum: PerRun, scale: float = 1.0) -> Tensor:
    """velocity = momentum velocity + scale gradient, in place; from factors without writing the gradient to memory."""
    if isinstance(momentum, Tensor):
        velocity.mul_(_beside(momentum, velocity))
        momentum = 1.0
    if isinstance(gradient, Tensor):
        return velocity.mul_(momentum).add_(gradient, alpha=scale)
    left, right = gradient
    return velocity.baddbmm_(left.mT, right, beta=momentum, alpha=scale)


def _add(direction: Tensor, param: Tensor, weight_decay: PerRun) -> Tensor:
    """direction += weight_decay param, in place."""
    if isinstance(weight_decay, Tensor):
        return direction.addcmul_(param, _beside(weight_decay, param))
    return direction.add_(param, alpha=weight_decay)


def _beside(values: Tensor, param: Tensor) -> Tensor:
    """(R,) as (R, 1, ...), to go with (R, ...)."""
    return values.view(-1, *[1] * (param.dim() - 1))


def _whole(gradient: Gradient) -> Tensor:
    return gradient if isinstance(gradient, Tensor) else gradient[0].mT @ gradient[1]


def _subtract(param: Tensor, direction: Tensor, rate: PerRun) -> None:
    """param -= rate * direction, run by run."""
    if isinstance(rate, Tensor):
        param.sub_(direction * _beside(rate, param))
    else:
        param.sub_(direction, alpha=rate)

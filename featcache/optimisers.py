"""SGD and AdamW over stacked parameters (R, ...): each run has its own learning rate. Tested against torch.optim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from featcache.errors import UnknownNameError
from featcache.recipes import Recipe
from featcache.task import Params

Gradient = Tensor | tuple[Tensor, Tensor]
"""A gradient (R, m, n), or factors (R, b, m) and (R, b, n) of it: it is their product over b."""


class Optimiser(Protocol):
    """Moves stacked parameters in place."""

    def step(self, gradient: Mapping[str, Gradient], lr: Sequence[float]) -> None:
        """One step; `gradient` may be used up, `lr` has one value a run."""
        ...


def make_optimiser(recipe: Recipe, params: Params) -> Optimiser:
    """The recipe's optimiser for these parameters; raises UnknownNameError."""
    match recipe.optimiser:
        case "sgd":
            return Sgd(params, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
        case "adamw":
            return AdamW(params, weight_decay=recipe.weight_decay)
    raise UnknownNameError("optimiser", recipe.optimiser, ("sgd", "adamw"))


class Sgd:
    """SGD with momentum and an L2 penalty, as torch.optim.SGD has them."""

    def __init__(self, params: Params, *, momentum: float, weight_decay: float) -> None:
        self.params = params
        self.momentum = momentum
        self.weight_decay = weight_decay
        self._velocity = {name: torch.zeros_like(value) for name, value in params.items()}

    @torch.no_grad()
    def step(self, gradient: Mapping[str, Gradient], lr: Sequence[float]) -> None:
        """v = momentum v + g + weight_decay p; p = p - lr v."""
        for name, param in self.params.items():
            velocity = self._velocity[name]
            _decay_and_add(velocity, gradient[name], self.momentum).add_(param, alpha=self.weight_decay)
            _subtract(param, velocity, lr)


class AdamW:
    """Adam with decoupled weight decay, as torch.optim.AdamW has it (betas 0.9 and 0.999, eps 1e-8)."""

    def __init__(self, params: Params, *, weight_decay: float) -> None:
        self.params = params
        self.weight_decay = weight_decay
        self._steps = 0
        self._mean = {name: torch.zeros_like(value) for name, value in params.items()}
        self._square = {name: torch.zeros_like(value) for name, value in params.items()}

    @torch.no_grad()
    def step(self, gradient: Mapping[str, Gradient], lr: Sequence[float]) -> None:
        """Loshchilov and Hutter 2019, algorithm 2."""
        self._steps += 1
        unbias_mean, unbias_square = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        for name, param in self.params.items():
            mean, square, grad = self._mean[name], self._square[name], _whole(gradient[name])
            mean.lerp_(grad, 1 - 0.9)
            square.mul_(0.999).addcmul_(grad, grad, value=1 - 0.999)
            update = (mean / unbias_mean) / ((square / unbias_square).sqrt_().add_(1e-8))
            _subtract(param, update.add_(param, alpha=self.weight_decay), lr)


def _decay_and_add(velocity: Tensor, gradient: Gradient, momentum: float) -> Tensor:
    """velocity = momentum velocity + gradient, in place; from factors without ever writing the gradient to memory."""
    if isinstance(gradient, Tensor):
        return velocity.mul_(momentum).add_(gradient)
    left, right = gradient
    return velocity.baddbmm_(left.mT, right, beta=momentum)


def _whole(gradient: Gradient) -> Tensor:
    return gradient if isinstance(gradient, Tensor) else gradient[0].mT @ gradient[1]


def _subtract(param: Tensor, direction: Tensor, lr: Sequence[float]) -> None:
    """param -= lr * direction, run by run."""
    if len(set(lr)) == 1:
        param.sub_(direction, alpha=lr[0])
    else:
        per_run = torch.tensor(lr, device=param.device).view(-1, *[1] * (param.dim() - 1))
        param.sub_(direction * per_run)

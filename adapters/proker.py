"""ProKeR (Bendou et al., CVPR 2025; arXiv 2501.11175): proximal kernel ridge regression around zero-shot CLIP.

With the kernel k(x, x') = exp(-beta (1 - cosine(x, x'))) on unit images, p the cosines to the text and Y the one-hot
labels of the training rows S, the function f that minimises

    sum over S of |f(x_i) - y_i|^2  +  lmbda |f - p|^2       (the second norm is that of the kernel's Hilbert space)

is f(x) = p(x) + k(x, S) (k(S, S) + lmbda I)^-1 (Y - p(S)). The authors' code (read in a public fork of it) solves
(k(S, S) / lmbda + I) A = Y - p(S) and adds k(x, S) A, which is lmbda times that residual: a small lmbda holds f near
zero-shot instead of fitting closest. Its values and grid belong to that form, so it is followed here. As there: cosines
without their scale. Departures: a row is the mean of an image's views, as the kernel matrix grows with the square of
the rows (theirs, every view a row, is `all`); logits are logit_scale times f, which changes no prediction; without text
p is 0, and this is plain kernel ridge regression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import normalise
from featcache.task import Frozen, Hyper, Params, Task


@dataclass(frozen=True, kw_only=True)
class ProKeR:
    """Zero-shot CLIP plus a kernel regression of what it gets wrong on the training rows."""

    needs: ClassVar[frozenset[str]] = frozenset()
    transfers: ClassVar[bool] = False
    views: ClassVar[str] = "mean"
    post_hoc: ClassVar[tuple[str, ...]] = ()
    # The authors' 10 values of lmbda; 6 betas over the range of their 20.
    grid: ClassVar[Mapping[str, str]] = {
        "beta": "0.5,1,1.5,2,2.5,3",
        "lmbda": "0.001,0.112,0.223,0.334,0.445,0.556,0.667,0.778,0.889,1",
    }

    beta: float = 1.0
    """Sharpness of the kernel, above 0: how fast likeness falls. Default: near the code's on Caltech101."""
    lmbda: float = 0.1
    """Weight of the pull to zero-shot, above 0. Default: near the code's on Caltech101."""

    def __post_init__(self) -> None:
        for name in ("beta", "lmbda"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} is a positive number; got {value:g}")

    def solve(self, task: Task, hyper: Hyper) -> Params:
        """`keys` (S, D), the unit training rows, and `weight` (S, C), what each adds to the classes."""
        (params,) = self.solve_runs([(task, hyper)])
        return params

    def solve_runs(self, runs: Sequence[tuple[Task, Hyper]]) -> list[Params]:
        """The same for each run; the keys are shared by a draw's runs, the kernel by those of one beta."""
        keys: dict[int, Tensor] = {}
        kernels: dict[tuple[int, float], Tensor] = {}
        fitted = []
        # Draw by draw and beta by beta, so that one kernel matrix is held at a time.
        for index in sorted(range(len(runs)), key=lambda index: (id(runs[index][0]), float(runs[index][1]["beta"]))):
            task, hyper = runs[index]
            rows = keys.setdefault(id(task), normalise(task.rows))
            place = id(task), float(hyper["beta"])
            if place not in kernels:
                kernels = {place: _kernel(rows, rows, hyper["beta"])}
            wrong = F.one_hot(task.label, task.num_classes).to(rows) - _zero_shot(rows, task)
            fitted.append((index, {"keys": rows, "weight": _regress(kernels[place], wrong, hyper["lmbda"])}))
        return [params for _, params in sorted(fitted, key=lambda item: item[0])]

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, C) from raw images (N, D)."""
        unit = normalise(image)
        right = _kernel(unit, params["keys"], hyper["beta"]) @ params["weight"]
        return frozen.logit_scale * (_zero_shot(unit, frozen) + right)


def _zero_shot(unit: Tensor, frozen: Frozen) -> Tensor:
    """(N, C) cosines, or 0 without text."""
    if not frozen.text.shape[1]:
        return unit.new_zeros(len(unit), frozen.num_classes)
    return unit @ frozen.text.mT


def _kernel(left: Tensor, right: Tensor, beta: Tensor) -> Tensor:
    """(N, S) likeness of unit rows (N, D) and (S, D): 1 for the same direction."""
    return (beta * (left @ right.mT - 1)).exp_()


def _regress(kernel: Tensor, target: Tensor, lmbda: Tensor) -> Tensor:
    """(S, C) weights: (kernel / lmbda + I)^-1 target, with the kernel (S, S) symmetric and positive."""
    ridged = kernel + lmbda * torch.eye(len(kernel), device=kernel.device, dtype=kernel.dtype)
    return lmbda * torch.cholesky_solve(target, torch.linalg.cholesky(ridged))

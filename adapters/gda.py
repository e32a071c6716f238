"""Gaussian discriminant analysis (Wang et al., ICLR 2024; arXiv 2402.04087): a closed-form classifier beside zero-shot.

Every class is a Gaussian with a mean of its own and one covariance for all. With mu_c the mean of class c's unit
images and S the covariance of the N rows about their class means,

    P = D ((N - 1) S + tr(S) I)^-1                          (the paper's shrunken inverse, after Kubokawa-Srivastava)
    W_c = P mu_c        b_c = log(1 / C) - mu_c . P mu_c / 2
    logits = logit_scale * f . text + alpha (f . W + b)

As in the authors' code: unit images, each augmented view a row of its own, a uniform prior, and alpha searched after
the fit. Their code inverts by pinv; the matrix is symmetric and positive, so here a Cholesky factor solves for W.
Where their code and paper give no answer: with one row a class S is zero and pinv gives W = 0, so here the
covariance about the mean of all rows stands in; a class without a row has the mean of all rows; without text the
Gaussian classifier stands alone, and alpha is not heeded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from featcache.errors import ConfigError
from featcache.ops import EPS, class_sums, normalise
from featcache.task import Frozen, Hyper, Params, Task


@dataclass(frozen=True, kw_only=True)
class Gda:
    """A Gaussian for each class with one covariance, its scores added to zero-shot's."""

    needs: ClassVar[frozenset[str]] = frozenset()
    transfers: ClassVar[bool] = False
    views: ClassVar[str] = "all"
    post_hoc: ClassVar[tuple[str, ...]] = ("alpha",)
    grid: ClassVar[Mapping[str, str]] = {"alpha": "0.0001,0.001,0.01,0.1,1,10,100"}

    alpha: float = 0.1
    """Weight of the Gaussian scores beside zero-shot's, at least 0. Default: where the authors' code starts."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ConfigError(f"alpha weighs the Gaussian scores and is a number of at least 0; got {self.alpha:g}")

    def solve(self, task: Task, hyper: Hyper) -> Params:  # noqa: ARG002
        """`weight` (D, C) and `bias` (C,) of the Gaussian classifier."""
        rows = normalise(task.rows)  # (S, D)
        means = _class_means(rows, task.label, task.num_classes)  # (C, D)
        weight = _shrunken_solve(_about(rows, means[task.label]), means.mT)  # (D, C)
        half = torch.linalg.vecdot(means.mT, weight, dim=0) / 2
        return {"weight": weight, "bias": -half - torch.tensor(float(task.num_classes)).log().to(half)}

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, C) from raw images (N, D)."""
        (logits,) = self.sweep(params, image, frozen, [hyper])
        return logits

    def sweep(self, params: Params, image: Tensor, frozen: Frozen, hypers: Sequence[Hyper]) -> Iterator[Tensor]:
        """Both classifiers' scores are made once; each alpha is one weighted sum of them."""
        unit = normalise(image)
        gaussian = torch.addmm(params["bias"], unit, params["weight"])  # (N, C)
        if not frozen.text.shape[1]:
            yield from (gaussian for _ in hypers)
            return
        zero_shot = frozen.logit_scale * (unit @ frozen.text.mT)  # (N, C)
        for hyper in hypers:
            yield torch.addcmul(zero_shot, gaussian, hyper["alpha"])


def _class_means(rows: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """(C, D) class means; the mean of all rows for a class without one."""
    sums, counts = class_sums(rows, label, num_classes)
    return torch.where(counts > 0, sums / counts.clamp_min(1), rows.mean(dim=0))


def _about(rows: Tensor, own_mean: Tensor) -> Tensor:
    """(S, D) rows about their class's mean, or about the mean of all where every row is its class's only one."""
    centred = rows - own_mean
    return centred if centred.square().sum() > EPS else rows - rows.mean(dim=0)


def _shrunken_solve(centred: Tensor, right: Tensor) -> Tensor:
    """P @ right for right sides (D, C), P the paper's inverse covariance of centred rows (S, D)."""
    num_rows, dim = centred.shape
    scatter = centred.mT @ centred  # (D, D) = (N - 1) S
    # EPS alone is left where all rows are one: the classes' means are then equal, and so are their scores.
    ridge = (scatter.trace() / max(1, num_rows - 1)).clamp_min(EPS)
    scatter.diagonal().add_(ridge)
    return dim * torch.cholesky_solve(right, torch.linalg.cholesky(scatter))

"""L2-regularised logistic regression by Newton's method on the full Hessian: slow, and exact in few steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def objective(parameters: Tensor, image: Tensor, label: Tensor, num_classes: int, c: float) -> Tensor:
    """c times the summed cross-entropy, plus half the squared weights; the bias, last row of (D + 1, C), is free."""
    weight = parameters.view(-1, num_classes)
    unit = image / image.norm(dim=1, keepdim=True)
    return c * F.cross_entropy(unit @ weight[:-1] + weight[-1], label, reduction="sum") + weight[:-1].square().sum() / 2


def fit(image: Tensor, label: Tensor, num_classes: int, *, c: float, steps: int = 25) -> tuple[Tensor, Tensor]:
    """Weights (D, C) and biases (C,), whose mean is 0, from raw rows (S, D) in double precision."""
    parameters = torch.zeros((image.shape[1] + 1) * num_classes, dtype=torch.float64)

    def value(at: Tensor) -> Tensor:
        return objective(at, image.double(), label, num_classes, c)

    for _ in range(steps):
        gradient = torch.autograd.functional.jacobian(value, parameters)
        hessian = torch.autograd.functional.hessian(value, parameters)
        # A shift of all biases changes nothing: the least-squares step leaves it alone.
        step = torch.linalg.lstsq(hessian, gradient[:, None], driver="gelsd").solution[:, 0]
        size = 1.0
        while size > 1e-9 and value(parameters - size * step) > value(parameters):
            size /= 2
        parameters = parameters - size * step
    fitted = parameters.view(-1, num_classes)
    return fitted[:-1], fitted[-1] - fitted[-1].mean()

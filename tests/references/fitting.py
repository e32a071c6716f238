"""A plain training loop over one run, and its comparison with the engine's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featcache import recipes
from featcache.recipes import Recipe
from featcache.task import Method, Params, Task, Trained
from featcache.training import Run, _epoch_rows, predict, train


def recipe(preset: str, *, epochs: int = 10, batch_size: int = 16) -> Recipe:
    """A short one: 20 steps on 40 images."""
    return replace(recipes.make(preset, shots=16, dataset="any"), epochs=epochs, batch_size=batch_size)


def batches(task: Task, init_seed: int, epoch: int, how: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch that the engine would show: images (b, D) and labels (b,)."""
    image, label = _epoch_rows(task, init_seed, epoch, how)
    for low in range(0, len(label), how.batch_size):
        yield image[low : low + how.batch_size], label[low : low + how.batch_size]


def torch_optimiser(parameters: list[Tensor], how: Recipe) -> torch.optim.Optimizer:
    """torch's own of the recipe's name."""
    match how.optimiser:
        case "sgd":
            return torch.optim.SGD(parameters, lr=how.lr, momentum=how.momentum, weight_decay=how.weight_decay)
        case "adam":
            return torch.optim.Adam(parameters, lr=how.lr, eps=how.eps, weight_decay=how.weight_decay)
    return torch.optim.AdamW(parameters, lr=how.lr, eps=how.eps, weight_decay=how.weight_decay)


def fit(model: nn.Module, task: Task, how: Recipe, init_seed: int, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The model trained with torch's own optimiser on the batches that the engine would show it."""
    optimiser = torch_optimiser([parameter for parameter in model.parameters() if parameter.requires_grad], how)
    for epoch in range(how.epochs):
        shown = list(batches(task, init_seed, epoch, how))
        for step, (image, label) in enumerate(shown):
            optimiser.param_groups[0]["lr"] = how.lr_at(epoch + step / len(shown), how.lr)
            optimiser.zero_grad()
            loss(image, label).backward()  # type: ignore[no-untyped-call]
            optimiser.step()


def compare(
    method: Method,
    task: Task,
    how: Recipe,
    make: Callable[[Params], nn.Module],
    loss: Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]] | None = None,
) -> None:
    """Asserts that the engine and the loop above reach the same parameters and accuracy, having moved at all.

    `make` gives the plain model from the method's starting parameters; its parameters have the method's names.
    """
    assert isinstance(method, Trained)
    start = method.init(task, torch.Generator().manual_seed(3))
    plain = make({name: value.clone() for name, value in start.items()})
    fit(plain, task, how, 3, loss(plain) if loss else lambda x, y: F.cross_entropy(plain(x), y))
    (fast,) = train([Run(method=method, lr=how.lr, draw=0, init_seed=3)], [task], how)
    slow = {name: value.detach() for name, value in plain.named_parameters()}
    assert set(slow) == set(fast) - set(method.constant)
    for name, value in slow.items():
        torch.testing.assert_close(fast[name], value, rtol=0, atol=1e-5)
    assert any((fast[name] - start[name]).abs().max() > 1e-3 for name in slow), "nothing was learnt"
    image = task.image[:, 0]
    ours, theirs = predict(method, fast, image, task).argmax(1), plain(image).argmax(1)
    assert (ours == task.label).sum() == (theirs == task.label).sum()

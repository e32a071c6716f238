"""R runs at once: one stacked computation instead of R loops.

A method is written for one run; `torch.func.vmap` lifts it over stacked parameters (R, ...), ordinary autograd
differentiates the summed losses, and one optimiser step moves all runs. Randomness is drawn on the CPU per
(init_seed, epoch), so a run sees what it would see alone: stacked equals one by one.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from featcache.optimisers import Gradient, make_optimiser
from featcache.recipes import Recipe
from featcache.task import Factored, Frozen, Hyper, Method, Params, Penalised, Swept, Task, Trained, swept_fields

MAX_STACKS = 4
"""Stacks side by side on a CPU: the interpreter keeps the books of one at a time, so more would wait for each other."""
Progress = Callable[[int], None]
"""Told how many run-epochs have just been done."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One configuration in a stack of runs."""

    method: Method
    lr: float
    draw: int
    """Index of the run's task among the stack's tasks."""
    init_seed: int


def train(
    runs: Sequence[Run], tasks: Sequence[Task], recipe: Recipe, *, progress: Progress = lambda _: None
) -> list[Params]:
    """The fitted parameters of each run, in order. Runs share everything but float fields, lr, draw and init_seed.

    Inert runs (alpha 0) are not trained: they keep their starting parameters, which their logits ignore.
    `progress` is called from worker threads. An exception, Ctrl-C included, stops every stack within an epoch.
    """
    stacks, side_by_side = _cut(runs, tasks)
    stop = threading.Event()
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(side_by_side, initializer=torch.set_num_threads, initargs=(threads // side_by_side,))
    try:
        futures = [
            pool.submit(_train_stack, [runs[index] for index in stack], tasks, recipe, progress, stop)
            for stack in stacks
        ]
        fitted = {
            i: params
            for stack, done in zip(stacks, futures, strict=True)
            for i, params in zip(stack, done.result(), strict=True)
        }
    finally:
        stop.set()
        pool.shutdown()
        torch.set_num_threads(threads)
    return [fitted[index] if index in fitted else _start(run, tasks) for index, run in enumerate(runs)]


def num_run_epochs(runs: Sequence[Run], recipe: Recipe) -> int:
    """How much `progress` will be told of in all."""
    return recipe.epochs * sum(not _inert(run) for run in runs)


def _cut(runs: Sequence[Run], tasks: Sequence[Task]) -> tuple[list[list[int]], int]:
    """The runs of each stack, by index, and how many stacks go side by side.

    Draws of unequal size (a class short of images, an unreadable one) cannot share a stack. On a GPU each size is one
    wide stack. On a CPU it is cut to one a core: the products of a step are too small to share, and waiting for the
    other core at every one of them costs more than the products (2 cores, D 512, 10 runs: 7 ms a step against 13).
    """
    threads = torch.get_num_threads() if tasks[0].image.device.type == "cpu" else 1
    by_size: dict[int, list[int]] = {}
    for index, run in enumerate(runs):
        if not _inert(run):
            by_size.setdefault(len(tasks[run.draw].label), []).append(index)
    stacks = []
    for indices in by_size.values():
        pieces = min(threads, len(indices), MAX_STACKS)
        bounds = [len(indices) * piece // pieces for piece in range(pieces + 1)]
        stacks += [indices[low:high] for low, high in itertools.pairwise(bounds)]
    return stacks, max(1, min(threads, len(stacks), MAX_STACKS))


def _train_stack(
    runs: Sequence[Run], tasks: Sequence[Task], recipe: Recipe, progress: Progress, stop: threading.Event
) -> list[Params]:
    method = runs[0].method
    assert isinstance(method, Trained)
    params = _initial(runs, tasks)
    learnt = {name: value for name, value in params.items() if name not in method.constant}
    hyper = stack_hyper([run.method for run in runs], tasks[0].image.device)
    optimiser = make_optimiser(recipe, learnt)
    groups = sorted({(run.draw, run.init_seed) for run in runs})
    gradient = _way_of(method)
    group = torch.tensor([groups.index((run.draw, run.init_seed)) for run in runs], device=tasks[0].image.device)
    for epoch in range(recipe.epochs):
        if stop.is_set():
            break
        lr = [recipe.lr_at(epoch, run.lr) for run in runs]
        rows = [_epoch_rows(tasks[draw], init_seed, epoch, recipe.batch_size) for draw, init_seed in groups]
        image = torch.stack([image for image, _ in rows])  # (G, steps, b, D)
        label = torch.stack([label for _, label in rows])  # (G, steps, b)
        for step in range(image.shape[1]):
            batch = _spread(image[:, step], group), _spread(label[:, step], group)  # (R, b, D), (R, b)
            optimiser.step(gradient(method, params, batch, tasks[0], hyper), lr)
        progress(len(runs))
    return [{name: value[index].detach().clone() for name, value in params.items()} for index in range(len(runs))]


def _way_of(method: Method) -> Callable[..., dict[str, Gradient]]:
    """How a stack's gradients are taken: runs of one stack differ in float fields alone, so one run answers for all."""
    if isinstance(method, Factored) and method.by_hand:
        return _by_hand
    return _by_own_loss if isinstance(method, Penalised) else _by_autograd


def _by_autograd(
    method: Method, params: Params, batch: tuple[Tensor, Tensor], frozen: Frozen, hyper: Hyper
) -> dict[str, Gradient]:
    """Each run's gradient of its mean cross-entropy over the batch."""
    image, label = batch  # (R, b, D), (R, b)
    logits = torch.vmap(lambda p, x, h: method.logits(p, x, frozen, h))(params, image, hyper)  # (R, b, C)
    # Summed over runs, averaged over the batch: each run's gradient is what it would be alone.
    loss = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="sum") / label.shape[1]
    return _differentiate(loss, params)


def _by_own_loss(
    method: Method, params: Params, batch: tuple[Tensor, Tensor], frozen: Frozen, hyper: Hyper
) -> dict[str, Gradient]:
    """Each run's gradient of the method's own loss on the batch."""
    loss = cast(Penalised, method).loss
    losses = torch.vmap(lambda p, x, y, h: loss(p, x, y, frozen, h))(params, *batch, hyper)  # (R,)
    return _differentiate(losses.sum(), params)


def _differentiate(loss: Tensor, params: Params) -> dict[str, Gradient]:
    learnt = {name: value for name, value in params.items() if value.requires_grad}
    return dict(zip(learnt, torch.autograd.grad(loss, list(learnt.values())), strict=True))


@torch.no_grad()
def _by_hand(
    method: Method, params: Params, batch: tuple[Tensor, Tensor], frozen: Frozen, hyper: Hyper
) -> dict[str, Gradient]:
    """The same from the method's own factors."""
    # Not asserted: a protocol's isinstance costs as much as a product, at every step.
    return dict(cast(Factored, method).gradient_factors(params, *batch, frozen, hyper))


def _initial(runs: Sequence[Run], tasks: Sequence[Task]) -> Params:
    """Stacked starting weights (R, ...); runs of one draw, seed and method start alike."""
    singles = [_start(run, tasks) for run in runs]
    method = runs[0].method
    assert isinstance(method, Trained)
    return {
        name: torch.stack([single[name] for single in singles]).requires_grad_(name not in method.constant)
        for name in singles[0]
    }


def _start(run: Run, tasks: Sequence[Task]) -> Params:
    assert isinstance(run.method, Trained)
    return run.method.init(tasks[run.draw], torch.Generator().manual_seed(run.init_seed))


def _inert(run: Run) -> bool:
    return isinstance(run.method, Trained) and run.method.inert


def stack_hyper(methods: Sequence[Method], device: torch.device) -> dict[str, Tensor]:
    """The swept fields of R methods as (R,) tensors."""
    return {name: torch.tensor([getattr(m, name) for m in methods], device=device) for name in swept_fields(methods[0])}


def _epoch_rows(task: Task, init_seed: int, epoch: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """One epoch of a run: images (steps, b, D) and labels (steps, b), shuffled, each image in one of its views."""
    num_images, num_views = task.image.shape[:2]
    # Views go round from a start of their own for each image, so every batch mixes them and V epochs see all.
    first_view = torch.randint(num_views, (num_images,), generator=_generator(init_seed, 0))
    order = torch.randperm(num_images, generator=_generator(init_seed, epoch + 1))
    batch = min(batch_size, num_images)
    steps = num_images // batch
    order = order[: steps * batch]
    view = (first_view[order] + epoch) % num_views
    order, view = order.to(task.image.device), view.to(task.image.device)
    return task.image[order, view].view(steps, batch, -1), task.label[order].view(steps, batch)


def _generator(init_seed: int, counter: int) -> torch.Generator:
    # Distinct streams for distinct (seed, epoch); the offset keeps them apart from the initialisation's.
    return torch.Generator().manual_seed((init_seed + 1) * 1_000_003 + counter)


def _spread(batch: Tensor, group: Tensor) -> Tensor:
    """Each run's rows: (G, b, ...) -> (R, b, ...), without a copy where all runs share one group."""
    if batch.shape[0] == 1:
        return batch.expand(len(group), *batch.shape[1:])
    return batch[group]


def predict(method: Method, params: Params, image: Tensor, frozen: Frozen, *, block: int = 8192) -> Tensor:
    """(N, C) logits of one run for raw images (N, D).

    One run at a time, so that its numbers do not hang on which others were fitted beside it.
    """
    with torch.no_grad():
        hyper = single_hyper(method, image.device)
        return torch.cat([method.logits(params, rows, frozen, hyper) for rows in torch.split(image, block)])


def predict_each(methods: Sequence[Method], params: Params, image: Tensor, frozen: Frozen) -> Iterator[Tensor]:
    """(N, C) logits for each of some methods that differ in post-hoc fields alone, in order.

    A yielded tensor may be written over by the next.
    """
    with torch.no_grad():
        hypers = [single_hyper(method, image.device) for method in methods]
        if isinstance(methods[0], Swept) and len(methods) > 1:
            yield from methods[0].sweep(params, image, frozen, hypers)
        else:
            yield from (
                method.logits(params, image, frozen, hyper) for method, hyper in zip(methods, hypers, strict=True)
            )


def single_hyper(method: Method, device: torch.device) -> Hyper:
    """The float fields of one method as 0-d tensors."""
    return {name: value[0] for name, value in stack_hyper([method], device).items()}

"""R runs at once: one stacked computation instead of R loops.

A method is written for one run; `torch.func.vmap` lifts it over stacked parameters (R, ...), ordinary autograd
differentiates the summed losses, and one optimiser step moves all runs. Randomness is drawn on the CPU per
(init_seed, epoch), so a run sees what it would see alone: stacked equals one by one.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from featcache.captured import Replayed, recorder
from featcache.devices import products
from featcache.faults import blame, check_scores, lent
from featcache.optimisers import Gradient, Optimiser, make_optimiser
from featcache.recipes import Recipe
from featcache.shelf import NoShelf, Shelf, digest_of
from featcache.task import (
    Factored,
    Frozen,
    Hyper,
    Method,
    Params,
    Penalised,
    Stacked,
    Swept,
    Task,
    Trained,
    field_values,
    swept_fields,
)
from featcache.threads import side_by_side

WORTH_RECORDING = 4
"""Steps of an epoch from which on a recording of one pays."""
MAX_STACKS = 4
"""Stacks side by side on a CPU: the interpreter keeps the books of one at a time, so more would wait for each other."""
STACK_BYTES = 20 * 2**20
"""Parameters and momentum that one stack holds on a CPU: with more, every pass over them waits for memory (2 cores, D
1024, 30 runs of 4 MB: 1.09 ms a run and step in two stacks, 0.78 in six)."""
WORTH_SPLITTING = 2**17
"""Parameters of all runs alike from which on a CPU cuts them into a stack a core: the interpreter keeps the books of
fewer as soon (2 cores, D 128, 10 runs of 8 k: 1.2 ms a step in two stacks, 0.77 in one; 30 runs: 1.5 and 1.9)."""
WORTH_SHARING = 2**26
"""Parameters x batch rows from which on a step's products are shared among cores."""
Progress = Callable[[int], None]
"""Told how many run-epochs have just been done."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One configuration in a stack of runs."""

    method: Method
    lr: float
    weight_decay: float | None = None
    """The recipe's where None."""
    momentum: float | None = None
    """The recipe's where None."""
    draw: int
    """Index of the run's task among the stack's tasks."""
    init_seed: int


def train(
    runs: Sequence[Run],
    tasks: Sequence[Task],
    recipe: Recipe,
    *,
    progress: Progress = lambda _: None,
    shelf: Shelf | None = None,
) -> list[Params]:
    """The fitted parameters of each run, in order. Runs share the fields of their method that are not float.

    Inert runs (alpha 0) are not trained: they keep their starting parameters, which their logits ignore.
    `progress` is called from worker threads. An exception, Ctrl-C included, stops every stack within a step. A stack on
    the `shelf` is taken from there, and one that is done is put there.
    """
    num_weights = sum(value.numel() for value in _start(runs[0], tasks).values())
    stacks, at_once = _cut(runs, tasks, num_weights)
    stop = threading.Event()
    with (
        products(recipe.products),
        side_by_side(at_once, each=_threads_each(runs[0], num_weights, recipe, at_once)) as pool,
    ):
        try:
            futures = [
                pool.submit(
                    _train_or_take, [runs[index] for index in stack], tasks, recipe, progress, stop, shelf or NoShelf()
                )
                for stack in stacks
            ]
            fitted = {
                i: params
                for stack, done in zip(stacks, futures, strict=True)
                for i, params in zip(stack, done.result(), strict=True)
            }
        finally:
            stop.set()
    return [fitted[index] if index in fitted else _start(run, tasks) for index, run in enumerate(runs)]


def num_run_epochs(runs: Sequence[Run], recipe: Recipe) -> int:
    """How much `progress` will be told of in all."""
    return recipe.epochs * sum(not _inert(run) for run in runs)


def _cut(runs: Sequence[Run], tasks: Sequence[Task], num_weights: int) -> tuple[list[list[int]], int]:
    """The runs of each stack, by index, and how many stacks go side by side.

    Draws of unequal size (a class short of images, an unreadable one), or with text learnt on each, cannot share a
    stack. On a GPU those alike are one wide stack. On a CPU it is cut to one a core: the products of a step are too
    small to share, and waiting for the other core at every one of them costs more than the products (2 cores, D 512,
    10 runs: 7 ms a step against 13); and further, into stacks that are trained one after another, where one would hold
    more than STACK_BYTES. Little ones stay together (WORTH_SPLITTING).
    """
    on_cpu = tasks[0].image.device.type == "cpu"
    threads = torch.get_num_threads() if on_cpu else 1
    alike: dict[tuple[int, int], list[int]] = {}
    for index, run in enumerate(runs):
        if not _inert(run):
            task = tasks[run.draw]
            alike.setdefault((len(task.label), id(task.text)), []).append(index)
    at_once, stacks = min(threads, MAX_STACKS), []
    for indices in alike.values():
        pieces = at_once
        if on_cpu:
            held = 2 * 4 * num_weights * len(indices)  # float32, and as much of the optimiser's
            pieces *= max(1, -(-held // (STACK_BYTES * at_once)))
            if num_weights * len(indices) < WORTH_SPLITTING and not isinstance(runs[0].method, Stacked):
                pieces = 1
        pieces = min(pieces, len(indices))
        bounds = [len(indices) * piece // pieces for piece in range(pieces + 1)]
        stacks += [indices[low:high] for low, high in itertools.pairwise(bounds)]
    return stacks, max(1, min(at_once, len(stacks)))


def _threads_each(run: Run, num_weights: int, recipe: Recipe, at_once: int) -> int:
    """How many threads torch takes for each stack: one, unless a step's work is worth waiting for each other.

    2 cores, D 512, one run of batch 32: CLIP-Adapter's 131 k parameters take 1.1 ms a step with one thread and 4.6 ms
    with two, a D x D projection's 298 k take 3.1 and 8.3 ms.
    """
    if isinstance(run.method, Stacked):
        return max(1, torch.get_num_threads() // at_once)
    work = recipe.batch_size * num_weights
    return max(1, torch.get_num_threads() // at_once) if work >= WORTH_SHARING else 1


def _train_or_take(
    runs: Sequence[Run], tasks: Sequence[Task], recipe: Recipe, progress: Progress, stop: threading.Event, shelf: Shelf
) -> list[Params]:
    """A stack's fitted parameters, trained now or by an earlier search that did not end."""
    name = digest_of([_named(run) for run in runs])
    kept, device = shelf.take(name), tasks[runs[0].draw].image.device
    if kept is not None and len(kept) == len(runs):
        progress(len(runs) * recipe.epochs)
        return [{name: value.to(device) for name, value in params.items()} for params in kept]
    begun = time.perf_counter()
    fitted = _train_stack(runs, tasks, recipe, progress, stop)
    if not stop.is_set():  # else it may have been left early
        shelf.put(name, fitted, time.perf_counter() - begun)
    return fitted


def _named(run: Run) -> list[Any]:
    """What tells a run from the others of its search."""
    return [field_values(run.method), run.lr, run.weight_decay, run.momentum, run.draw, run.init_seed]


def _train_stack(
    runs: Sequence[Run], tasks: Sequence[Task], recipe: Recipe, progress: Progress, stop: threading.Event
) -> list[Params]:
    method = runs[0].method
    assert isinstance(method, Trained)
    params = _initial(runs, tasks)
    learnt = {name: value for name, value in params.items() if name not in method.constant}
    frozen = tasks[runs[0].draw]
    hyper = stack_hyper([run.method for run in runs], frozen.image.device)
    optimiser = _optimiser(recipe, learnt, runs)
    groups = sorted({(run.draw, run.init_seed) for run in runs})
    gradient = _way_of(method)
    group = torch.tensor([groups.index((run.draw, run.init_seed)) for run in runs], device=frozen.image.device)
    record = recorder(frozen.image.device)
    replayed = Replayed(record) if record else None

    def move(image: Tensor, label: Tensor) -> None:
        batch = _spread(image, group), _spread(label, group)  # (R, b, D), (R, b)
        optimiser.step(gradient(method, params, batch, frozen, hyper))

    for epoch in range(recipe.epochs):
        if stop.is_set():
            break
        rows = [_epoch_rows(tasks[draw], init_seed, epoch, recipe) for draw, init_seed in groups]
        image = torch.split(torch.stack([image for image, _ in rows]), recipe.batch_size, dim=1)  # (G, b, D) each
        label = torch.split(torch.stack([label for _, label in rows]), recipe.batch_size, dim=1)  # (G, b) each
        by_step = recipe.schedule == "cosine-step"
        for step, batch in enumerate(zip(image, label, strict=True)):
            if stop.is_set():
                break
            if step == 0 or by_step:
                changed = optimiser.set_lr([recipe.lr_at(epoch + by_step * step / len(image), run.lr) for run in runs])
                if changed and replayed:
                    replayed.renew()
            if replayed and not by_step and len(image) >= WORTH_RECORDING:
                replayed(move, *batch)
            else:
                move(*batch)
        progress(len(runs))
    return [{name: value[index].detach().clone() for name, value in params.items()} for index in range(len(runs))]


def _optimiser(recipe: Recipe, params: Params, runs: Sequence[Run]) -> Optimiser:
    """The stack's optimiser, each run under its own weight decay and momentum."""
    return make_optimiser(
        recipe,
        params,
        weight_decay=[recipe.weight_decay if run.weight_decay is None else run.weight_decay for run in runs],
        momentum=[recipe.momentum if run.momentum is None else run.momentum for run in runs],
    )


def _way_of(method: Method) -> Callable[..., dict[str, Gradient]]:
    """How a stack's gradients are taken: runs of one stack differ in float fields alone, so one run answers for all."""
    if isinstance(method, Factored) and method.by_hand:
        return _by_hand
    if isinstance(method, Stacked):
        return _by_stacked_logits
    return _by_own_loss if isinstance(method, Penalised) else _by_autograd


def _by_autograd(
    method: Method, params: Params, batch: tuple[Tensor, Tensor], frozen: Frozen, hyper: Hyper
) -> dict[str, Gradient]:
    """Each run's gradient of its mean cross-entropy over the batch."""
    image, label = batch  # (R, b, D), (R, b)
    logits = _lifted(lambda p, x, h: method.logits(p, x, frozen, h))(params, image, hyper)  # (R, b, C)
    return _differentiate(_summed_loss(logits, label), params)


def _by_stacked_logits(
    method: Method, params: Params, batch: tuple[Tensor, Tensor], frozen: Frozen, hyper: Hyper
) -> dict[str, Gradient]:
    """The same from logits that the method makes for all runs at once."""
    image, label = batch  # (R, b, D), (R, b)
    logits = cast(Stacked, method).stacked_logits(params, image, frozen, hyper)  # (R, b, C)
    return _differentiate(_summed_loss(logits, label), params)


def _summed_loss(logits: Tensor, label: Tensor) -> Tensor:
    """() summed over runs, averaged over the batch: each run's gradient is what it would be alone."""
    return F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="sum") / label.shape[1]


def _by_own_loss(
    method: Method, params: Params, batch: tuple[Tensor, Tensor], frozen: Frozen, hyper: Hyper
) -> dict[str, Gradient]:
    """Each run's gradient of the method's own loss on the batch."""
    loss = cast(Penalised, method).loss
    losses = _lifted(lambda p, x, y, h: loss(p, x, y, frozen, h))(params, *batch, hyper)  # (R,)
    return _differentiate(losses.sum(), params)


def _lifted(one: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What is written for one run, for R; a lone run goes without vmap, which takes up to twice as long as it saves."""

    def lift(params: Params, *stacked: Any) -> Tensor:
        if len(next(iter(params.values()))) > 1:
            return torch.vmap(one)(params, *stacked)
        return one(*(_lone(tree) for tree in (params, *stacked))).unsqueeze(0)

    return lift


def _lone(stacked: Any) -> Any:
    """A lone run's tensors without their run axis."""
    if isinstance(stacked, Tensor):
        return stacked.squeeze(0)
    return {name: value.squeeze(0) for name, value in stacked.items()}


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


def _epoch_rows(task: Task, init_seed: int, epoch: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """One epoch of a run, to be cut into batches: images (n, D) and labels (n,), shuffled, each in one of its views.

    n is S, or, where the last batch is dropped, what full batches hold of it.
    """
    num_images, num_views = task.image.shape[:2]
    # Views go round from a start of their own for each image, so every batch mixes them and V epochs see all.
    first_view = torch.randint(num_views, (num_images,), generator=_generator(init_seed, 0))
    order = torch.randperm(num_images, generator=_generator(init_seed, epoch + 1))
    if recipe.last_batch == "drop" and num_images > recipe.batch_size:
        order = order[: num_images - num_images % recipe.batch_size]
    view = (first_view[order] + epoch) % num_views
    rows = (order * num_views + view).to(task.image.device)
    return task.image.flatten(0, 1).index_select(0, rows), task.label[order.to(task.label.device)]


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
    with torch.no_grad(), blame(method, "logits", lent(params, image, frozen)):
        hyper = single_hyper(method, image.device)
        scores = [
            check_scores(method, method.logits(params, rows, frozen, hyper), len(rows), frozen)
            for rows in torch.split(image, block)
        ]
        return torch.cat(scores)


def predict_each(methods: Sequence[Method], params: Params, image: Tensor, frozen: Frozen) -> Iterator[Tensor]:
    """(N, C) logits for each of some methods that differ in post-hoc fields alone, in order.

    A yielded tensor may be written over by the next.
    """
    with torch.no_grad(), blame(methods[0], "logits", lent(params, image, frozen)):
        hypers = [single_hyper(method, image.device) for method in methods]
        if isinstance(methods[0], Swept) and len(methods) > 1:
            for scores in methods[0].sweep(params, image, frozen, hypers):
                yield check_scores(methods[0], scores, len(image), frozen, "sweep")
        else:
            for method, hyper in zip(methods, hypers, strict=True):
                yield check_scores(method, method.logits(params, image, frozen, hyper), len(image), frozen)


def single_hyper(method: Method, device: torch.device) -> Hyper:
    """The float fields of one method as 0-d tensors."""
    return {name: value[0] for name, value in stack_hyper([method], device).items()}

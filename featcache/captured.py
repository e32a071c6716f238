"""One step of a stack, recorded once and replayed: on CUDA the launches of an eager step cost more than its work.

A recording holds the numbers it was made with (the learning rate, the optimiser's factors), so it is made anew when
they change: once an epoch under a cosine, which costs about an eager step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], None]
"""Does one step on a batch's images (G, b, D) and labels (G, b)."""
Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes what is to be done, does not do it, and gives what does it each time it is called."""


class Replayed:
    """A step that is recorded over a batch of its own, into which each further batch is copied.

    The very first step is done as it is, for it loads kernels and makes workspaces; so is an epoch's smaller last one.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._begun = False
        self._batch: tuple[Tensor, Tensor] | None = None
        self._replay: Callable[[], None] | None = None

    def renew(self) -> None:
        """Forget the recording: what a step does has changed."""
        self._replay = None

    def __call__(self, step: Step, image: Tensor, label: Tensor) -> None:
        """Do `step` on the batch; `step` is what was recorded unless `renew` has been called."""
        if not self._begun or (self._batch is not None and self._batch[0].shape != image.shape):
            self._begun = True
            step(image, label)
            return
        if self._batch is None:
            self._batch = image.clone(), label.clone()
        if self._replay is None:
            self._replay = self._record(partial(step, *self._batch))
        for held, given in zip(self._batch, (image, label), strict=True):
            held.copy_(given)
        self._replay()


def recorder(device: torch.device) -> Record | None:
    """How steps are recorded on a device; None where replaying gains nothing."""
    return _cuda_graph if device.type == "cuda" else None


def _cuda_graph(do: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    # Other threads may be at work on the device: their calls are none of this recording's business.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        do()
    return graph.replay

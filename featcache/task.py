"""All that a method sees: the frozen model's side, one draw's training rows, and the contract it fulfils.

A method is one file in `adapters/` holding one frozen dataclass. Its fields are its configuration: `float`
fields can be swept within a stack, all others split stacks. It is written for ONE run; the engine lifts it over R.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, get_type_hints, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from featcache.backbones.text_tower import TextTower

Params = dict[str, Tensor]
"""What a method learns, by name; without a run axis inside a method, with one (R, ...) in the engine."""
Hyper = Mapping[str, Tensor]
"""The method's float fields as 0-d tensors; under the engine each run has its own values."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What the frozen model gives to every image, whatever the draw."""

    text: Tensor
    """(C, D) unit classifier weights from prompts; (C, 0) where the store has none."""
    logit_scale: float
    """The multiplier of cosines, already exponentiated."""
    names: tuple[str, ...] = ()
    """(C,) class names."""
    tower: TextTower | None = None
    """The frozen text tower, for a method that needs it."""

    @property
    def num_classes(self) -> int:
        """C."""
        return self.text.shape[0]


@dataclass(frozen=True, kw_only=True)
class Task(Frozen):
    """One draw, ready to train on. It holds no val and no test rows, so no method can look at them."""

    image: Tensor
    """(S, V, D) raw embeddings of the draw's training views."""
    label: Tensor
    """(S,) class indices."""

    @property
    def rows(self) -> Tensor:
        """(S, D) raw embeddings, for a method that takes views as `all` or `mean`: there is one view then."""
        assert self.image.shape[1] == 1, "views are still apart: the method's `views` is `turn`"
        return self.image[:, 0]

    @property
    def dim(self) -> int:
        """D."""
        return self.image.shape[2]


@runtime_checkable
class Method(Protocol):
    """What every method has."""

    needs: ClassVar[frozenset[str]]
    """What it cannot do without: any of `text`, `tower`."""
    transfers: ClassVar[bool]
    """Whether what it learns belongs to no class, so that other classes can be classified by their text."""
    views: ClassVar[str]
    """How it takes a draw's augmented views, unless the user says: `turn`, one an epoch; `all`, each as an image of its
    own; `mean`, the mean of their unit embeddings."""
    post_hoc: ClassVar[tuple[str, ...]]
    """Float fields that `logits` alone heeds: they are swept on the same parameters, fitted once."""
    grid: ClassVar[Mapping[str, str]]
    """What is searched unless the user says: field -> values as typed, `0:1:0.1` or `1,10`."""

    def logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, C) class scores of raw embeddings (N, D), for one run."""
        ...


@runtime_checkable
class Trained(Method, Protocol):
    """A method fitted by gradient steps."""

    preset: ClassVar[str]
    """The training recipe it takes, unless the user says."""
    constant: ClassVar[tuple[str, ...]]
    """Parameters that `init` gives and no step changes."""

    @property
    def inert(self) -> bool:
        """Whether this configuration's logits do not depend on its parameters, so that it need not be trained."""
        ...

    def init(self, task: Task, generator: torch.Generator) -> Params:
        """Starting weights of one run; all randomness from `generator` (CPU)."""
        ...


@runtime_checkable
class Penalised(Trained, Protocol):
    """A trained method whose loss is not the plain mean cross-entropy of its logits."""

    def loss(self, params: Params, image: Tensor, label: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """() the loss of one run on a batch: images (b, D), labels (b,)."""
        ...


@runtime_checkable
class Stacked(Trained, Protocol):
    """A trained method that cannot be lifted over runs by vmap at a fair price, and writes its logits for R of them."""

    def stacked_logits(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(R, b, C) what `logits` gives for each run: stacked params, images (R, b, D), hyper values (R,)."""
        ...


@runtime_checkable
class LearnsText(Method, Protocol):
    """A method whose result is text weights alone, so that other methods can start from it (`fit --text`)."""

    def text(self, params: Params, frozen: Frozen) -> Tensor:
        """(C, D) the unit text weights of one run."""
        ...


@runtime_checkable
class EmbedsImages(Method, Protocol):
    """A method that moves image embeddings, so that one can look at where they go."""

    def embedding(self, params: Params, image: Tensor, frozen: Frozen, hyper: Hyper) -> Tensor:
        """(N, D) what the method makes of raw embeddings (N, D), for one run; un-normalised."""
        ...


@runtime_checkable
class Factored(Trained, Protocol):
    """A trained method that writes out its stacked gradient by hand, to spare autograd's memory traffic.

    The engine tests it against autograd (tests/test_methods.py); results do not depend on which of the two ran.
    """

    @property
    def by_hand(self) -> bool:
        """Whether this configuration's gradient is written out; else autograd takes it. Float fields do not decide."""
        ...

    def gradient_factors(
        self, params: Params, image: Tensor, label: Tensor, frozen: Frozen, hyper: Hyper
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """For each parameter (R, m, n) factors (R, b, m) and (R, b, n) whose product over b is its loss gradient.

        Everything is stacked: images (R, b, D), labels (R, b), hyper values (R,). Left as factors, a gradient goes
        into the momentum in the same product that makes it.
        """
        ...


@runtime_checkable
class Solved(Method, Protocol):
    """A method fitted in closed form, or that has nothing to fit."""

    def solve(self, task: Task, hyper: Hyper) -> Params:
        """The fitted parameters of one run."""
        ...


@runtime_checkable
class SolvedTogether(Solved, Protocol):
    """A solved method that is cheaper for many runs at once than one by one."""

    def solve_runs(self, runs: Sequence[tuple[Task, Hyper]]) -> list[Params]:
        """What `solve` gives for each of the runs, which share everything but float fields and draws."""
        ...


@runtime_checkable
class Swept(Method, Protocol):
    """A method that knows what its post-hoc values share."""

    def sweep(self, params: Params, image: Tensor, frozen: Frozen, hypers: Sequence[Hyper]) -> Iterator[Tensor]:
        """What `logits` gives for each of the hypers, in order; a yielded tensor may be written over by the next."""
        ...


@runtime_checkable
class Tuned(Method, Protocol):
    """A method whose fields decide which others are worth searching."""

    @property
    def own_grid(self) -> Mapping[str, str]:
        """What is searched unless the user says, in place of `grid`. Float fields do not decide."""
        ...


def swept_fields(method: type | Method) -> tuple[str, ...]:
    """The method's `float` fields: those that one stack can hold at different values."""
    return _float_fields(method if isinstance(method, type) else type(method))


@cache  # asked for every point of a grid, and annotations are slow to read
def _float_fields(kind: type) -> tuple[str, ...]:
    hints = get_type_hints(kind)
    return tuple(field.name for field in fields(kind) if hints[field.name] is float)


def field_values(method: Method) -> dict[str, Any]:
    """The whole configuration as a plain mapping."""
    return {field.name: getattr(method, field.name) for field in fields(method)}  # type: ignore[arg-type]

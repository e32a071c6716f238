"""Whose fault an error is: what a method's own code raises or spoils is told as the method's, by file and line."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from featcache import registry
from featcache.digests import of_tensors
from featcache.errors import BreachError, FeatcacheError, MethodError, SpoiltError
from featcache.task import Frozen, Method, Params, Task

T = TypeVar("T")


class Place(NamedTuple):
    """A method and where it comes from."""

    name: str
    file: str

    @staticmethod
    def of(method: Method | type) -> Place:
        kind = method if isinstance(method, type) else type(method)
        module = sys.modules[kind.__module__]
        return Place(kind.__module__.rpartition(".")[2], str(module.__file__))

    def error(self, what: str) -> MethodError:
        """What the method did, as an error that names it."""
        return MethodError(f"the method {self.name} ({self.file}) {what}")

    def breach(self, what: str) -> BreachError:
        """How the method breaks the contract, as an error that names it."""
        return BreachError(f"the method {self.name} ({self.file}) {what}")

    def spoilt(self, what: str) -> SpoiltError:
        """That the method changed what others share, as an error that names it."""
        return SpoiltError(
            f"the method {self.name} ({self.file}) changes {what} in place, which other runs share; "
            "let it work on a copy, as in x = x.clone()"
        )


@contextmanager
def blame(method: Method | type, stage: str, given: Sequence[tuple[str, Tensor]] = ()) -> Iterator[None]:
    """Runs a method's code: what it raises becomes a MethodError, and SpoiltError says that it changed what was given.

    `given` names each tensor that others use too. They are compared by their versions, and for a method that is not
    ours by value too: what is written through NumPy or `.data` leaves no trace on a version.
    Our own messages, Ctrl-C and a lack of memory pass as they are. So does an error that no line of the method's
    file had a part in, if the file is one of ours: that is our own bug. `stage` is what to call it where the trace
    names no function of the file.
    """
    place, versions = Place.of(method), [tensor._version for _, tensor in given]
    ours = Path(place.file).parent == registry.adapters_folder()
    values = [] if ours else [_digest(tensor) for _, tensor in given]
    try:
        yield
    except (FeatcacheError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:  # the code is the user's, and may raise anything
        within = [item for item in traceback.extract_tb(error.__traceback__) if item.filename == place.file]
        if not within and ours:
            raise
        where = f"{within[0].name}, line {within[-1].lineno}" if within else stage
        said = " ".join(str(error).split())
        raise place.error(
            f"raised {type(error).__name__} in {where}{f': {said}' if said else ''}; "
            "mend it there, or leave it out (featcache --debug shows the whole trace)"
        ) from error
    for (name, tensor), version in zip(given, versions, strict=True):
        if tensor._version != version:
            raise place.spoilt(name)
    for (name, tensor), value in zip(given, values, strict=not ours):
        if _digest(tensor) != value:
            raise place.spoilt(name)


def _digest(tensor: Tensor) -> str:
    return of_tensors({"": tensor.detach().cpu()})


def check_scores(method: Method, scores: object, num_rows: int, frozen: Frozen, stage: str = "logits") -> Tensor:
    """The class scores (num_rows, C) that a method gave. Raises BreachError for anything else."""
    shape = (num_rows, frozen.text.shape[0])
    if not isinstance(scores, Tensor) or tuple(scores.shape) != shape:
        raise Place.of(method).breach(
            f"gives {kind_of(scores)} from {stage} for {num_rows} images and {shape[1]} classes; it must give {shape}"
        )
    return scores


def kind_of(value: object) -> str:
    """What something is, in words."""
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def shared(*tasks: Task) -> list[tuple[str, Tensor]]:
    """What tasks lend to every run, by the names that messages call it."""
    return [
        item
        for task in tasks
        for item in (("task.image", task.image), ("task.label", task.label), ("frozen.text", task.text))
    ]


def lent(params: Params, image: Tensor, frozen: Frozen) -> list[tuple[str, Tensor]]:
    """The same of what a prediction is made from."""
    fitted = [(f"params[{name!r}]", value) for name, value in params.items()]
    return [("its rows", image), ("frozen.text", frozen.text), *fitted]


def apart(do: Callable[[list[int]], Sequence[T]], members: list[int]) -> list[T | MethodError]:
    """What `do` gives for the members together; where the method fails, for halves of them, and so down to one.

    A member that fails on its own has its error in its place, so the others go on. A breach of contract is every
    member's. Raises SpoiltError at once: after it nothing can be trusted.
    """
    try:
        return list(do(members))
    except SpoiltError:
        raise
    except MethodError as error:
        if len(members) == 1 or isinstance(error, BreachError):
            return [error] * len(members)
    half = len(members) // 2
    return [*apart(do, members[:half]), *apart(do, members[half:])]

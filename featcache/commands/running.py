"""What every command shares: stopping, and doing several things of which some may fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import typer

from featcache import console
from featcache.errors import FeatcacheError, InputError

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def stoppable(kept: str) -> Iterator[None]:
    """Ctrl-C ends in one line and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        console.warn(f"stopped; {kept}")
        raise typer.Exit(130) from None


def each(items: Sequence[tuple[str, T]], do: Callable[[T], R]) -> list[R]:
    """`do` of every (name, item), in order: one that fails is named at once and the others go on.

    Raises InputError at the end where any failed, or the failure itself where there was but one item.
    """
    done, failed = [], []
    for name, item in items:
        try:
            done.append(do(item))
        except FeatcacheError as error:
            if len(items) == 1:
                raise
            console.fail(f"{name}: {error}")
            failed.append(name)
    if failed:
        raise InputError(f"{len(failed)} of {len(items)} failed, for the reasons above: {', '.join(failed)}")
    return done

"""What every command shares: stopping, and doing several things of which some may fail."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from featcache import console
from featcache.errors import FeatcacheError, InputError
from featcache.interrupts import code_of

T = TypeVar("T")


@contextmanager
def stoppable(kept: str) -> Iterator[None]:
    """Ctrl-C ends in one line and exit code 130, SIGTERM in 143."""
    try:
        yield
    except KeyboardInterrupt as stop:
        console.warn(f"stopped; {kept}")
        raise typer.Exit(code_of(stop)) from None


@contextmanager
def loading() -> Iterator[None]:
    """For a command's own imports: the garbage collector rests, and passes over what they made from then on.

    They leave half a million objects that stay, through which it would look again and again: 0.15 to 0.2 of the 1.4 to
    1.6 s that torch and the rest take (2 cores, 30 November 2026). Once a process, before torch is there.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def each(items: Sequence[tuple[str, T]], do: Callable[[T], Any]) -> None:
    """Do every (name, item), in order: one that fails is named at once and the others go on.

    Raises InputError at the end where any failed, or the failure itself where there was but one item.
    """
    if len(items) == 1:
        do(items[0][1])
        return
    tell_failed(attempt(items, do), len(items))


def attempt(items: Sequence[tuple[str, T]], do: Callable[[T], Any]) -> list[str]:
    """The names of the items that failed, each told with its reason at once; the others go on."""
    failed = []
    for name, item in items:
        try:
            do(item)
        except FeatcacheError as error:
            console.fail(f"{name}: {error}")
            failed.append(name)
    return failed


def tell_failed(failed: Sequence[str], total: int) -> None:
    """Raises InputError where any failed."""
    if failed:
        raise InputError(f"{len(failed)} of {total} failed, for the reasons above: {'; '.join(failed)}")

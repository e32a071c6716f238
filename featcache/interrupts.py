"""Ctrl-C and SIGTERM, which preempted machines send: what is done stays, one line says so, and the exit code tells.

Python raises where it stands. That must not be while HDF5 writes a file, for it calls back into Python to do so, takes
an exception there for a disk's refusal, and crashes. So the signal waits until the rows at hand are written.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_LATER_S = 1.0


class Stopped(KeyboardInterrupt):
    """A signal has come that ends the command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number
        """The exit code: 130 for Ctrl-C, 143 for SIGTERM."""


_since: float | None = None
"""When the first signal was raised."""
_depth = 0
_waiting: int | None = None


def listen() -> None:
    """From now on Ctrl-C and SIGTERM raise Stopped in the main thread; one more, a second later, ends at once."""
    global _since, _waiting
    _since = _waiting = None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _come)
        signal.signal(signal.SIGTERM, _come)


def code_of(error: KeyboardInterrupt) -> int:
    """The exit code that an interrupted command ends with."""
    return error.code if isinstance(error, Stopped) else 130


@contextmanager
def deferred() -> Iterator[None]:
    """A signal that comes inside is raised by the next `check`, or at the end."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    check()


def check() -> None:
    """Raise Stopped where a signal waits."""
    global _waiting
    if _waiting is not None and threading.current_thread() is threading.main_thread():
        number, _waiting = _waiting, None
        raise Stopped(number)


def _come(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    global _since, _waiting
    now = time.monotonic()
    if _since is not None:
        if now - _since > _LATER_S:  # what is to be kept is on disk already
            os._exit(128 + number)
        return
    _since = now
    if _depth:
        _waiting = number
    else:
        raise Stopped(number)

"""The exceptions featcache raises for a user's faults, drawn as a tree.

    FeatcacheError
    └── InputError(ValueError)      what was asked cannot be done as asked
        ├── UnknownNameError        no such data set, backbone, method, store or text set
        ├── DataError               a data set, an image or an array is not usable
        ├── ConfigError             a setting is out of range, unknown or without effect
        ├── StoreError              a file is not a featcache store, or is damaged
        │   └── OvertakenError      another process replaced the store meanwhile
        ├── MissingRowsError        the store is sound but lacks what was asked of it
        └── MethodError             a method's own code raised, or gave what is no number
            ├── BreachError         a method gave what no method may give, whatever its fields' values
            └── SpoiltError         a method changed what other runs share

Every message says what was asked, what was found and what to do. The command line prints the message
and exits 2; anything that is not a `FeatcacheError` is our own bug.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FeatcacheError(Exception):
    """Anything featcache raises on purpose."""


class InputError(FeatcacheError, ValueError):
    """What was asked cannot be done as asked."""


class UnknownNameError(InputError):
    """A name that nothing answers to; the message lists the known ones, and ends in `hint`, where there is one."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        self.name = name
        self.known = sorted(known)
        close = get_close_matches(name, self.known, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        listed = ", ".join(self.known) if self.known else "none"
        super().__init__(f"unknown {kind} {name!r}{meant}; known: {listed}" + (f"; {hint}" if hint else ""))


class DataError(InputError):
    """A data set, an image or an array is not usable."""


class ConfigError(InputError):
    """A setting is out of range, unknown or without effect."""


class StoreError(InputError):
    """A file is not a featcache store, or is damaged."""


class OvertakenError(StoreError):
    """Another process replaced the store between reading and writing it; nothing was written."""


class MissingRowsError(InputError):
    """The store is sound but lacks what was asked of it; the message gives the command that adds it."""


class MethodError(InputError):
    """A method's own code raised, or gave what is no number; the message names its file and the function."""


class BreachError(MethodError):
    """A method gave what no method may give, whatever its fields' values: a shape, a type, no gradient."""


class SpoiltError(MethodError):
    """A method changed what other runs share, so that nothing else of its search can be trusted."""

"""What a search has trained so far, a file a stack: the same search, begun again after a kill, trains only the rest.

Files lie in `unfinished/DIGEST/` beside the results until the search is recorded. The digest is of all that decides a
parameter's bits: the store's content, the settings and the recipe, the method's own file, the text of every task,
versions and machine. Each file has a checksum of its own; what does not read back whole is trained again.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from featcache.digests import of_tensors
from featcache.errors import FeatcacheError
from featcache.store.replacing import replacing
from featcache.store.spec import canonical_json
from featcache.task import Params

WORTH_KEEPING_S = 2.0
"""Seconds of training from which on a stack is kept: a shorter one is trained again as soon."""
MAX_STACK_BYTES = 2**28
_KEPT_DAYS = 14
"""A search that nobody went on with in that time is given up."""


class Shelf(Protocol):
    """Where finished stacks are kept."""

    def take(self, stack: str) -> list[Params] | None:
        """The parameters of each run of a stack, on the CPU; None where they are not kept."""
        ...

    def put(self, stack: str, fitted: Sequence[Params], seconds: float) -> None:
        """Keep what took so long to train, if it is worth it and the disk allows."""
        ...


class NoShelf:
    """Keeps nothing."""

    def take(self, stack: str) -> None:
        """Nothing."""

    def put(self, stack: str, fitted: Sequence[Params], seconds: float) -> None:
        """Forgotten."""


class DiskShelf:
    """The shelf of one search, a folder of safetensors files: no code runs on load."""

    def __init__(self, folder: Path, search: Any) -> None:
        """`folder` holds those of all searches; `search` is what decides this one's numbers, as plain JSON."""
        _give_up_old(folder)
        self.folder = folder / digest_of(search)

    def take(self, stack: str) -> list[Params] | None:
        """As Shelf."""
        path = self._path(stack)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = dict(file.metadata() or {})
            if told.get("digest") != of_tensors(tensors):
                return None
            fitted: list[Params] = [{} for _ in range(1 + max(int(name.partition(".")[0]) for name in tensors))]
            for name, value in tensors.items():
                run, _, param = name.partition(".")
                fitted[int(run)][param] = value
        except (OSError, SafetensorError, ValueError, LookupError, RuntimeError):
            return None
        return fitted

    def put(self, stack: str, fitted: Sequence[Params], seconds: float) -> None:
        """As Shelf."""
        if seconds < WORTH_KEEPING_S:
            return
        tensors = {
            f"{run}.{name}": value.detach().cpu().contiguous().clone()
            for run, params in enumerate(fitted)
            for name, value in params.items()
        }
        if sum(value.nbytes for value in tensors.values()) > MAX_STACK_BYTES:
            return
        with suppress(FeatcacheError, OSError), replacing(self._path(stack)) as temporary:
            temporary.write_bytes(save(tensors, {"digest": of_tensors(tensors)}))

    def clear(self) -> None:
        """The search is recorded: nothing of it is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, stack: str) -> Path:
        return self.folder / f"{stack}.safetensors"


def folder_of(results: Path) -> Path:
    """Where the shelves of the searches of a results file are."""
    return results.parent / "unfinished"


def digest_of(content: Any) -> str:
    """What a search or a stack is called."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:32]


def _give_up_old(folder: Path) -> None:
    with suppress(OSError):
        for search in folder.iterdir():
            if time.time() - search.stat().st_mtime > _KEPT_DAYS * 86400:
                shutil.rmtree(search, ignore_errors=True)

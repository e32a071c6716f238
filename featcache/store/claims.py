"""Claims: files that say which process is at what, so that several share the work or take turns.

A claim is made with O_EXCL, freshened by a thread and removed when the work is done. One whose process ran on this
machine and is no more can be taken over at once; one from elsewhere once nobody has freshened it for a while. Two
processes may so come to do the same thing, which costs time and nothing else: no correctness rests on a claim alone.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from featcache.store.replacing import is_gone, process_name

EXPIRES_S = 180.0
"""How long a claim may stay as it is before others hold it for abandoned; network disks may show a file as it was a
minute ago."""
_UNWRITTEN_S = 2.0
"""The same for one that does not say whose it is: its process died between making it and writing that."""
_FRESHEN_S = 5.0
_LONG_AGO = 5
"""Times EXPIRES_S: so old a claim is abandoned at first sight, however the machines' clocks differ."""
_ENDING = ".claim"


class Claims:
    """This process's claims in one folder; a context manager that gives up those still held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: set[Path] = set()
        self._seen: dict[Path, tuple[int, float]] = {}  # others': when freshened, and when that was noticed first
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, name: str) -> bool:
        """Whether what `name` stands for is this process's to do; so too where no claim can be made."""
        path = self._folder / f"{name}{_ENDING}"
        for _ in range(2):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                _create(path)
            except FileExistsError:
                if not self._is_abandoned(path):
                    return False
                with suppress(OSError):
                    path.unlink()
            except OSError:
                return True  # on a disk that refuses, work is repeated rather than left
            else:
                self._held.add(path)
                self._freshen()
                return True
        return False

    def release(self, name: str) -> None:
        """Give up the claim on what is done."""
        path = self._folder / f"{name}{_ENDING}"
        if path in self._held:
            self._held.discard(path)
            with suppress(OSError):
                path.unlink()

    def sweep(self) -> None:
        """Remove the claims in the folder that are abandoned."""
        for path in self._folder.glob(f"*{_ENDING}"):
            if path not in self._held and self._is_abandoned(path):
                with suppress(OSError):
                    path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        for path in self._held:
            with suppress(OSError):
                path.unlink()
        self._held.clear()

    def _is_abandoned(self, path: Path) -> bool:
        try:
            freshened_ns, writer = path.stat().st_mtime_ns, path.read_text()
        except OSError:
            return False  # given up just now, perhaps: whoever asks again will see
        if is_gone(writer) or time.time() - freshened_ns / 1e9 > _LONG_AGO * EXPIRES_S:
            return True
        before, noticed = self._seen.get(path, (0, 0.0))
        if before != freshened_ns:
            self._seen[path] = (freshened_ns, time.monotonic())
            return False
        return time.monotonic() - noticed > (EXPIRES_S if writer else _UNWRITTEN_S)

    def _freshen(self) -> None:
        """Start the thread that shows others that this process lives."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_fresh, daemon=True)
            self._thread.start()

    def _keep_fresh(self) -> None:
        while not self._over.wait(_FRESHEN_S):
            for path in tuple(self._held):
                with suppress(OSError):
                    os.utime(path)


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait until nobody else is about to replace the file at `path`, and keep others waiting meanwhile."""
    with Claims(path.parent) as claims:
        while not claims.take(f".{path.name}"):
            time.sleep(0.05)
        yield


def _create(path: Path) -> None:
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        os.write(handle, (process_name(os.getpid()) or "").encode())
    finally:
        os.close(handle)

"""Runs the command line with a fault below it: a kill or an error at one rename, flush, sync or removal.

    FEATCACHE_FAULT=kill-before:7 python -m tests.faulty extract ...

The package knows nothing of this; what it calls is replaced here, in a process that does nothing else.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = ("kill-before", "kill-after", "EIO", "ENOSPC")
SHARD_VIEWS = 20
"""Embeddings a shard: several shards from a few pictures."""


class Boundaries:
    """Counts the moments at which files change on disk, and lets one of them fail."""

    def __init__(self, fault: str, log: Path | None) -> None:
        kind, _, number = fault.partition(":")
        self.kind = kind
        self.number = int(number or 0)
        self.log = log
        self.process = os.getpid()
        self.count = 0

    def wrap(self, name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """`plain`, counted; the chosen call is the one that fails."""

        def called(*given: Any, **named: Any) -> Any:
            if os.getpid() != self.process or (name == "flush" and not _writes(given[0])):
                return plain(*given, **named)
            self.count += 1
            if self.log is not None:
                with self.log.open("a") as log:
                    log.write(name + "\n")
            if self.count != self.number:
                return plain(*given, **named)
            if self.kind == "kill-before":
                os.kill(self.process, signal.SIGKILL)
            try:
                if self.kind.startswith("kill") or name == "flush":  # a file that fails to flush is closed all the same
                    plain(*given, **named)
            finally:
                if self.kind == "kill-after":
                    os.kill(self.process, signal.SIGKILL)
            number = getattr(errno, self.kind)
            raise OSError(number, os.strerror(number))

        return called


def install(fault: str = "", log: Path | None = None) -> None:
    """Put the fault `KIND:N`, or `size:BYTES` for files that cannot grow beyond so many, into this process."""
    import h5py

    from featcache.extraction import shards

    shards.SHARD_VIEWS = SHARD_VIEWS
    if fault.startswith("size:"):
        size = int(fault.removeprefix("size:"))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # the write that reaches it is cut short
        fault = ""
    boundaries = Boundaries(fault, log)
    os.replace = boundaries.wrap("rename", os.replace)
    os.fsync = boundaries.wrap("sync", os.fsync)
    os.unlink = boundaries.wrap("removal", os.unlink)
    h5py.File.close = boundaries.wrap("flush", h5py.File.close)


def run(arguments: list[str]) -> int:
    """The command's exit code."""
    from featcache import cli

    sys.argv = ["featcache", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _writes(file: Any) -> bool:
    return bool(file) and file.mode != "r"


if __name__ == "__main__":
    log = os.environ.get("FEATCACHE_BOUNDARIES")
    install(os.environ.get("FEATCACHE_FAULT", ""), Path(log) if log else None)
    sys.exit(run(sys.argv[1:]))

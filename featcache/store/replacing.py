"""Files come into place whole or not at all: written under a temporary name, fsynced, renamed."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from featcache.errors import InputError, OvertakenError
from featcache.store.places import make_folder

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ALIVE_AT_MOST_S = 86400
"""A day is longer than any write: what is older was left behind, wherever its process ran."""


State = tuple[int, int] | None
"""What changes whenever a file is replaced; None where there is none."""


def state_of(path: Path) -> State:
    """The state of what is at `path` now."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


@contextmanager
def replacing(path: Path, *, unless: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """A temporary path beside `path`: fsynced and renamed over it when the block ends well, else removed.

    Raises InputError where the disk refuses, and OvertakenError where `unless` says so right before the rename; either
    leaves what was at `path` as it was.
    """
    make_folder(path.parent)
    sweep(path.parent)
    temporary = path.with_name(f".{path.name}.{process_name(os.getpid())}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync(temporary)
        if unless():
            raise OvertakenError(f"another process replaced {path} meanwhile, so nothing is written; run this again")
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:  # h5py raises either where HDF5 cannot write
        number = _errno(error)
        if number is None:
            raise
        raise InputError(f"cannot write {path}: {os.strerror(number)}{_what_to_do(number)}") from error
    finally:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed while they wrote left behind in a folder.

    A process of this machine is asked after; of one elsewhere only the file's age tells.
    """
    for left in folder.glob(".*.tmp"):
        with suppress(OSError):
            if _is_dead(left.name) or time.time() - left.stat().st_mtime > _ALIVE_AT_MOST_S:
                left.unlink()


def _errno(error: OSError | RuntimeError) -> int | None:
    """The system's number of what went wrong, which HDF5 tells in words only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    told = re.search(r"errno = (\d+)", str(error))
    return int(told[1]) if told else None


def _what_to_do(number: int) -> str:
    if number in _NOT_WRITABLE:
        return "; set FEATCACHE_HOME to a folder you can write to"
    if number in _FULL:
        return "; make room, or set FEATCACHE_HOME to a larger disk, then run the same command again: it goes on there"
    return "; nothing that was there is lost: run the same command again once the disk is sound"


def _is_dead(name: str) -> bool:
    """Whether a temporary file's writer ran on this machine and is no more."""
    writer = re.search(r"\.([0-9a-f]{8}-\d+-\d+)\.[0-9a-f]{8}\.tmp$", name)
    return writer is not None and is_gone(writer[1])


def is_gone(name: str) -> bool:
    """Whether the process that `process_name` called so ran on this machine and is no more."""
    found = re.fullmatch(r"([0-9a-f]{8})-(\d+)-\d+", name)
    return found is not None and found[1] == _machine() and process_name(int(found[2])) != name


def process_name(process: int) -> str | None:
    """How files call a process of this machine, by when it was started too; None where there is none."""
    if os.name == "posix":  # elsewhere signal 0 is no question
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass  # another user's
    return f"{_machine()}-{process}-{_started(process)}"


def _started(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "0"  # a system that does not say


@cache
def _machine() -> str:
    """Eight digits that tell this machine, since it was started, and its process numbers from any other."""
    facts = [platform.node()]
    with suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        facts.append(str(Path("/proc/self/ns/pid").readlink()))  # containers count processes on their own
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

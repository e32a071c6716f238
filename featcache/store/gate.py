"""A store made elsewhere is read once by a child process before this one opens it.

HDF5 is a large reader in C, and a file can be made, or be damaged, so that it crashes or hangs. Files that this
installation wrote are known by a note in the cache folder and are opened straight away; so is any other file once a
child has read all of it in bounded time and memory. The note is an empty file, `known/<place>-<state>`: where the store
is, and what would change if it were another (size, times, inode). So a note is made and found in one step, no two
processes can spoil one another's, and a note that is lost costs another reading and nothing else.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from featcache import confined
from featcache.confined import ConfinedError
from featcache.errors import StoreError
from featcache.store.places import home

SLOWEST_BYTES_A_S = 20e6
"""A child has a minute, and a second more for each so many bytes."""
_admitted: set[str] = set()
_refused: dict[str, str] = {}


def admit(path: Path) -> None:
    """Return where a store's file may be opened in this process. Raises StoreError where a child could not read it."""
    try:
        status = path.stat()
    except OSError:
        return  # what opens it says why it cannot
    admit_place(str(path.resolve()), _state(path), status.st_size)


def admit_place(place: str, state: str, size_bytes: int) -> None:
    """`admit` for anything that has an address and a state that changes with its bytes, such as a URL and its tag."""
    note = _note(place, state)
    if note.name in _admitted:
        return
    if note.name in _refused:
        raise StoreError(_refused[note.name])
    if not note.exists():
        _try_in_child(place, note.name, seconds=confined.SECONDS + size_bytes / SLOWEST_BYTES_A_S)
        _put(note)
    _admitted.add(note.name)


def vouch(path: Path) -> None:
    """Note that this installation wrote the file as it is now."""
    with suppress(OSError):  # gone again, which is not for here to tell
        note = _note(str(path.resolve()), _state(path))
        _put(note)
        _admitted.add(note.name)


def admit_unread(path: Path) -> None:
    """For the child itself: open the file whatever is known of it."""
    _admitted.add(_note(str(path.resolve()), _state(path)).name)


def _try_in_child(place: str, note: str, *, seconds: float) -> None:
    try:
        confined.call("featcache.store.trial:read_all", place, seconds=seconds)
    except ConfinedError as error:
        _refused[note] = (
            f"{place} was made elsewhere, so a process apart read it first, and that {error}: it is damaged or made to "
            "do harm, and is not opened"
        )
        raise StoreError(_refused[note]) from error


def _put(note: Path) -> None:
    """Make the note in place of others about the same place; where that cannot be, the file is read again next time."""
    with suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        for other in note.parent.glob(f"{note.name.partition('-')[0]}-*"):
            other.unlink(missing_ok=True)
        note.touch()


def _note(place: str, state: str) -> Path:
    return home() / "known" / f"{_short(place)}-{_short(state)}"


def _state(path: Path) -> str:
    """What differs between two files under one path; the time of the last change (ctime) cannot be set at will."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()

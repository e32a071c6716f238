"""Reads all of a store of which nothing is known; run in a child process (featcache/store/gate.py)."""

from __future__ import annotations

import re
from pathlib import Path

import h5py

from featcache import confined
from featcache.errors import StoreError
from featcache.store.bounds import HARMLESS, array_of
from featcache.store.gate import admit_unread
from featcache.store.places import key_of
from featcache.store.reading import Store

_STEP_BYTES = 1 << 20
_OUT_OF_MEMORY = re.compile(r"alloc|memory", re.IGNORECASE)


def read_all(path: str) -> int:
    """Read every array and attribute, a piece at a time; the number of arrays. Raises MemoryError where there is none.

    Damage that HDF5 notices is no reason against a file: its reader finds it again and says what is damaged.
    """
    admit_unread(Path(path))
    found, before = 0, _peak_bytes()
    try:
        key_of(Path(path))
        with h5py.File(path, "r", locking=False) as file:
            found = _read_items(file, Path(path).parent)
        with Store(Path(path)) as store:
            for split in store.splits:
                for read in (store.label, store.rows, store.missing):
                    read(split)
            for name in store.text_sets:
                store.text(name)
    except StoreError as error:
        _check_memory(error.__cause__ or error)
    except HARMLESS as error:
        _check_memory(error)
    # A file that took most of the memory it was given would take it here too.
    if _peak_bytes() - before > confined.MEMORY_BYTES // 2:
        raise MemoryError
    return found


def _read_items(file: h5py.File, folder: Path) -> int:
    names = ["/"]
    file.visit(names.append)
    for name in names:
        try:
            item = file[name]
            for attribute in item.attrs:
                item.attrs[attribute]
            if isinstance(item, h5py.Dataset):
                _read(array_of(file, name, folder))
        except (StoreError, *HARMLESS) as error:
            _check_memory(error)
    return len(names)


def _read(stored: h5py.Dataset) -> None:
    if not stored.shape:
        stored[()]
        return
    row_bytes = max(1, stored.nbytes // max(1, stored.shape[0]))
    step = stored.chunks[0] if stored.chunks else max(1, _STEP_BYTES // row_bytes)
    for start in range(0, stored.shape[0], step):
        try:
            stored[start : start + step]
        except HARMLESS as error:
            _check_memory(error)


def _check_memory(error: BaseException) -> None:
    """HDF5 says in words only that it wanted more memory than there was."""
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        raise MemoryError from error


def _peak_bytes() -> int:
    """The most memory this process has held at once, where the system tells; ru_maxrss would count its parent's."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)

"""HDF5 files written to a disk that may fail.

HDF5 cannot close a file whose last bytes the disk refuses: h5py then prints errors of its own and the process ends in a
segmentation fault. So HDF5 writes to an object that takes whatever it is given and remembers the disk's first refusal,
which is raised once the file is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import h5py

from featcache.interrupts import deferred

CHUNK_CACHE_BYTES = 512 * 1024
"""What HDF5 may keep of each open array: two chunks, half of what it takes by itself."""


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """A new file at `path`, closed at the end of the block; raises OSError where the disk refused a byte of it."""
    disk = _Disk(path)
    with deferred(), closing(disk):  # an exception where HDF5 calls back would crash it
        try:
            with h5py.File(disk, "w", libver="latest", rdcc_nbytes=CHUNK_CACHE_BYTES) as file:
                yield file
        except (OSError, RuntimeError):
            if disk.refusal is None:
                raise
        if disk.refusal is not None:  # all else that went wrong follows from it
            raise disk.refusal


class _Disk:
    """A file as h5py wants one, which never fails to write."""

    def __init__(self, path: Path) -> None:
        self.refusal: OSError | None = None
        self._file = path.open("w+b", buffering=0)

    def write(self, data: memoryview) -> int:
        view = memoryview(data)
        done = 0
        try:
            while self.refusal is None and done < len(view):
                done += self._file.write(view[done:]) or 0
        except OSError as error:
            self.refusal = error
        return len(view)

    def truncate(self, size: int) -> int:
        try:
            return self._file.truncate(size) if self.refusal is None else size
        except OSError as error:
            self.refusal = error
            return size

    def readinto(self, buffer: memoryview) -> int:
        return self._file.readinto(buffer)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing: this file has no buffer."""

    def close(self) -> None:
        self._file.close()

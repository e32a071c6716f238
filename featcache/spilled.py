"""Lists as long as a data set, kept in temporary files without a name: memory does not grow with them.

The system pages such a file in and out as it likes, and drops it with the last list that refers to it. They lie where
Python puts temporary files, so TMPDIR says where. What fits a page of memory stays there.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Self, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from featcache.errors import DataError

BLOCK = 8192
"""Numbers or paths handled at once."""


class Spill:
    """A row of numbers on its way out of memory; use as a context manager."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._dtype = np.dtype(dtype)
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=mmap.PAGESIZE)  # noqa: SIM115

    def add(self, values: NDArray[Any]) -> None:
        """Some more of them. Raises DataError where the disk has no room."""
        try:
            self._file.write(values.astype(self._dtype, copy=False).tobytes())
        except OSError as error:
            raise _no_room(error) from error

    def done(self, *, writable: bool = False) -> NDArray[Any]:
        """(N,) all of them. Nothing can be added any more."""
        file = self._file
        try:
            size = file.tell()
            if size <= mmap.PAGESIZE:
                file.seek(0)
                values = np.frombuffer(bytearray(file.read()), dtype=self._dtype)
                values.flags.writeable = writable
                return values
            file.flush()
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            return np.frombuffer(mmap.mmap(file.fileno(), size, access=access), dtype=self._dtype)
        except OSError as error:
            raise _no_room(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what does not fit the disk has been told
            self._file.close()


def spilled(blocks: Iterable[NDArray[Any]], dtype: DTypeLike) -> NDArray[Any]:
    """(N,) the blocks one after the other, read-only. Raises DataError where the disk has no room."""
    with Spill(dtype) as spill:
        for block in blocks:
            spill.add(block)
        return spill.done()


def zeros(count: int, dtype: DTypeLike) -> NDArray[Any]:
    """(count,) zeros, to be written to. Raises as `spilled`."""
    with Spill(dtype) as spill:
        for at in spans(count):
            spill.add(np.zeros(at.stop - at.start, dtype))
        return spill.done(writable=True)


def ascending(count: int) -> NDArray[np.int64]:
    """(count,) the numbers from 0. Raises as `spilled`."""
    return spilled((np.arange(at.start, at.stop) for at in spans(count)), np.int64)


def spans(count: int, size: int = BLOCK) -> Iterator[slice]:
    """The numbers from 0 to below `count`, `size` at a time."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


class Paths(Sequence[str]):
    """Texts in order, equal to any other sequence of the same texts."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        with Spill(np.uint8) as texts, Spill(np.int64) as ends:
            end = 0
            for block in _blocks(paths):
                encoded = [path.encode() for path in block]
                lengths = np.array([len(text) for text in encoded], dtype=np.int64)
                texts.add(np.frombuffer(b"".join(encoded), dtype=np.uint8))
                ends.add(end + np.cumsum(lengths))
                end += int(lengths.sum())
            self._texts: NDArray[np.uint8] = texts.done()
            self._ends: NDArray[np.int64] = ends.done()

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        at = range(len(self))[index]
        return self._texts[self._end(at - 1) : self._end(at)].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for at in spans(len(self)):
            begin = self._end(at.start - 1)
            texts = self._texts[begin : self._end(at.stop - 1)].tobytes()
            before = 0
            for end in (self._ends[at] - begin).tolist():
                yield texts[before:end].decode()
                before = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Paths({list(self)!r})"

    def __reduce__(self) -> tuple[type[Paths], tuple[list[str]]]:
        return Paths, (list(self),)  # to another process as texts: a file without a name cannot be sent

    def _end(self, at: int) -> int:
        return int(self._ends[at]) if at >= 0 else 0


def _blocks(paths: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for path in paths:
        block.append(path)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _no_room(error: OSError) -> DataError:
    return DataError(
        f"the list of images does not go into {tempfile.gettempdir()}: {error.strerror}; make room there, or name "
        "another folder for temporary files in TMPDIR"
    )

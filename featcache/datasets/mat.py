"""The one row of a variable in MATLAB files, read by a process apart: the format is packed, and scipy believes it."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from featcache import confined
from featcache.confined import ConfinedError
from featcache.errors import DataError

SIZE_BYTES = 64 << 20
"""The data sets' own files have less than one MiB."""


def read_rows(*wanted: tuple[Path, str]) -> list[list[Any]]:
    """Of each (file, variable), its first row: numbers, texts and records of them.

    Raises DataError for a file that is not there, not so made, or too much for its reader.
    """
    for file, _ in wanted:
        if find_spec("scipy") is None:
            raise DataError(f"reading {file} needs scipy: pip install scipy, or featcache[data]")
        if not file.is_file():
            raise DataError(f"{file} is not there")
        if file.stat().st_size > SIZE_BYTES:
            raise DataError(f"{file} has {file.stat().st_size:,} bytes, and more than {SIZE_BYTES:,} are not read")
    try:
        rows: list[list[Any]] = confined.call(
            "featcache.datasets.mat:rows_apart", *(str(part) for pair in wanted for part in pair)
        )
    except ConfinedError as error:
        files = " or ".join(str(file) for file, _ in wanted)
        raise DataError(f"{files} is no MATLAB file that can be read: the process apart that tried {error}") from error
    return rows


def rows_apart(*parts: str) -> list[list[Any]]:
    """`read_rows` in the process apart."""
    return [_row(Path(file), variable) for file, variable in zip(parts[::2], parts[1::2], strict=True)]


def _row(file: Path, variable: str) -> list[Any]:
    loadmat = importlib.import_module("scipy.io").loadmat  # here, since only two data sets need it
    try:
        return [_plain(item) for item in loadmat(file)[variable][0]]
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes scipy trip over anything
        raise DataError(
            f"{file} is not the MATLAB file the data set has: no row {variable} in it ({str(error)[:200]})"
        ) from error


def _plain(item: Any) -> Any:
    """What JSON can say of a cell, a number or a record."""
    names = getattr(getattr(item, "dtype", None), "names", None)
    if names and not getattr(item, "shape", ()):
        return {name: _plain(item[name]) for name in names}
    value = item
    while hasattr(value, "dtype"):
        value = value.item() if value.size == 1 else value[0]
    if not isinstance(value, (int, float, str)):
        raise TypeError(f"a number or a text is expected, found {type(value).__name__}")
    return value

"""Reading files of strangers: what they take is known before it is taken.

A file that is no regular file (a pipe, a device) may never end; a few bytes can claim arrays of terabytes, or unpack to
them. The limits are far above what the field's own files need.
"""

from __future__ import annotations

import json
import math
import stat
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from featcache.errors import DataError

TEXT_BYTES: Final = 1 << 30
"""Lists and tables: a line of 60 bytes for each of ImageNet-21k's 14 million images."""
IMAGE_BYTES: Final = 1 << 30
"""One image file: more than PIL's limit of 89 million pixels takes in any form that is read here."""
GROWTH: Final = 20
"""How many times its own size an archive of arrays may unpack to: embeddings hardly shrink."""
SMALL_BYTES: Final = 1 << 30
"""What an archive may unpack to whatever its size."""


def read_bytes(file: Path, limit_bytes: int) -> bytes:
    """The bytes of a regular file. Raises DataError for another kind and for more than the limit, OSError as ever."""
    status = file.stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # opening a pipe would wait for ever
        raise DataError(f"{file} is no regular file")
    if status.st_size > limit_bytes:
        raise DataError(f"{file} has {status.st_size:,} bytes, and more than {limit_bytes:,} are not read")
    with file.open("rb") as opened:
        return opened.read(limit_bytes)


def read_text(file: Path, encoding: str = "utf-8-sig") -> str:
    """The text of a file. Raises as `read_bytes`, and UnicodeDecodeError."""
    return read_bytes(file, TEXT_BYTES).decode(encoding)


def parse_json(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """What JSON says. Raises ValueError, for brackets in brackets without end too."""
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("its brackets lie too deep in one another") from None


def zip_members(file: Path) -> list[zipfile.ZipInfo] | None:
    """What a zip holds; None for a file that is none, or too damaged to be listed. Raises OSError as ever."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except OSError:
        raise
    except Exception:  # damaged bytes make zipfile trip over anything: names, versions, disks
        return None


def check_npz(file: Path, wanted: Collection[str]) -> list[str]:
    """The names of an .npz's arrays. Raises DataError where those wanted claim more bytes than are in it.

    Raises what zipfile and numpy raise for a file that does not read; nothing is unpacked but headers.
    """
    with zipfile.ZipFile(file) as archive:
        members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist()}
        taken = sum(info.file_size for name, info in members.items() if name in wanted)
        _check_growth(file, taken)
        for name in members.keys() & set(wanted):
            with archive.open(members[name]) as opened:
                claimed = _npy_bytes(opened)
            if claimed > members[name].file_size:
                raise DataError(f"{file}: {name} claims {claimed:,} bytes, but {members[name].file_size:,} are in it")
        return list(members)


def check_torch(file: Path) -> None:
    """Raises DataError for a file that torch.save has not written so: packed, claiming too much, or an old archive."""
    members = zip_members(file)
    if members is None:
        with file.open("rb") as opened:
            if opened.read(1) != b"\x80":  # torch would also take a tar, and follow the links in it
                raise DataError(f"{file} is refused: it does not read as a tensor saved by torch.save")
        return
    if packed := [info.filename for info in members if info.compress_type != zipfile.ZIP_STORED]:
        raise DataError(f"{file} is refused: {packed[0]!r} in it is packed, which torch.save never does")
    claimed, size = sum(info.file_size for info in members), file.stat().st_size
    if claimed > size:
        raise DataError(f"{file} is refused: it claims {claimed:,} bytes, in a file of {size:,}")


def _check_growth(file: Path, num_bytes: int) -> None:
    limit = max(GROWTH * file.stat().st_size, SMALL_BYTES)
    if num_bytes > limit:
        raise DataError(f"{file} unpacks to {num_bytes:,} bytes, and more than {limit:,} are not read")


def _npy_bytes(opened: IO[bytes]) -> int:
    """What the header of an .npy says its array takes."""
    version = np.lib.format.read_magic(opened)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"its .npy version {version} is not one of plain arrays")
    shape, _, dtype = read(opened)
    if dtype.hasobject:
        raise ValueError(f"it holds objects ({dtype}), not plain numbers or text")
    return math.prod(map(int, shape)) * int(dtype.itemsize)

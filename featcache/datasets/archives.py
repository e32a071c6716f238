"""A tar or zip archive -> files below one new folder, and nothing anywhere else.

What an archive says of itself is not believed. Members are plain files and folders with paths that stay inside; links,
devices and paths that leave end the unpacking. Nothing of a member is taken but its path and its bytes: no owner, no
mode. What it takes on disk is bounded, whatever sizes it states.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, BinaryIO, Final, NamedTuple, Protocol, cast

from featcache.errors import DataError

GROWTH: Final = 20  # photographs hardly shrink in an archive; lists of names do, up to about this much
SMALLEST_LIMIT_BYTES: Final = 1 << 30
_BLOCK_BYTES: Final = 4096  # a file takes whole blocks, so that a flood of empty files is bounded too
_CHUNK_BYTES: Final = 1 << 20
_NUM_NAMED: Final = 3  # how many of an archive's first folders a message names
_DAMAGE: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    UnicodeError,  # a member's name
    NotImplementedError,  # zipfile: a compression it does not know
)


class _Member(NamedTuple):
    """One entry of an archive, as it is come upon."""

    path: str
    kind: str
    """"file" or "folder", else what it is in words."""
    content: IO[bytes] | None


class _Allowance:
    """The bytes that may still be spent on an archive."""

    def __init__(self, archive: Path, limit_bytes: int) -> None:
        self._archive = archive
        self._limit = self._left = limit_bytes

    def spend(self, num_bytes: int) -> None:
        """Raises DataError where the archive has no bytes left."""
        self._left -= num_bytes
        if self._left < 0:
            raise DataError(
                f"{self._archive} unpacks to more than {self._limit:,} bytes, {GROWTH} times its own size or "
                f"{SMALLEST_LIMIT_BYTES:,}: no images shrink like that, so it is not what it should be; it was not "
                "unpacked"
            )


def unpack(archive: Path, folder: Path, *, strip: str = "", limit_bytes: int | None = None) -> int:
    """How many files of the archive were written below `folder`, which is made here.

    Of members below `strip` the rest of the path is kept; others are left out. Where `strip` leads into an archive that
    is itself a member, the path goes on inside that one. `limit_bytes` bounds what comes out, blocks of small files
    counted whole; None is 20 times the archive, at least 1 GiB. Raises DataError for a member that leaves the folder,
    is a link or a device, for an encrypted, damaged, unknown or swelling archive, and where nothing is below `strip`.
    After an error the folder may hold a part; it is the caller's to remove.
    """
    if limit_bytes is None:
        limit_bytes = max(GROWTH * archive.stat().st_size, SMALLEST_LIMIT_BYTES)
    prefix = _parts(strip)
    num_files, seen = 0, dict[str, None]()
    with (
        _damage_named(archive),
        archive.open("rb") as file,
        closing(_members(file, archive, _Allowance(archive, limit_bytes))) as members,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for member in members:
            parts = _safe_parts(member, archive)
            if len(seen) < _NUM_NAMED:
                seen.update(dict.fromkeys(parts[:1]))
            if parts[: len(prefix)] == prefix and len(parts) > len(prefix):
                num_files += _write(member, folder.joinpath(*parts[len(prefix) :]))
            elif parts and parts == prefix[: len(parts)] and member.kind == "file":
                rest = PurePosixPath(*prefix[len(parts) :]).as_posix()
                num_files += _unpack_inner(member, folder, strip=rest, limit_bytes=limit_bytes)
    if not num_files:
        held = f"it begins with {', '.join(seen)}" if seen else "it is empty"
        raise DataError(f"{archive} holds no file below {strip or 'its top'}; {held}")
    return num_files


def _unpack_inner(member: _Member, folder: Path, *, strip: str, limit_bytes: int) -> int:
    """Unpack a member that is an archive itself, by way of a file beside `folder`."""
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as beside:
        inner = Path(beside) / PurePosixPath(member.path).name
        _write(member, inner)
        return unpack(inner, folder, strip=strip, limit_bytes=limit_bytes)


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    """The many errors of archives that cannot be read, as one DataError."""
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{archive} cannot be unpacked, it is cut or damaged: {error}; remove it and try again"
        ) from error
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"{archive} cannot be unpacked: it holds {error.filename} as a file and as a folder") from error
    except UnicodeError as error:
        raise DataError(f"{archive} cannot be unpacked: a path in it is no text ({error})") from error
    except OSError as error:
        raise DataError(f"{archive} cannot be unpacked: {error.strerror or error}") from error


def _members(file: BinaryIO, archive: Path, allowance: _Allowance) -> Generator[_Member]:
    """The archive's members in its own order, its kind told by its first bytes, not by its name."""
    head = file.read(512)
    file.seek(0)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_members(file, archive, allowance)
    if head.startswith(b"\x1f\x8b"):
        return _tar_members(gzip.GzipFile(fileobj=file), allowance)
    if head.startswith(b"BZh"):
        return _tar_members(bz2.BZ2File(file), allowance)
    if head.startswith(b"\xfd7zXZ\0"):
        return _tar_members(lzma.LZMAFile(file), allowance)
    if head[257:262] == b"ustar":
        return _tar_members(file, allowance)
    raise DataError(f"{archive} is no tar or zip archive: it begins with {head[:16]!r}")


def _tar_members(stream: _Readable, allowance: _Allowance) -> Generator[_Member]:
    # Reading on and on (r|) goes through each byte once and holds none: neither a member that is left out nor a header
    # of gigabytes escapes the allowance.
    metered = cast(IO[bytes], _Metered(stream, allowance))  # all that tarfile does with it is to read
    with tarfile.open(fileobj=metered, mode="r|") as tar:
        while (info := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else it keeps a record of each of a million images
            if info.isdir():
                yield _Member(info.name, "folder", None)
            elif info.isreg():
                allowance.spend(-info.size % _BLOCK_BYTES)
                yield _Member(info.name, "file", tar.extractfile(info))
            else:
                links = {tarfile.SYMTYPE: "a link", tarfile.LNKTYPE: "a hard link"}
                yield _Member(info.name, links.get(info.type, "a device or pipe"), None)


class _Readable(Protocol):
    """All that is asked of a stream of decompressed bytes."""

    def read(self, size: int = ..., /) -> bytes: ...


class _Metered:
    """A stream whose bytes are counted against an allowance."""

    def __init__(self, stream: _Readable, allowance: _Allowance) -> None:
        self._stream = stream
        self._allowance = allowance

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._allowance.spend(len(data))
        return data


def _zip_members(file: BinaryIO, archive: Path, allowance: _Allowance) -> Generator[_Member]:
    with zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            mode = info.external_attr >> 16
            if not info.filename:
                raise DataError(f"{archive} is damaged: a member of it has no name; remove it and try again")
            if info.flag_bits & 1:
                raise DataError(f"{archive} is encrypted ({info.filename}); unpack it by hand with its password")
            if info.is_dir():
                yield _Member(info.filename, "folder", None)
            elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                # zipfile reads no byte beyond file_size.
                allowance.spend(info.file_size + -info.file_size % _BLOCK_BYTES)
                with opened.open(info) as content:
                    yield _Member(info.filename, "file", content)
            else:
                yield _Member(info.filename, "a link" if stat.S_ISLNK(mode) else "a device or pipe", None)


def _safe_parts(member: _Member, archive: Path) -> tuple[str, ...]:
    """The parts of the member's path. Raises DataError unless it is a file or folder that stays inside."""
    if member.kind not in ("file", "folder"):
        raise DataError(
            f"{archive} holds {member.path}, which is {member.kind}; only files and folders are unpacked, so it was "
            "not: remove it and get a sound copy"
        )
    # Windows' rules are the stricter ones and cover POSIX: both separators, drives, shares.
    strict = PureWindowsPath(member.path)
    if strict.anchor or ".." in strict.parts or "\0" in member.path:
        raise DataError(
            f"{archive} holds {member.path!r}, a path that leaves its folder; it was not unpacked: remove it and get a "
            "sound copy"
        )
    return _parts(member.path)


def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path).parts


def _write(member: _Member, file: Path) -> int:
    """The number of files written, 1 or 0."""
    if member.content is None:
        file.mkdir(parents=True, exist_ok=True)
        return 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as written:
        while chunk := member.content.read(_CHUNK_BYTES):
            written.write(chunk)
    return 1

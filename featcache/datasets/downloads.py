"""What the catalogue names on the net -> the files of one data set's own folder, each put there once.

`outstanding` says what is left to do, `obtain` does one of it. A record in the folder says what was unpacked from
where, so that the archives need not be kept. What is unpacked is made under a name that begins with a dot and renamed
into place.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from featcache.datasets.about import Download
from featcache.datasets.archives import unpack
from featcache.datasets.fetching import PATIENT, Patience, Progress, check, check_space, fetch, partial_files
from featcache.errors import DataError

RECORD: Final = ".featcache-downloads.json"
_UNPACKING: Final = ".featcache-unpacking"


@dataclass(frozen=True, kw_only=True)
class Obtained:
    """What one download came to."""

    download: Download
    sha256: str
    """Of the file as fetched, in hex."""
    num_files: int
    """Files unpacked; 1 where the file was kept as it is."""


def outstanding(folder: Path, downloads: Sequence[Download]) -> list[Download]:
    """The downloads that `folder` does not hold yet, or holds unchecked, by the record and by what is present."""
    record = _read_record(folder)
    return [download for download in downloads if not _is_there(folder, download, record)]


def left_over(folder: Path, downloads: Sequence[Download]) -> str:
    """What an interrupted download or unpacking left in `folder`, in words; empty where nothing did."""
    if (folder / _UNPACKING).exists():
        return "unpacking was cut"
    if cut := [download.file for download in downloads if partial_files(folder / download.file)[0].exists()]:
        return f"download of {', '.join(cut)} was cut"
    return ""


def check_room(folder: Path, downloads: Sequence[Download]) -> None:
    """Raises DataError where the disk has no room for the downloads whose length is known.

    An archive counts twice: images take about as much unpacked, and it goes only once they are there.
    """
    needed = 0
    for download in downloads:
        if download.size_bytes is not None:
            here = sum(_size(place) for place in (folder / download.file, partial_files(folder / download.file)[0]))
            needed += download.size_bytes * (1 if download.unpack is None else 2) - here
    check_space(folder, needed, f"what {folder.name} lacks")


def obtain(
    download: Download,
    folder: Path,
    *,
    page: str,
    progress: Progress,
    patience: Patience = PATIENT,
    keep_archive: bool = False,
) -> Obtained:
    """Fetch one download into `folder`, check it and, where it is an archive, unpack it.

    A file that lies there already, brought by hand perhaps, is checked and used. Unpacked files replace those of the
    same path; no other is touched. Raises DataError as `fetch` and `unpack` do, and where what lies there is not what
    is stated; the folder then holds what it held before, beside what a later call goes on from.
    """
    file = folder / download.file
    if file.exists():
        sha256 = check(file, download, on_fault=lambda: _refuse(file, download))
    else:
        sha256 = fetch(download, folder, page=page, progress=progress, patience=patience)
    if download.unpack is None:
        placed, num_files = [download.file], 1
    else:
        placed, num_files = _unpack_into_place(file, folder, download)
    _note(folder, download, sha256, placed)
    if download.unpack is not None and not keep_archive:
        file.unlink()
    return Obtained(download=download, sha256=sha256, num_files=num_files)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The folder, made where it is missing, for this process alone. Raises DataError where another one is at it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder}: {error.strerror}") from error
    if sys.platform == "win32":  # a folder cannot be locked there
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"another prepare is at work in {folder}; wait for its end") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF):  # some network disks lock nothing
                raise
        yield
    finally:
        os.close(descriptor)


def _refuse(file: Path, download: Download) -> None:
    raise DataError(
        f"{file} is there already but is not the file that {download.url} is stated to be (length or checksum differ); "
        "move it away to have it fetched"
    )


def _is_there(folder: Path, download: Download, record: Mapping[str, Any]) -> bool:
    noted = record.get(download.file)
    if not (isinstance(noted, dict) and noted.get("stated") == _stated(download)):
        # Never checked: a checksum, where one is stated, is still to be taken.
        file = folder / download.file
        return download.unpack is None and not download.checksum and file.is_file()
    placed = noted.get("placed")
    return isinstance(placed, list) and all((folder / name).exists() for name in placed)


def _unpack_into_place(file: Path, folder: Path, download: Download) -> tuple[list[str], int]:
    """What was put into `folder`, as paths below it, and the number of files in that."""
    staging = folder / _UNPACKING
    shutil.rmtree(staging, ignore_errors=True)
    try:
        num_files = unpack(file, staging, strip=download.strip)
        below = Path(download.unpack or ".")
        at_top = not below.parts  # its members go beside what else the folder holds
        placed = sorted(entry.name for entry in staging.iterdir()) if at_top else [below.as_posix()]
        _move(staging, folder / below)
    except OSError as error:
        raise DataError(f"cannot move what {file} holds into {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return placed, num_files


def _move(source: Path, target: Path) -> None:
    """Rename `source` to `target`; where a folder is there already, entry by entry into it."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        _rename(source, target)
    elif source.is_dir() and target.is_dir():
        for entry in sorted(source.iterdir()):
            _move(entry, target / entry.name)
    elif source.is_dir() or target.is_dir():
        raise DataError(f"{target} is in the way: the archive has a {'folder' if source.is_dir() else 'file'} there")
    else:
        _rename(source, target)


def _rename(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # the user's folder is a link to another disk
            raise
        shutil.move(source, target)


def _note(folder: Path, download: Download, sha256: str, placed: Sequence[str]) -> None:
    record = _read_record(folder)
    record[download.file] = {"stated": _stated(download), "sha256": sha256, "placed": list(placed)}
    fresh = folder / f"{RECORD}.new"
    fresh.write_text(json.dumps(record, indent=1), encoding="utf-8")
    fresh.replace(folder / RECORD)


def _read_record(folder: Path) -> dict[str, Any]:
    """What was obtained here, by file name; empty where no sound record says so."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _stated(download: Download) -> list[str | None]:
    """By what a record's entry is known to be about this download: a catalogue that says otherwise has it redone."""
    return [download.url, download.checksum, download.unpack, download.strip]


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0

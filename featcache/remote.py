"""Files elsewhere, by fsspec's URLs: s3://, gs://, hf://, and whatever else fsspec knows.

Credentials come from where each service's own tools take them: environment, profiles, the machine's role. Whatever a
service raises becomes one DataError that names the URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from featcache.errors import ConfigError, DataError, FeatcacheError

_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_TIMES: Final = ("LastModified", "mtime", "modified", "updated", "last_modified", "created")
_NAMED: Final = ("ETag", "etag", "md5Hash", "blob_id", "sha256")
_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


class NothingThereError(DataError):
    """There is nothing at a URL."""


class Entry(NamedTuple):
    """A file or folder as its service lists it."""

    name: str
    is_folder: bool
    size: int
    mtime_ns: int
    """When it was written, rounded up to a whole second, as services keep it; 0 where they do not say."""
    tag: str
    """What changes whenever its bytes do."""


def is_url(text: str | Path) -> bool:
    """Whether this names a file elsewhere."""
    return bool(_URL.match(str(text)))


def as_url(place: Path) -> str | None:
    """The URL that a command line's path is, which lost a slash on the way; None for a path of this machine."""
    found = re.match(r"([a-z][a-z0-9+.-]+):/+(?=[^/])", place.as_posix(), re.IGNORECASE)
    return f"{found[1]}://{place.as_posix()[found.end() :]}" if found else None


def entries(url: str) -> list[Entry]:
    """What lies directly in the folder at `url`, by name; empty where there is none. Raises DataError."""
    with _explained(url):
        filesystem, path = _at(url)
        filesystem.invalidate_cache()  # another command may have listed it long ago
        try:
            found = filesystem.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
    own = path.rstrip("/")
    return sorted(_entry(item) for item in found if item["name"].rstrip("/") != own)


def entry(url: str) -> Entry:
    """The file or folder at `url`. Raises DataError where there is none."""
    with _explained(url):
        filesystem, path = _at(url)
        filesystem.invalidate_cache()
        return _entry(filesystem.info(path))


def read_bytes(url: str) -> bytes:
    """The bytes of the file at `url`. Raises DataError."""
    with _explained(url):
        filesystem, path = _at(url)
        content: bytes = filesystem.cat_file(path)
    return content


def download(url: str, file: Path) -> None:
    """Write the file at `url` to `file`, which is whole only when this returns. Raises DataError."""
    with _explained(url):
        filesystem, path = _at(url)
        filesystem.get_file(path, str(file))


def upload(file: Path, url: str) -> None:
    """Write `file` to `url`. Raises DataError where the service refuses, or has another size of it afterwards."""
    with _explained(url, doing="write"):
        filesystem, path = _at(url)
        filesystem.put_file(str(file), path)
        filesystem.invalidate_cache()
        there = int(filesystem.info(path)["size"])
    if there != file.stat().st_size:
        raise DataError(f"{url} has {there:,} bytes after {file.stat().st_size:,} were sent; try again")


def joined(url: str, *parts: str) -> str:
    """The URL of something below `url`."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts if part not in ("", "."))])


def parent(url: str) -> str:
    """The URL of the folder that holds what is at `url`."""
    return url.rstrip("/").rpartition("/")[0]


def last_name(url: str) -> str:
    """What the file or folder at `url` is called."""
    return url.rstrip("/").rpartition("/")[2]


def _at(url: str) -> tuple[Any, str]:
    filesystem, root = _opened(url.partition("://")[0].lower(), os.getpid())
    return filesystem, filesystem._strip_protocol(url) or root


@lru_cache(maxsize=8)
def _opened(protocol: str, process: int) -> tuple[Any, str]:  # noqa: ARG001 (a forked process needs its own)
    """The file system of a protocol. Raises ConfigError where a package for it is lacking."""
    try:
        import fsspec

        return fsspec.filesystem(protocol, use_listings_cache=False), ""
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        how = f"pip install 'featcache[{extra}]'" if extra else "pip install the package it names"
        raise ConfigError(f"{protocol}:// needs a package that is not here ({error}): {how}") from error
    except ValueError as error:
        raise ConfigError(
            f"there is no way to read {protocol}:// ({error}); s3://, gs:// and hf:// are known"
        ) from error


@contextmanager
def _explained(url: str, doing: str = "read") -> Iterator[None]:
    """Whatever a service raises inside becomes one DataError."""
    try:
        yield
    except FeatcacheError:
        raise
    except FileNotFoundError as error:
        raise NothingThereError(f"there is nothing at {url}, or nothing that these credentials may see") from error
    except Exception as error:  # every service has errors of its own
        said = " ".join(str(error).split())[:300] or "no reason given"
        raise DataError(
            f"cannot {doing} {url}: {type(error).__name__}: {said}; credentials are taken from the environment, as the "
            "service's own tools take them"
        ) from error


def _entry(item: dict[str, Any]) -> Entry:
    name = last_name(str(item["name"]))
    size = int(item.get("size") or 0)
    mtime_ns = _mtime_ns(item)
    tag = next((str(item[key]) for key in _NAMED if item.get(key)), f"{size}-{mtime_ns}")
    return Entry(name, item.get("type") == "directory", size, mtime_ns, tag)


def _mtime_ns(item: dict[str, Any]) -> int:
    for key in _TIMES:
        value = item.get(key)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime):
            value = value.timestamp()
        if isinstance(value, int | float):
            return (int(value) + 1) * 10**9
    return 0

"""Folders of images, on this machine or elsewhere, as the readers of data sets look at them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from featcache import remote
from featcache.datasets.listing import SUFFIXES, file_names, image_names, sub_folders
from featcache.datasets.manifest import FileReader, Reader, SourceInfo, Status, decode_named, source_info
from featcache.errors import DataError


class Tree(Protocol):
    """A folder and what is below it; paths are POSIX and relative to it, the empty one is the folder itself."""

    @property
    def name(self) -> str:
        """What the folder is called."""
        ...

    def where(self, path: str = "") -> str:
        """What messages call a place in it."""
        ...

    def folders(self, path: str = "") -> list[str]:
        """The names of the visible folders in one, sorted; none where it is not there."""
        ...

    def images(self, path: str) -> list[str]:
        """The names of the visible image files in one, sorted."""
        ...

    def files(self, path: str) -> set[str]:
        """The names of all files in one; none where it is not there."""
        ...

    def reader(self) -> Reader:
        """What reads its images, turned as their EXIF data say."""
        ...


@dataclass(frozen=True)
class LocalTree:
    """A folder of this machine."""

    root: Path

    @property
    def name(self) -> str:
        """What the folder is called."""
        return self.root.resolve().name

    def where(self, path: str = "") -> str:
        """What messages call a place in it."""
        return str(self.root / path)

    def folders(self, path: str = "") -> list[str]:
        """The names of the visible folders in one, sorted; none where it is not there."""
        return sub_folders(self.root / path) if (self.root / path).is_dir() else []

    def images(self, path: str) -> list[str]:
        """The names of the visible image files in one, sorted."""
        return image_names(self.root / path)

    def files(self, path: str) -> set[str]:
        """The names of all files in one; none where it is not there."""
        return file_names(self.root / path)

    def reader(self) -> Reader:
        """What reads its images, turned as their EXIF data say."""
        return FileReader(self.root.resolve(), upright=True)


class RemoteTree:
    """A folder elsewhere; each folder in it is listed once."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._listed: dict[str, dict[str, remote.Entry]] = {}

    @property
    def name(self) -> str:
        """What the folder is called."""
        return remote.last_name(self.url)

    def where(self, path: str = "") -> str:
        """What messages call a place in it."""
        return remote.joined(self.url, path)

    def folders(self, path: str = "") -> list[str]:
        """The names of the visible folders in one, sorted; none where it is not there."""
        return [name for name, entry in self._entries(path).items() if entry.is_folder and not name.startswith(".")]

    def images(self, path: str) -> list[str]:
        """The names of the visible image files in one, sorted."""
        return [name for name in sorted(self.files(path)) if name.lower().endswith(SUFFIXES) and name[0] != "."]

    def files(self, path: str) -> set[str]:
        """The names of all files in one; none where it is not there."""
        return {name for name, entry in self._entries(path).items() if not entry.is_folder}

    def reader(self, *, upright: bool = True) -> Reader:
        """What reads its images, turned as their EXIF data say; it knows those that were listed."""
        statuses = {
            "/".join(filter(None, (folder, name))): Status(entry.size, entry.mtime_ns)
            for folder, listed in self._listed.items()
            for name, entry in listed.items()
            if not entry.is_folder
        }
        return RemoteReader(self.url, upright, statuses)

    def _entries(self, path: str) -> dict[str, remote.Entry]:
        path = "" if path == "." else path.strip("/")
        if path not in self._listed:
            self._listed[path] = {entry.name: entry for entry in remote.entries(self.where(path))}
        return self._listed[path]


@dataclass(frozen=True)
class RemoteReader:
    """Reads image files below a URL."""

    url: str
    upright: bool = False
    """Whether an EXIF rotation is applied, as for `FileReader`."""
    statuses: dict[str, Status] = field(default_factory=dict, compare=False, repr=False)
    """What the listing said of each file; a copy in another process has none, for it only reads."""

    @cached_property
    def place(self) -> str:
        """A digest of the URL."""
        return hashlib.sha256(os.fsencode(self.url)).hexdigest()[:16]

    def read_bytes(self, path: str) -> bytes:
        """The file's bytes. Raises DataError."""
        return remote.read_bytes(remote.joined(self.url, path))

    def status(self, path: str) -> Status:
        """The file's size and time when its folder was listed. Raises DataError for one that was not there."""
        if path not in self.statuses:
            raise DataError(
                f"image {path} is listed in the data set but not found under {self.url}; restore the file, or take it "
                "out of the data set"
            )
        return self.statuses[path]

    def read(self, path: str) -> tuple[Image.Image, SourceInfo]:
        """The decoded file."""
        data = self.read_bytes(path)
        return decode_named(data, f"{path} under {self.url}", upright=self.upright), source_info(data)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteReader, (self.url, self.upright)

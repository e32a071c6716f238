"""What a data set is before any image is read, and the readers that turn one of its paths into an image."""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featcache import views
from featcache.bounded import IMAGE_BYTES, read_bytes
from featcache.errors import DataError
from featcache.spilled import BLOCK, Paths, Spill, spans


class SourceInfo(NamedTuple):
    """By what a changed image is noticed."""

    size_bytes: int
    """Length of the file, or of the rendered array."""
    content_hash: int
    """First 8 bytes of the SHA-256 of those bytes, as an unsigned 64-bit number, big-endian."""


class Status(NamedTuple):
    """What a place tells of a file without reading it."""

    size_bytes: int
    mtime_ns: int
    """When it was last written; 0 where the place does not say."""


class Reader(Protocol):
    """Turns a manifest's path into an image; picklable, since loader processes get a copy."""

    @property
    def upright(self) -> bool:
        """Whether images are turned as their EXIF data say. It changes pixels, so it belongs into a store's key."""
        ...

    @property
    def place(self) -> str:
        """Says, without naming it, which folder images are read from; empty where a path says all."""
        ...

    def read_bytes(self, path: str) -> bytes:
        """The bytes that `SourceInfo` is about."""
        ...

    def read(self, path: str) -> tuple[Image.Image, SourceInfo]:
        """The RGB image and what it was made from. Raises DataError that names the path."""
        ...


@runtime_checkable
class Watched(Reader, Protocol):
    """A reader of files, which may change under the same path."""

    def status(self, path: str) -> Status:
        """The file's size and time. Raises DataError that names the path where it is not there."""
        ...


@dataclass(frozen=True)
class FileReader:
    """Reads image files under `root`."""

    root: Path
    upright: bool = False
    """Whether an EXIF rotation is applied: the user's own images, yes; CoOp's data sets, no, as CoOp itself."""

    @cached_property
    def place(self) -> str:
        """A digest of the folder's real path: names no folder of the machine, yet tells two apart."""
        return hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()[:16]

    def read_bytes(self, path: str) -> bytes:
        """The file's bytes."""
        try:
            return read_bytes(self.root / path, IMAGE_BYTES)
        except OSError as error:
            raise self._absent(path, error) from error

    def status(self, path: str) -> Status:
        """The file's size and time. Raises DataError as `read_bytes` does."""
        try:
            found = (self.root / path).stat()
        except OSError as error:
            raise self._absent(path, error) from error
        return Status(found.st_size, found.st_mtime_ns)

    def _absent(self, path: str, error: OSError) -> DataError:
        reason = "not found" if isinstance(error, FileNotFoundError) else f"not readable ({error.strerror})"
        return DataError(
            f"image {path} is listed in the data set but {reason} under {self.root}; restore the file, or take it "
            "out of the data set"
        )

    def read(self, path: str) -> tuple[Image.Image, SourceInfo]:
        """The decoded file."""
        data = self.read_bytes(path)
        return decode_named(data, f"{path} under {self.root}", upright=self.upright), source_info(data)


@dataclass(frozen=True)
class RenderedReader:
    """Renders images of the bundled `shapes`."""

    upright: ClassVar[bool] = False
    place: ClassVar[str] = ""

    def read_bytes(self, path: str) -> bytes:
        """The rendered array's bytes: rows of RGB pixels."""
        return _render(path).tobytes()

    def read(self, path: str) -> tuple[Image.Image, SourceInfo]:
        """The rendered image."""
        pixels = _render(path)
        return Image.fromarray(pixels), source_info(pixels.tobytes())


def decode_named(data: bytes, name: str, *, upright: bool) -> Image.Image:
    """The RGB image in these bytes. Raises DataError that names the image."""
    try:
        return views.decode(data, upright=upright)
    except DataError as error:
        raise DataError(f"image {name} does not decode: {error}") from error


def source_info(data: bytes) -> SourceInfo:
    """Size and content hash of an image's bytes."""
    return SourceInfo(len(data), int.from_bytes(hashlib.sha256(data).digest()[:8], "big"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """One split of a data set."""

    path: Paths
    """POSIX paths relative to the data set's own folder."""
    label: NDArray[np.int64]
    """(N,) class index of each path."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Manifest:
    """Every image of a data set, with class and split. Compare two by `digest`."""

    name: str
    """As typed, save that folder:PATH keeps only the folder's own name."""
    classes: tuple[str, ...]
    """Names as put into prompts, by class index."""
    template: str
    """The data set's single prompt, with one {} for the class name."""
    splits: dict[str, Split]
    """"test" always; "train" and "val" where the data set has them."""
    source: str
    """Where the splits come from, in a few words."""
    reader: Reader
    """Turns a path into an image."""
    ids: tuple[str, ...] = ()
    """What tells the classes apart where names may repeat (ImageNet's WordNet ids); empty: the names do."""

    @property
    def class_ids(self) -> tuple[str, ...]:
        """What a class is called across data sets: its id, or its name where it has none."""
        return self.ids or self.classes

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return re.sub(r"[^\w.-]+", "-", self.name, flags=re.ASCII).strip("-.")

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the name and every (split, path, class index) in order.

        It changes if and only if one of them does. The name is in it because two folders of a user's may well hold
        files of the same names.
        """
        digest = hashlib.sha256()
        for text in self._as_json():
            digest.update(text.encode())
        return digest.hexdigest()

    def _as_json(self) -> Iterator[str]:
        """[name, [split, [path, ..], [class index, ..]], ..] as JSON without blanks, a piece at a time."""
        yield f"[{json.dumps(self.name)}"
        for name, split in sorted(self.splits.items()):
            yield f",[{json.dumps(name)},["
            yield from _entries(split.path)
            yield "],["
            yield from _entries(split.label)
            yield "]]"
        yield "]"


def split_of(items: Iterable[tuple[str, int]]) -> Split:
    """The split that lists these (path, class index) in this order. Raises DataError for a name that is not Unicode."""
    labels = array("q")
    with Spill(np.int64) as label:

        def paths() -> Iterator[str]:
            for path, index in items:
                check_unicode(path)
                labels.append(index)
                if len(labels) == BLOCK:
                    label.add(np.array(labels))
                    del labels[:]
                yield path

        path = Paths(paths())
        label.add(np.array(labels))
        return Split(path=path, label=label.done())


def _entries(values: Sequence[Any] | NDArray[Any]) -> Iterator[str]:
    """What stands between the brackets of a list in JSON."""
    for at in spans(len(values)):
        block = values[at]
        listed = block.tolist() if isinstance(block, np.ndarray) else list(block)
        yield ("," if at.start else "") + json.dumps(listed, separators=(",", ":"))[1:-1]


def check_unicode(text: str) -> None:
    """Raises DataError for text that a store, which keeps UTF-8, could not hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the name {text!r} is not valid Unicode; rename it") from error


def _render(path: str) -> NDArray[np.uint8]:
    from featcache.bundled import shapes  # the renderer loads only where its images are asked for

    return shapes.read(path)

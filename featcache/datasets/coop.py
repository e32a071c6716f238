"""Data sets in CoOp's folder layout: an image folder and a split_zhou_NAME.json that lists every image.

The file is {"train" | "val" | "test": [[path below the image folder, class index, class name], ..]}; the class names in
it are the ones CoOp prompts with, already renamed where CoOp renames them (EuroSAT, Caltech101). Where the file is not
there, the data set's own lists are read, as CoOp does (lists.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from featcache import bounded
from featcache.bounded import TEXT_BYTES, parse_json
from featcache.datasets.about import About
from featcache.datasets.listing import (
    ROOT_HINT,
    SPLITS,
    Entry,
    Listed,
    check_inside,
    check_listed,
    check_present,
    check_unique,
    class_names,
    own_folder,
)
from featcache.datasets.manifest import FileReader, Manifest, Reader, Split, split_of
from featcache.datasets.trees import RemoteTree
from featcache.errors import DataError
from featcache.remote import as_url, joined, last_name, read_bytes


@dataclass(frozen=True, kw_only=True)
class CoopLayout:
    """Where one of CoOp's data sets lies below the data root, and what lists its images."""

    folder: str
    """The data set's own folder."""
    images: str
    """The image folder in it."""
    split: str | None
    """The split file's name is split_zhou_<this>.json; None where CoOp reads the data set's own lists always."""
    lists: Callable[[Path], Listed]
    """Reads the data set's own lists, given its own folder."""
    about: About
    """Where it comes from, and how big it is."""
    template: str = "a photo of a {}."
    """CoOp's single prompt."""

    @property
    def layout(self) -> tuple[str, ...]:
        """The image folder, unless it is the data set's own, and the split file, where CoOp has one."""
        images = () if self.images == "." else (f"{self.images}/",)
        return images if self.split is None else (*images, f"split_zhou_{self.split}.json")

    def manifest(self, name: str, data: Path | None) -> Manifest:
        """The manifest under `name`. Raises DataError unless every listed image is there and the lists are sound."""
        if data is not None and (url := as_url(data)):
            return self._elsewhere(name, joined(url, self.folder))
        root = own_folder(name, data, self.folder, self.images)
        listed, where = self._listed(root)
        manifest = self._made(name, listed, where, FileReader(root))
        check_present(manifest.splits, root, where)
        return manifest

    def _elsewhere(self, name: str, url: str) -> Manifest:
        """The manifest of the data set's folder at a URL, which must hold CoOp's split file."""
        if self.split is None:
            raise DataError(f"data set {name} has no split file, so only a folder of this machine will do: copy {url}")
        file = joined(url, f"split_zhou_{self.split}.json")
        content = _parsed(read_bytes(file), file)
        where, tree = f"split file {file}", RemoteTree(url)
        listed = Listed({split: _entries(items, where, split) for split, items in content.items()}, last_name(file))
        manifest = self._made(name, listed, where, FileReader(Path()))
        check_listed(manifest.splits, tree.files, where, url)
        return replace(manifest, reader=tree.reader(upright=False))  # it knows what has been listed by now

    def _made(self, name: str, listed: Listed, where: str, reader: Reader) -> Manifest:
        check_inside(listed.entries, where)
        classes = class_names(listed.entries, where)
        splits = {split: self._split(items) for split, items in listed.entries.items() if items}
        check_unique(splits, where)
        return Manifest(
            name=name,
            classes=classes,
            template=self.template,
            splits=splits,
            source=listed.source,
            reader=reader,
        )

    def _listed(self, root: Path) -> tuple[Listed, str]:
        """What the lists say, and what to call them in messages."""
        own = f"the lists in {root}"
        if self.split is None:
            return self.lists(root), own
        file = root / f"split_zhou_{self.split}.json"
        if file.exists():
            where = f"split file {file}"
            content = _read_json(file)
            return Listed({split: _entries(items, where, split) for split, items in content.items()}, file.name), where
        try:
            return self.lists(root), own
        except DataError as error:
            raise DataError(
                f"split file {file} is not there, and the data set's own lists do not serve in its place: {error}; "
                f"{ROOT_HINT}"
            ) from error

    def _split(self, entries: list[Entry]) -> Split:
        return split_of(((PurePosixPath(self.images) / path).as_posix(), label) for path, label, _ in entries)


def _read_json(file: Path) -> dict[str, list[Any]]:
    """The file's lists, by split; val may be absent."""
    try:
        data = bounded.read_bytes(file, TEXT_BYTES)
    except (OSError, DataError) as error:
        raise DataError(f"split file {file} cannot be read as JSON: {error}") from error
    return _parsed(data, str(file))


def _parsed(data: bytes, file: str) -> dict[str, list[Any]]:
    try:
        content = parse_json(data.decode("utf-8"))
    except ValueError as error:
        raise DataError(f"split file {file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or set(content) - {"val"} != {"train", "test"}:
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"split file {file} must be an object with train, test and perhaps val; found {found}")
    for split in SPLITS:
        items = content.setdefault(split, [])
        if not isinstance(items, list) or not (items or split == "val"):
            raise DataError(f"split file {file}: {split} must be a list with at least one entry")
    return content


def _entries(items: list[Any], where: str, split: str) -> list[Entry]:
    """The split's entries, their types checked."""
    for position, item in enumerate(items):
        match item:
            case [str(_), int(label), str(_)] if label >= 0 and not isinstance(label, bool):
                pass
            case _:
                raise DataError(
                    f"{where}: {split} entry {position} must be [path, class index, class name]; found {item!r}"
                )
    return [(path, label, name) for path, label, name in items]

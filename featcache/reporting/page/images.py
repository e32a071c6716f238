"""Thumbnails of test images, small enough to lie inside the page; where the images are at hand."""

from __future__ import annotations

import base64
import io
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from featcache import datasets
from featcache.datasets import Manifest
from featcache.errors import FeatcacheError
from featcache.store import Store
from featcache.store.places import home, make_folder

SIDE = 44
"""Pixels of a thumbnail's longer side."""
_QUALITY = 62
BUDGET = 2_000_000
"""Characters of all thumbnails of a page; what is asked for beyond has none."""


class Images:
    """Reads the images that stores were made of; without `wanted` it finds none."""

    def __init__(self, data: Path | None = None, *, wanted: bool = True) -> None:
        self._data = data
        self._wanted = wanted
        self._manifests: dict[str, Manifest | None] = {}
        self._given: dict[tuple[str, int], int] = {}

    def thumbnails(self, store: Store, rows: Sequence[int]) -> dict[int, str]:
        """A JPEG data URI for each of the given test rows of the manifest whose image can be read."""
        manifest = self._manifest(store) if self._wanted else None
        if manifest is None:
            return {}
        file = home() / "report" / f"thumbnails-{store.spec.manifest[:16]}-{SIDE}.json"
        kept = _read(file)
        fresh = {}
        for row in (row for row in rows if str(row) not in kept):
            try:
                image, _ = manifest.reader.read(manifest.splits["test"].path[row])
            except FeatcacheError:  # one that does not decode has none; the others do
                continue
            fresh[str(row)] = _encoded(image)
        if fresh:
            _write(file, kept | fresh)
        both = kept | fresh
        return {row: both[str(row)] for row in rows if str(row) in both and self._afford(store, row, both[str(row)])}

    def _afford(self, store: Store, row: int, image: str) -> bool:
        """Whether the budget allows one more; what was given before costs nothing, for the page holds it once."""
        place = store.spec.manifest, row
        if place not in self._given and sum(self._given.values()) + len(image) > BUDGET:
            return False
        self._given[place] = len(image)
        return True

    def _manifest(self, store: Store) -> Manifest | None:
        """The data set as it was extracted; None where it is not there, or lists other images now."""
        if store.key not in self._manifests:
            self._manifests[store.key] = self._load(store)
        return self._manifests[store.key]

    def _load(self, store: Store) -> Manifest | None:
        words = shlex.split(str(store.provenance.get("command", "")))
        options = dict(zip(words[2::2], words[3::2], strict=False))
        if "--dataset" not in options:
            return None
        names = options.get("--classnames")
        try:
            found = datasets.load(
                options["--dataset"],
                data=self._data,
                template=options.get("--template"),
                classnames=None if names is None else Path(names),
            )
        except FeatcacheError:
            return None
        return found if found.digest == store.spec.manifest and "test" in found.splits else None


def _encoded(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    small.save(kept, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(kept.getvalue()).decode("ascii")


def _read(file: Path) -> dict[str, str]:
    """What was kept; nothing where there is no sound file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(row): str(image) for row, image in found.items()} if isinstance(found, dict) else {}


def _write(file: Path, images: dict[str, str]) -> None:
    make_folder(file.parent)
    fresh = file.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(json.dumps(images), encoding="utf-8")
    fresh.replace(file)

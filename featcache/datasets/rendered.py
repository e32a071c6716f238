"""The bundled `shapes` data set: rendered by code, nothing stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from featcache.datasets.about import About
from featcache.datasets.manifest import Manifest, RenderedReader, split_of


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A data set made of the renderer's splits."""

    splits: dict[str, str]
    """Our split -> the renderer's."""
    about: About
    """What it is, and how big."""
    folder: str = ""
    """None of its own below the data root: nothing is on disk."""

    layout: ClassVar[tuple[str, ...]] = ()

    @property
    def template(self) -> str:
        """The single prompt."""
        from featcache.bundled import shapes  # loaded only where its images are asked for

        return shapes.TEMPLATE

    def manifest(self, name: str, data: Path | None) -> Manifest:  # noqa: ARG002 (nothing is on disk)
        """The manifest under `name`; no folder is needed."""
        from featcache.bundled import shapes  # loaded only where its images are asked for

        return Manifest(
            name=name,
            classes=tuple(shapes.CLASSES),
            template=self.template,
            splits={ours: split_of(shapes.paths(theirs)) for ours, theirs in self.splits.items()},
            source="rendered by featcache.bundled.shapes",
            reader=RenderedReader(),
        )

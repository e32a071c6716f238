"""A data set's name -> its manifest (every image with class and split), before any image is read.

Neither torch nor open_clip is imported: loader processes and the planning step read this module.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from featcache.datasets.catalogue import CATALOGUE, Source
from featcache.datasets.folders import read_folder
from featcache.datasets.hub import read_hub
from featcache.datasets.manifest import FileReader, Manifest, Reader, RenderedReader, SourceInfo, Split, check_unicode
from featcache.datasets.tables import read_table
from featcache.errors import DataError, UnknownNameError
from featcache.prompts import check_template

__all__ = [
    "CATALOGUE",
    "FileReader",
    "Manifest",
    "Reader",
    "RenderedReader",
    "Source",
    "SourceInfo",
    "Split",
    "known",
    "load",
]

OWN: Final = {"folder": (read_folder, "PATH"), "csv": (read_table, "FILE"), "hf": (read_hub, "NAME")}
"""What stands before the colon of the user's own data -> its reader, and what stands after the colon."""


def known() -> list[str]:
    """Names that `load` takes, sorted, without the open-ended ones of OWN."""
    return sorted(CATALOGUE)


def load(name: str, *, data: Path | None, template: str | None = None, classnames: Path | None = None) -> Manifest:
    """The manifest of a data set in the catalogue, or of the user's own: folder:PATH, csv:FILE or hf:NAME.

    `data` is the folder that holds data sets in CoOp's layout; `template` replaces the data set's own prompt;
    `classnames` is a text file with one name a line, in the order of the class indices. Raises UnknownNameError,
    DataError for a missing folder, a missing file or an unsound split, and ConfigError for an unusable template.
    """
    kind, colon, place = name.partition(":")
    if colon and kind in OWN:
        manifest = OWN[kind][0](place)
    elif name in CATALOGUE:
        manifest = CATALOGUE[name].manifest(name, data)
    else:
        raise UnknownNameError("data set", name, [*known(), *(f"{kind}:{what}" for kind, (_, what) in OWN.items())])
    if classnames is not None:
        manifest = dataclasses.replace(manifest, classes=_read_names(classnames, len(manifest.classes), name))
    if template is not None:
        manifest = dataclasses.replace(manifest, template=template)
    check_template(manifest.template)
    return dataclasses.replace(manifest, classes=_prompt_names(manifest.classes, manifest.ids, name))


def _read_names(file: Path, num_classes: int, dataset: str) -> tuple[str, ...]:
    try:
        names = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read class names from {file}: {error}") from error
    if len(names) != num_classes:
        raise DataError(
            f"{file} has {len(names)} lines, but {dataset} has {num_classes} classes; give one name a line, in the "
            "order of the class indices"
        )
    return tuple(names)


def _prompt_names(names: tuple[str, ...], ids: tuple[str, ...], dataset: str) -> tuple[str, ...]:
    """Names as prompts use them. Raises DataError for an empty one, and, without ids, for two that come out alike."""
    prompt_names = tuple(" ".join(name.replace("_", " ").split()) for name in names)
    first: dict[str, int] = {}
    for index, name in enumerate(prompt_names):
        check_unicode(name)
        if not name:
            raise DataError(f"class {index} of {dataset} has an empty name")
        if name in first and not ids:
            raise DataError(
                f"classes {first[name]} and {index} of {dataset} are both called {name!r} in prompts, so no text can "
                "tell them apart; rename one, or give other names with a file of class names"
            )
        first[name] = index
    return prompt_names

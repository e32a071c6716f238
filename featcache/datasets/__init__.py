"""A data set's name -> its manifest (every image with class and split), before any image is read.

Neither torch nor open_clip is imported: loader processes and the planning step read this module.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Final

from featcache.bounded import read_text
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
        own = [f"{kind}:{what}" for kind, (_, what) in OWN.items()]
        raise UnknownNameError("data set", name, [*known(), *own], hint=_own_name(name))
    if classnames is not None:
        manifest = dataclasses.replace(manifest, classes=_read_names(classnames, len(manifest.classes), name))
    if template is not None:
        manifest = dataclasses.replace(manifest, template=template)
    check_template(manifest.template)
    return dataclasses.replace(manifest, classes=_prompt_names(manifest.classes, manifest.ids, name))


def _own_name(name: str) -> str:
    """How the user's own data, typed without what stands before the colon, would be written."""
    if os.path.isdir(name):  # noqa: PTH112 (pathlib's raises for a name too long to be one)
        return f"{name} is a folder: for one with a folder a class, write folder:{name}"
    is_file = os.path.isfile(name)  # noqa: PTH113
    return f"{name} is a file: for a table of images, write csv:{name}" if is_file else ""


def _read_names(file: Path, num_classes: int, dataset: str) -> tuple[str, ...]:
    try:
        names = read_text(file).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read class names from {file}: {error}") from error
    if len(names) != num_classes:
        raise DataError(
            f"{file} has {len(names)} lines, but {dataset} has {num_classes} classes; give one name a line, in the "
            "order of the class indices"
        )
    return tuple(names)


def _prompt_names(names: tuple[str, ...], ids: tuple[str, ...], dataset: str) -> tuple[str, ...]:
    """Names as prompts use them. Raises DataError for an empty one, and, without ids, for two that come out alike.

    Capitals tell none apart: CLIP's tokenizer makes them small.
    """
    prompt_names = tuple(" ".join(name.replace("_", " ").split()) for name in names)
    first: dict[str, int] = {}
    for index, name in enumerate(prompt_names):
        check_unicode(name)
        if not name:
            raise DataError(f"class {index} of {dataset} has an empty name")
        other = first.setdefault(name.lower(), index)
        if other != index and not ids:
            raise DataError(
                f"classes {other} and {index} of {dataset} are both called {name.lower()!r} in prompts, which CLIP "
                "reads without capitals, so no text can tell them apart; rename one, or give other names: "
                "--classnames FILE"
            )
    return prompt_names

"""The catalogue: a data set's name -> its manifest (every image with class and split), before any image is read.

To add a data set, add one entry to `CATALOGUE`. Neither torch nor open_clip is imported: loader processes and the
planning step read this module.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final, Protocol

from featcache.datasets.coop import CoopLayout
from featcache.datasets.folders import read_folder
from featcache.datasets.manifest import FileReader, Manifest, Reader, RenderedReader, SourceInfo, Split, check_unicode
from featcache.datasets.rendered import Rendered
from featcache.errors import ConfigError, DataError, UnknownNameError

__all__ = ["CATALOGUE", "FileReader", "Manifest", "Reader", "RenderedReader", "SourceInfo", "Split", "known", "load"]

FOLDER: Final = "folder:"


class Source(Protocol):
    """One entry of the catalogue."""

    def manifest(self, name: str, data: Path | None) -> Manifest:
        """The data set's manifest under `name`; `data` is the folder that holds data sets, where one was given."""
        ...


CATALOGUE: Final[dict[str, Source]] = {
    "shapes": Rendered(splits={"train": "train", "val": "val", "test": "test"}),
    "shapes-sketch": Rendered(splits={"test": "sketch"}),
    "shapes-noise": Rendered(splits={"test": "noise"}),
    # Folders, split files and single templates as in CoOp's DATASETS.md, datasets/*.py and trainers/zsclip.py.
    "caltech101": CoopLayout("caltech-101", "101_ObjectCategories", "Caltech101"),
    "dtd": CoopLayout("dtd", "images", "DescribableTextures", template="{} texture."),
    "eurosat": CoopLayout("eurosat", "2750", "EuroSAT", template="a centered satellite photo of {}."),
    "food101": CoopLayout("food-101", "images", "Food101", template="a photo of {}, a type of food."),
    "oxford_flowers": CoopLayout(
        "oxford_flowers", "jpg", "OxfordFlowers", template="a photo of a {}, a type of flower."
    ),
    "oxford_pets": CoopLayout("oxford_pets", "images", "OxfordPets", template="a photo of a {}, a type of pet."),
    "stanford_cars": CoopLayout("stanford_cars", ".", "StanfordCars"),
    "sun397": CoopLayout("sun397", "SUN397", "SUN397"),
    "ucf101": CoopLayout("ucf101", "UCF-101-midframes", "UCF101", template="a photo of a person doing {}."),
}


def known() -> list[str]:
    """Names that `load` takes, sorted, without the open-ended folder:PATH."""
    return sorted(CATALOGUE)


def load(name: str, *, data: Path | None, template: str | None = None, classnames: Path | None = None) -> Manifest:
    """The manifest of a data set in the catalogue, or of `folder:PATH`, a folder of class directories.

    `data` is the folder that holds data sets in CoOp's layout; `template` replaces the data set's own prompt;
    `classnames` is a text file with one name a line, in the order of the class indices. Raises UnknownNameError,
    DataError for a missing folder, a missing file or an unsound split, and ConfigError for an unusable template.
    """
    if name.startswith(FOLDER):
        manifest = read_folder(name.removeprefix(FOLDER))
    elif name in CATALOGUE:
        manifest = CATALOGUE[name].manifest(name, data)
    else:
        raise UnknownNameError("data set", name, [*known(), f"{FOLDER}PATH"])
    if classnames is not None:
        manifest = dataclasses.replace(manifest, classes=_read_names(classnames, len(manifest.classes), name))
    if template is not None:
        manifest = dataclasses.replace(manifest, template=template)
    _check_template(manifest.template)
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


def _check_template(template: str) -> None:
    if (template.count("{}"), template.count("{"), template.count("}")) != (1, 1, 1):
        raise ConfigError(f'template {template!r} must hold exactly one {{}}, as in "a photo of a {{}}."')


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

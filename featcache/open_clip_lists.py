"""The lists that open_clip and timm ship: ImageNet's class names and WordNet ids, and its prompt templates.

open_clip's `zero_shot_metadata.py` imports nothing, so it is run by its path; importing open_clip itself would take
seconds and load torch. timm, which open_clip depends on, keeps the ids in a text file.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Final

from featcache.errors import DataError, UnknownNameError

TEMPLATE_SETS: Final = {"openai-80": "OPENAI_IMAGENET_TEMPLATES", "simple-7": "SIMPLE_IMAGENET_TEMPLATES"}
"""Our name of a template set -> open_clip's. `simple-7` is the seven of the CLIP-Adapter paper."""


def imagenet_classes() -> dict[str, str]:
    """WordNet id -> class name of ImageNet's 1000 classes, in the order of the class indices.

    Names may repeat, ids do not. Raises DataError where the installed open_clip and timm do not list as many.
    """
    ids = _wordnet_ids()
    names = tuple(map(str, _metadata().IMAGENET_CLASSNAMES))
    if len(ids) != len(names):
        raise DataError(
            f"open_clip names {len(names)} ImageNet classes, but timm lists {len(ids)} ids; reinstall open_clip_torch "
            "and timm, or give the names with a file classnames.txt in the data set's folder"
        )
    return dict(zip(ids, names, strict=True))


def imagenet_templates(kind: str) -> tuple[str, ...]:
    """The templates of one of `TEMPLATE_SETS`, each with one {} for the class name. Raises UnknownNameError."""
    if kind not in TEMPLATE_SETS:
        raise UnknownNameError("template set", kind, TEMPLATE_SETS)
    functions = getattr(_metadata(), TEMPLATE_SETS[kind])  # open_clip keeps them as functions of the name
    return tuple(str(function("{}")) for function in functions)


@functools.cache
def _metadata() -> ModuleType:
    """open_clip's module of lists, under a name of its own."""
    file = _installed("open_clip", "open_clip_torch") / "zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("featcache._open_clip_metadata", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise DataError(f"open_clip is installed without {file}; reinstall open_clip_torch")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def _wordnet_ids() -> tuple[str, ...]:
    file = _installed("timm", "timm") / "data" / "_info" / "imagenet_synsets.txt"
    try:
        return tuple(file.read_text(encoding="ascii").split())
    except OSError as error:
        raise DataError(f"timm is installed without {file}; reinstall timm") from error


def _installed(package: str, distribution: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"{package} is not installed; ImageNet's names and templates need pip install {distribution}")
    return Path(spec.submodule_search_locations[0])

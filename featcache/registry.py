"""Finds method files and loads one by name.

Files are loaded BY PATH, from `featcache/adapters` where it exists (an installed wheel), else from `adapters`
beside the package (a checkout). The file's stem is the method's name; nothing is registered, nothing is imported
before it is asked for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType

from featcache.errors import ConfigError, DataError, UnknownNameError
from featcache.locations import adapters_folder
from featcache.task import Method

__all__ = ["adapters_folder", "add_folder", "known", "load", "origin"]

_STATED = ("needs", "transfers", "views", "post_hoc", "grid")
_STATED_TRAINED = ("preset", "constant", "inert")


_user_folders: list[Path] = []
"""Folders of the user's own method files, looked into first."""


def add_folder(folder: Path) -> None:
    """Look for methods in a folder of the user's too. Its files are code and run when they are loaded; DataError."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} to load methods from")
    if folder.absolute() not in _user_folders:
        _user_folders.insert(0, folder.absolute())


def user_folders() -> list[Path]:
    """The user's own folders in the order in which `add_folder` has to be told of them."""
    return _user_folders[::-1]


def known() -> dict[str, Path]:
    """Every method's name and file; a user's file wins over ours of the same name."""
    folders = [adapters_folder(), *reversed(_user_folders)]
    return {
        path.stem: path for folder in folders for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")
    }


def origin(name: str) -> dict[str, str]:
    """The file of a method and the SHA-256 of its bytes; the folder too, where it is not one of ours."""
    file = known()[name]
    told = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    return told if file.parent == adapters_folder() else {**told, "folder": str(file.parent)}


def load(name: str) -> type[Method]:
    """The method class in the file called `name`; raises UnknownNameError or, for a malformed file, ConfigError."""
    files = known()
    if name not in files:
        raise UnknownNameError("adapter", name, files)
    module = _load_file(name, files[name])
    found = [item for item in vars(module).values() if _is_method(item, module)]
    if len(found) != 1:
        raise ConfigError(
            f"{files[name].name} holds {len(found)} methods; a method file holds exactly one dataclass with "
            "`needs`, `logits` and either `init` (trained) or `solve` (closed form)"
        )
    lacking = [name for name in _STATED if not hasattr(found[0], name)]
    lacking += [name for name in _STATED_TRAINED if hasattr(found[0], "init") and not hasattr(found[0], name)]
    if lacking:
        raise ConfigError(
            f"the method in {files[name].name} does not state {', '.join(lacking)}; `featcache adapters new NAME` "
            "writes a file that states them all"
        )
    method: type[Method] = found[0]
    return method


def _load_file(name: str, path: Path) -> ModuleType:
    full_name = f"featcache._methods.{name}"
    loaded = sys.modules.get(full_name)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(full_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full_name] = module  # before it runs: postponed annotations look their module up here
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is the user's, and may raise anything
        del sys.modules[full_name]
        raise ConfigError(f"{path} cannot be loaded ({type(error).__name__}: {error})") from error
    except BaseException:
        del sys.modules[full_name]
        raise
    return module


def _is_method(item: object, module: ModuleType) -> bool:
    return (
        isinstance(item, type)
        and item.__module__ == module.__name__
        and is_dataclass(item)
        and hasattr(item, "needs")
        and hasattr(item, "logits")
        and (hasattr(item, "init") or hasattr(item, "solve"))
    )

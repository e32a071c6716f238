"""Where stores, parts and results live, and how a store is named on the command line."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from featcache.errors import InputError, StoreError, UnknownNameError
from featcache.locations import home, results_path, stores_folder
from featcache.remote import is_url

__all__ = [
    "check_name",
    "home",
    "key_of",
    "list_stores",
    "make_folder",
    "parts_folder",
    "resolve",
    "results_path",
    "store_path",
    "stores_folder",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,119}")


def parts_folder(key: str) -> Path:
    """The folder of a store's parts that are not assembled yet."""
    return home() / "parts" / key


def make_folder(folder: Path) -> Path:
    """The folder, made if absent; raises InputError where that is not permitted."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {folder}: {error.strerror}; set FEATCACHE_HOME to a folder you can write to"
        ) from error
    return folder


def check_name(name: str) -> str:
    """The store name itself, if it can be a file name and cannot leave the cache folder."""
    if not _NAME.fullmatch(name) or name.endswith(".h5"):
        raise InputError(
            f"{name!r} cannot name a store: use letters, digits, dot, dash, underscore and plus, "
            "beginning with a letter or digit and not ending in .h5"
        )
    return name


def store_path(name: str, key: str) -> Path:
    """Where the store `name` with `key` lives: NAME.h5, or NAME-<8 digits of the key>.h5 when NAME is another's.

    Raises StoreError where that file is there but does not read as a store: it may be worth saving.
    """
    path = stores_folder() / f"{check_name(name)}.h5"
    if path.exists() and key_of(path) not in (None, key):
        path = path.with_name(f"{name}-{key[:8]}.h5")
    if path.exists() and key_of(path) != key:
        raise StoreError(
            f"{path} is in the way: it is damaged or no store; look at it, then remove it with "
            f"`featcache cache rm {path.stem}`"
        )
    return path


def list_stores() -> list[Path]:
    """Every store file in the cache folder, newest first."""
    found = []
    for path in stores_folder().glob("*.h5"):
        with suppress(OSError):  # a broken link, or removed by another process just now
            if path.is_file() and not path.name.startswith("."):
                found.append((-path.stat().st_mtime_ns, path.name, path))
    return [path for *_, path in sorted(found)]


def resolve(name: str | None) -> Path:
    """The store file that a name, a key prefix, a path or a URL means; without one, the newest store."""
    if name is not None and is_url(name):
        from featcache.store.elsewhere import local_copy

        return local_copy(name)
    stores = list_stores()
    if name is None:
        if not stores:
            raise InputError(
                f"there is no store in {stores_folder()}; make one with "
                "`featcache extract --dataset shapes --backbone tiny` or `featcache import FILE.npz --name NAME`"
            )
        return stores[0]
    by_name = {path.stem: path for path in stores}
    if name in by_name:
        return by_name[name]
    if name.endswith(".h5") or os.sep in name:
        if not Path(name).is_file():
            raise StoreError(f"there is no file {name}; `featcache cache ls` lists the stores")
        return Path(name)
    if re.fullmatch(r"[0-9a-f]{4,64}", name):
        matches = [path for path in stores if (key_of(path) or "").startswith(name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            named = ", ".join(path.stem for path in matches)
            raise InputError(f"the key prefix {name} fits {len(matches)} stores, {named}; give a name or more digits")
    raise UnknownNameError("store", name, by_name)


def with_key(key: str, name: str) -> Path | None:
    """The store of a key, the one of that name where several have it, else the newest; None where none has."""
    stores = sorted(list_stores(), key=lambda path: path.stem != name)
    return next((path for path in stores if key_of(path) == key), None)


def key_of(path: Path) -> str | None:
    """The key a store file says it has, or None when there is no such store."""
    from featcache.store.bounds import HARMLESS
    from featcache.store.reading import open_file  # which needs this module

    try:
        with open_file(path) as file:
            key = file.attrs.get("key")
    except (*HARMLESS, StoreError):
        return None
    if isinstance(key, bytes):
        key = key.decode(errors="replace")
    return key if isinstance(key, str) else None

"""Stores that lie elsewhere, by URL: read through a local copy, sent, brought."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from featcache import remote
from featcache.errors import StoreError
from featcache.store.claims import turn
from featcache.store.copying import contents_of
from featcache.store.gate import vouch
from featcache.store.places import check_name, home, key_of, make_folder, stores_folder
from featcache.store.reading import Store
from featcache.store.replacing import replacing
from featcache.store.writing import write_store

_NOTE = "source.json"


def local_copy(url: str) -> Path:
    """A copy of the store at `url`, fetched once and again only when what is there has changed.

    Raises DataError where there is nothing or it cannot be read, StoreError where it is no store.
    """
    there = remote.entry(url)
    folder = home() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:16]
    file = folder / f"{_stem(url)}.h5"
    seen = {"url": url, "size": there.size, "tag": there.tag, "written": there.mtime_ns}
    with turn(file):
        if _noted(folder) != seen or not file.is_file():
            _bring(url, file)
            with replacing(folder / _NOTE) as temporary:
                temporary.write_text(json.dumps(seen))
    return file


def origin_of(path: Path) -> str | None:
    """The URL that a file is the local copy of; None for any other."""
    found = _noted(path.parent)
    return found["url"] if isinstance(found, dict) and path.parent.parent == home() / "remote" else None


def push(path: Path, url: str, *, force: bool) -> str:
    """The URL of the store at `path` once it has been sent to `url`: a file's, ending in .h5, or a folder's.

    Raises StoreError, unless forced, where a store of another key is there.
    """
    target = url if url.endswith(".h5") else remote.joined(url, path.name)
    with Store(path) as store:  # a damaged header is better found before it is sent
        key = store.key
        found = None if force else _key_at(target)
        if found not in (None, key):
            raise StoreError(
                f"{target} holds another store, key {found[:8]}, not {key[:8]}; choose another name, or replace it "
                "with --force"
            )
        if store.layout == "whole":
            remote.upload(path, target)
        else:
            with TemporaryDirectory(dir=make_folder(home())) as folder:
                one = Path(folder) / path.name
                write_store(one, contents_of(store, whole=True))
                remote.upload(one, target)
    return target


def pull(url: str, name: str | None, *, force: bool) -> Path:
    """The store at `url` as one of the cache's own, called `name` or as it is there.

    Raises StoreError, unless forced, where the cache has a store of that name with other content: it may hold rows that
    the other lacks.
    """
    path = stores_folder() / f"{check_name(name or _stem(url))}.h5"
    with turn(path):
        if path.exists() and not force:
            arrived = local_copy(url)
            with Store(path) as mine, Store(arrived) as theirs:
                if mine.content == theirs.content:
                    return path
            raise StoreError(
                f"there is a store called {path.stem} already, with other content; give the new one another --name, or "
                "replace the old one with --force"
            )
        _bring(url, path)
    return path


def _bring(url: str, file: Path) -> None:
    """Put the store at `url` at `file`, whole or not at all."""
    with replacing(file) as temporary:
        remote.download(url, temporary)
        if key_of(temporary) is None:
            raise StoreError(f"what is at {url} is no featcache store")
        with Store(temporary):
            pass  # a damaged header is a StoreError
    vouch(file)  # it was read apart under its other name


def _key_at(url: str) -> str | None:
    """The key of the store at `url`; None where there is nothing. Raises StoreError where there is something else."""
    try:
        remote.entry(url)
    except remote.NothingThereError:
        return None
    with Store(local_copy(url)) as store:
        return store.key


def _stem(url: str) -> str:
    name = remote.last_name(url)
    if not name.endswith(".h5"):
        raise StoreError(f"{url} does not end in .h5, so it is no store; say the file's URL")
    return check_name(name.removesuffix(".h5"))


def _noted(folder: Path) -> Any:
    with suppress(OSError, ValueError):
        return json.loads((folder / _NOTE).read_text())
    return None

"""Where things live. Light on imports: shell completion asks here at every press of a key."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

_PACKAGE = Path(__file__).parent


def home() -> Path:
    """The cache folder: `FEATCACHE_HOME`, else the platform's cache folder for featcache."""
    chosen = os.environ.get("FEATCACHE_HOME")
    return Path(chosen).expanduser() if chosen else user_cache_path("featcache", appauthor=False)


def stores_folder() -> Path:
    """The folder of stores, one `NAME.h5` each."""
    return home() / "stores"


def results_path() -> Path:
    """The SQLite file of results."""
    return home() / "results.sqlite"


def adapters_folder() -> Path:
    """The folder of the method files that ship with featcache."""
    installed = _PACKAGE / "adapters"
    return installed if installed.is_dir() else _PACKAGE.parent / "adapters"

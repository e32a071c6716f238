"""The heads that searches leave behind, so that `featcache export` need not fit them again.

Each chosen run's head lies in `heads/` beside the results, named by a digest of all that decides its numbers: equal
runs share a file, and a result that is removed leaves at most a file behind. Big ones are not kept, and when the folder
is full the oldest go; what is not there is refitted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from featcache.errors import FeatcacheError
from featcache.heads.files import load_module, save_head
from featcache.heads.head import Head, encoder_of, head_of
from featcache.outcome import Outcome
from featcache.shift import Fitted
from featcache.store import Store
from featcache.store.spec import canonical_json
from featcache.store.writing import versions

MAX_HEAD_BYTES = 2**25
"""A head above 32 MiB is not kept: a cache of all training images, or very many classes."""
MAX_FOLDER_BYTES = 2**30


def keep(folder: Path, store: Store, outcome: Outcome, fitted: Sequence[Fitted]) -> None:
    """Keep the head of each chosen run, where it is small enough and the disk allows: a refit is the other way."""
    encoder = encoder_of(store)
    search = {**asdict_search(outcome), "versions": versions()}
    for run, one in zip(outcome.chosen, fitted, strict=True):
        with suppress(FeatcacheError, OSError):
            head = head_of(outcome.adapter, run.config, one, encoder)
            if head.num_bytes <= MAX_HEAD_BYTES:
                # Without its linear form, which takes trying and which `export` finds.
                save_head(folder / f"{digest_of(search, vars(run))}.safetensors", head, with_linear=False)
    _thin(folder)


def kept(folder: Path, search: Mapping[str, Any], run: Mapping[str, Any]) -> Head | None:
    """The head of a result's run, as `results.fetch` gives the two; None where it is not kept or is damaged."""
    path = folder / f"{digest_of(search, run)}.safetensors"
    if not path.exists():
        return None
    try:
        return load_module(path).head
    except FeatcacheError:
        return None


def folder_of(results: Path) -> Path:
    """Where the heads of the searches in a results file are kept."""
    return results.parent / "heads"


def asdict_search(outcome: Outcome) -> dict[str, Any]:
    """Of a search, what decides its numbers beside each run's own values, as its record has it."""
    names = ("content", "adapter", "text_set", "classes", "views", "device")
    return {**{name: getattr(outcome, name) for name in names}, "recipe": asdict(outcome.recipe)}


def digest_of(search: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """What a run's head is called."""
    named = ("content", "adapter", "text_set", "classes", "views", "device", "recipe", "versions")
    content = [[search[name] for name in named], [run[name] for name in ("config", "draw", "init_seed")]]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:40]


def _thin(folder: Path) -> None:
    """Remove the oldest heads until the others fit."""
    with suppress(OSError):
        files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        total = 0
        for path in files:
            total += path.stat().st_size
            if total > MAX_FOLDER_BYTES:
                path.unlink(missing_ok=True)

"""Text weights that chosen runs have learnt, read back so that other methods can take them as theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import ConfigError
from featcache.fewshot import Draw
from featcache.results.reading import fetch
from featcache.results.schema import TEXT, connect
from featcache.text_sources import Learnt


def learnt_for(path: Path, store_key: str, classes: str) -> Learnt:
    """What looks up the text (C, D) of a result for a draw of a store's `classes`: all, base or new.

    It raises UnknownNameError for a result that is not there, ConfigError for one that learnt no text, or on another
    store, other classes or other images.
    """

    def look_up(search_id: int, drawn: Draw) -> NDArray[np.float32]:
        search = fetch(path, search_id)
        _check_place(search, store_key, classes)
        run = _run_of(search, drawn)
        with connect(path) as database:
            row = database.execute("SELECT * FROM learnt_text WHERE run = ?", (run["id"],)).fetchone()
        if row is None:
            raise ConfigError(
                f"result {search_id} ({search['adapter']}) learnt no text; `featcache fit --adapter coop` does, and "
                "`featcache results` lists its id"
            )
        return np.frombuffer(row["weights"], TEXT).astype(np.float32).reshape(row["num_classes"], -1)

    return look_up


def _check_place(search: dict[str, Any], store_key: str, classes: str) -> None:
    if search["store_key"] != store_key or search["classes"] != classes:
        raise ConfigError(
            f"result {search['id']} was fitted on {search['store']}, {search['classes']} classes: what it learnt does "
            "not belong to these images; learn it here with `featcache fit --adapter coop`"
        )


def _run_of(search: dict[str, Any], drawn: Draw) -> dict[str, Any]:
    """The chosen run of a draw; of several init seeds the one that is the shot seed, else the first."""
    found: list[dict[str, Any]] = [
        run
        for run in search["runs"]
        if run["chosen"] and (run["shots"], run["shot_seed"]) == (drawn.shots, drawn.shot_seed)
    ]
    if not found:
        there = sorted({(run["shots"], run["shot_seed"]) for run in search["runs"]})
        raise ConfigError(
            f"result {search['id']} learnt no text on the draw of {drawn.shots} shots, seed {drawn.shot_seed}; it has "
            + ", ".join(f"{shots} shots seed {seed}" for shots, seed in there)
        )
    return min(found, key=lambda run: run["init_seed"] != run["shot_seed"])

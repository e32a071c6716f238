"""Searches recorded, and their heads kept, as `featcache fit` does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from featcache import recipes, registry
from featcache.fit_options import grid_of
from featcache.heads import keeping
from featcache.loading import load_rows
from featcache.preparing import Settings
from featcache.results.recording import Recorder
from featcache.search import search
from featcache.shift import Fitted
from featcache.store import Store

METHODS = [name for name in registry.known() if "tower" not in registry.load(name).needs]


def small_grid(adapter: str) -> dict:
    """The method's own grid, its last two values of each field: none of them is alpha 0."""
    return {name: values[-2:] for name, values in grid_of(adapter, []).items()}


def fitted(path: Path, file: Path, adapter: str, grid: dict | None = None, **settings: object) -> list[Fitted]:
    """A search recorded and kept as `featcache fit` does it; its chosen runs."""
    made: list[Fitted] = []
    with Store(path) as store:

        def keep(outcome, runs):
            keeping.keep(keeping.folder_of(file), store, outcome, runs)
            made.extend(runs)

        search(
            store,
            Settings(
                adapter=adapter,
                grid=small_grid(adapter) if grid is None else grid,
                shots=4,
                shot_seeds=(1, 2),
                **settings,  # type: ignore[arg-type]
            ),
            lambda shots: replace(recipes.make("adamw", shots=shots, dataset="any"), epochs=3),
            record=Recorder(file, ["fit", "toy", "--adapter", adapter]),
            keep=keep,
        )
    return made


def image_rows(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    with Store(path) as store:
        rows = load_rows(store, "test", torch.device("cpu"))
    return rows.image, rows.label

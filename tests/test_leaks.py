"""No method sees test, under no protocol but the oracle; nor val, under those that do not choose on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import h5py
import numpy as np
import pytest
import torch

import featcache.preparing
import featcache.search
from featcache import fits, grids, recipes, registry
from featcache.importing import import_npz
from featcache.outcome import Outcome
from featcache.preparing import Settings
from featcache.recipes import Recipe
from featcache.search import search
from featcache.selection import PROTOCOLS
from featcache.store import Store
from tests import synthetic

NAMES = sorted(registry.known())
VAL_UNSEEN = ("train-holdout", "cross-validation", "fixed")
"""Protocols that do not choose on val."""
HONEST = [protocol for protocol in PROTOCOLS if protocol != "test-oracle"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same store three times: as it is, with test spoilt, and with val spoilt too."""
    folder = tmp_path_factory.mktemp("leaks")
    file = synthetic.save(folder / "toy.npz", synthetic.arrays(train=8, val=4, test=5))
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, spoilt in (("clean", ()), ("test", ("test",)), ("both", ("test", "val"))):
            patch.setenv("FEATCACHE_HOME", str(folder / name))
            made[name] = import_npz(file, name="toy")
            for split in spoilt:
                spoil(made[name], split)
    return made


def spoil(path: Path, split: str) -> None:
    """NaN in every row of a split, and its labels shuffled."""
    with h5py.File(path, "r+", locking=False) as file:
        file[split]["image"][:] = np.nan
        label = file["manifest"][split]["label"]
        label[:] = np.random.default_rng(1).permutation(label[:])


def searched(path: Path, name: str, protocol: str, patch: pytest.MonkeyPatch) -> tuple[Outcome, list[fits.Fit]]:
    """A short search of two values of each field, and what it fitted."""
    made: list[fits.Fit] = []

    def spy(*given: Any) -> list[fits.Fit]:
        made.extend(fits.fit(*given))
        return made

    patch.setattr(featcache.search, "fit", spy)
    patch.setattr(featcache.preparing, "text_tower_of", lambda _store, _device: synthetic.tower(24))
    with Store(path) as store:
        settings = Settings(adapter=name, grid=few(name, protocol), shots=2, shot_seeds=(1, 2), protocol=protocol)
        return search(store, settings, recipe), made


def few(name: str, protocol: str) -> dict[str, Sequence[Any]]:
    """Two values of each field that is searched by default, else of the learning rate; none under `fixed`."""
    kind: Any = registry.load(name)
    if protocol == "fixed":
        return {}
    types = get_type_hints(kind)
    found = {
        field: grids.parse_as(types[field], text, field)[:2] for field, text in kind.grid.items() if field in types
    }
    return found or ({"lr": (0.01, 0.03)} if hasattr(kind, "init") else {})


def recipe(shots: int) -> Recipe:
    return replace(recipes.make("coop", shots=shots, dataset="any"), epochs=2, lr=0.02, warmup_lr=None)


@pytest.mark.parametrize("protocol", HONEST)
@pytest.mark.parametrize("name", NAMES)
def test_fits_and_choice_are_the_same_whatever_is_in_test(
    name: str, protocol: str, stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = "both" if protocol in VAL_UNSEEN else "test"
    clean, fitted = searched(stores["clean"], name, protocol, monkeypatch)
    dirty, other = searched(stores[spoilt], name, protocol, monkeypatch)
    assert [(fit.task, fit.configs, list(fit.params)) for fit in fitted] == [
        (fit.task, fit.configs, list(fit.params)) for fit in other
    ]
    for one, two in zip(fitted, other, strict=True):
        assert all(torch.equal(value, two.params[key]) for key, value in one.params.items())
    assert [(run.config, run.shot_seed, run.selection, run.chosen) for run in clean.runs] == [
        (run.config, run.shot_seed, run.selection, run.chosen) for run in dirty.runs
    ]
    assert all(run.test and np.isfinite(run.test.loss) for run in clean.runs)
    assert all(run.test and np.isnan(run.test.loss) for run in dirty.runs)  # the spoilt rows were what was tested on


def test_the_spoilt_store_would_show_a_leak(stores: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for protocol, spoilt in (("test-oracle", "test"), ("full-val", "both")):
        clean, _ = searched(stores["clean"], "clip_adapter", protocol, monkeypatch)
        dirty, _ = searched(stores[spoilt], "clip_adapter", protocol, monkeypatch)
        assert [run.selection for run in clean.runs] != [run.selection for run in dirty.runs]

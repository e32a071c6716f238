"""On genuine CLIP features and real images: what the README promises. Skips where the real data is absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from featcache import grids, recipes
from featcache.backbones import Backbone
from featcache.datasets import load
from featcache.extraction import Request, carry_out, make_plan
from featcache.extraction.encode import Machine
from featcache.importing import import_npz
from featcache.recipes import Recipe
from featcache.search import Settings, search
from featcache.store import Store

ALPHAS = {"alpha": grids.parse("0:1:0.1")}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "home"))


def _recipe(epochs: int) -> Recipe:
    return replace(recipes.make("coop", shots=16, dataset="any"), epochs=epochs)


def test_caltech_features_reach_the_known_accuracies(real_data: Path) -> None:
    path = import_npz(real_data / "features" / "caltech70_vitb32.npz", name="caltech70")
    with Store(path) as store:
        outcome = search(store, Settings(adapter="clip_adapter", grid=ALPHAS, shots=16), lambda _: _recipe(20))
    assert outcome.zero_shot.accuracy == pytest.approx(0.900, abs=0.001)
    assert len(outcome.chosen) == 1
    assert 0 < outcome.chosen[0].alpha < 1
    # A tenth of the epochs; with all of them the chosen adapter is above 95.2 %.
    assert outcome.test_accuracy[0] > 0.948


@pytest.mark.parametrize(("name", "shots"), [("caltech101", 1), ("dtd", 1), ("eurosat", 16)])
def test_real_pixels_through_tiny(real_data: Path, name: str, shots: int) -> None:
    """`tiny` knows drawings alone, so zero-shot is at chance here: the adapter has all to learn."""
    manifest = load(name, data=real_data / "images")
    backbone = Backbone("tiny")
    plan = make_plan(manifest, backbone.identity, Request(shots=(shots,), shot_seeds=(1, 2), num_views=2))
    machine = Machine(device=torch.device("cpu"), batch_size=64, workers=2)
    carry_out(plan, backbone, machine, provenance={"command": "featcache extract"}, progress=lambda _: None)
    with Store(plan.store) as store:
        outcome = search(store, Settings(adapter="clip_adapter", grid=ALPHAS), lambda _: _recipe(60))
    assert len(outcome.runs) == 22
    assert outcome.test_accuracy[0] > outcome.zero_shot.accuracy
    if name == "eurosat":
        assert outcome.test_accuracy[0] > 0.2

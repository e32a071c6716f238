"""Pixels that are not PIL's: how far they and their embeddings are off, what refuses them, and what notes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache import datasets
from featcache.backbones import Backbone
from featcache.commands.extracting import gate
from featcache.errors import ConfigError
from featcache.extraction import Plan, Request, carry_out, drift, make_plan
from featcache.extraction.encode import Machine
from featcache.store import Store
from featcache.views import Transform, view
from tests.conftest import put_picture

PIL = Request(shots=(1,), shot_seeds=(1,), num_views=2)
TORCH = replace(PIL, pixels="torch")
MACHINE = Machine(device=torch.device("cpu"), batch_size=16, workers=0)


def planned(data: Path, request: Request = TORCH) -> tuple[Plan, Backbone]:
    backbone = Backbone("tiny")
    return make_plan(datasets.load(f"folder:{data}", data=None), backbone.identity, request), backbone


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("style", ["coop", "clip"])
def test_torch_makes_nearly_the_same_pixels_of_the_same_crops(tmp_path: Path, style: str, interpolation: str) -> None:
    put_picture(tmp_path / "a.png", seed="a")
    image, _ = datasets.FileReader(tmp_path).read("a.png")
    transform = Transform(style=style, size=32, mean=(0, 0, 0), std=(1, 1, 1), interpolation=interpolation)
    for number in range(4):
        reference, crop = view(image, transform, number=number, path="a.png", seed=0)
        pixels, same_crop = view(image, replace(transform, pixels="torch"), number=number, path="a.png", seed=0)
        assert pixels.shape == (32, 32, 3)
        assert np.array_equal(crop, same_crop)
        assert np.abs(pixels.astype(int) - reference).mean() < 0.5


def test_the_key_of_pils_pixels_says_nothing_of_them_and_torchs_have_their_own(pictures: Path, home: Path) -> None:
    pil, torchs = planned(pictures, PIL)[0], planned(pictures)[0]
    assert "pixels" not in pil.spec.transform
    assert torchs.spec.transform["pixels"] == "torch"
    assert pil.spec.key != torchs.spec.key


def test_a_drift_is_told_and_small(pictures: Path, home: Path) -> None:
    plan, backbone = planned(pictures)
    found = gate(plan, backbone, MACHINE, allow_drift=False)
    assert found is not None
    assert found.num_embeddings > 2
    assert 0 <= found.median <= found.largest < drift.BOUND
    assert gate(*planned(pictures, PIL), MACHINE, allow_drift=False) is None


def test_a_drift_beyond_the_bound_is_refused_unless_allowed(
    pictures: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, backbone = planned(pictures)
    monkeypatch.setattr("featcache.views._squash_by_torch", lambda image, size, _: image.rotate(90).resize(size))
    with pytest.raises(ConfigError, match="leave --pixels out"):
        gate(plan, backbone, MACHINE, allow_drift=False)
    assert gate(plan, backbone, MACHINE, allow_drift=True)
    with pytest.raises(ConfigError, match="nan"):
        drift.Drift(num_embeddings=1, median=float("nan"), largest=float("nan")).check()


def test_torchs_pixels_are_stored_and_near_pils(pictures: Path, home: Path) -> None:
    rows = []
    for request in (PIL, TORCH):
        plan, backbone = planned(pictures, request)
        carry_out(plan, backbone, MACHINE, provenance={}, progress=lambda _: None)
        with Store(plan.store) as store:
            rows.append(store.gather("train", "image", np.arange(store.num_rows("train"))).astype(np.float32))
    assert not np.array_equal(*rows)
    assert np.abs(rows[0] - rows[1]).max() < 0.05 * np.abs(rows[0]).max()

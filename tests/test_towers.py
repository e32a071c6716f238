"""Extraction through real open_clip architectures (random weights) equals a bare open_clip forward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from featcache.backbones import Backbone
from featcache.datasets import load
from featcache.errors import DataError
from featcache.extraction import Request, carry_out, make_plan
from featcache.extraction.encode import Machine
from featcache.store import Store
from featcache.store.writing import check_resolution, to_stored


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of three smooth random images of odd sizes."""
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "home"))
    generator = np.random.default_rng(0)
    for label in ("near", "far"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(3):
            coarse = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((180 + 31 * index, 240 - 17 * index), Image.Resampling.BICUBIC)
            image.save(tmp_path / "images" / label / f"{index}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("name", ["RN50", "RN101", "ViT-B-32", "ViT-B-16"])
def test_stored_rows_equal_a_bare_forward(folder: Path, name: str) -> None:
    manifest = load(f"folder:{folder}", data=None)
    backbone = Backbone(name, "random:7")
    plan = make_plan(manifest, backbone.identity, Request(shots=(1,), shot_seeds=(1,), num_views=0))
    assert plan.spec.dtype == "float32", "random weights are stored whole"
    machine = Machine(device=torch.device("cpu"), batch_size=2, workers=0)
    carry_out(plan, backbone, machine, provenance={"command": "featcache extract"}, progress=lambda _: None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        bare = open_clip.create_model(f"{name}-quickgelu", pretrained=None).eval()
    transform = v2.Compose(
        [
            v2.Resize((224, 224), InterpolationMode.BICUBIC, antialias=True),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
        ]
    )
    with Store(plan.store) as store:
        stored = torch.cat([torch.from_numpy(store.array(s, "image", slice(None))[:, 0]).float() for s in store.splits])
        paths = [store.paths(s)[row] for s in store.splits for row in store.rows(s)]
    pixels = torch.stack([transform(Image.open(folder / path).convert("RGB")) for path in paths])
    with torch.inference_mode():
        expected = bare.encode_image(pixels)
    # Randomly initialised towers put all images close together: measure against the distance from the mean row.
    spread = (expected - expected.mean(dim=0)).norm(dim=1)
    assert ((stored - expected).norm(dim=1) / spread).max() < 1e-2
    assert torch.equal(torch.cdist(stored, expected).argmin(dim=1), torch.arange(len(stored)))


def test_half_precision_that_would_blur_the_embeddings_is_refused() -> None:
    generator = np.random.default_rng(0)
    near = (10 + 0.001 * generator.normal(size=(32, 64))).astype(np.float32)
    with pytest.raises(DataError, match="--dtype float32"):
        check_resolution(near, to_stored(near, "float16"))
    apart = generator.normal(size=(32, 64)).astype(np.float32)
    check_resolution(apart, to_stored(apart, "float16"))

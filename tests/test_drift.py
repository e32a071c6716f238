"""Pixels that are not PIL's: how far they and their embeddings are off, what refuses them, and what notes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from featcache import datasets
from featcache.backbones import Backbone
from featcache.errors import ConfigError, DataError
from featcache.extraction import Plan, Request, carry_out, drift, make_plan
from featcache.extraction.asked import gate
from featcache.extraction.encode import Machine
from featcache.extraction.on_device import Laid, drawn, laid
from featcache.store import Store
from featcache.views import Transform, view
from tests.conftest import put_picture

PIL = Request(shots=(1,), shot_seeds=(1,), num_views=2)
TORCH, DEVICE = replace(PIL, pixels="torch"), replace(PIL, pixels="device")
MACHINE = Machine(device=torch.device("cpu"), batch_size=16, workers=0)


def planned(data: Path, request: Request = TORCH) -> tuple[Plan, Backbone]:
    backbone = Backbone("tiny")
    return make_plan(datasets.load(f"folder:{data}", data=None), backbone.identity, request), backbone


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("style", ["coop", "clip"])
@pytest.mark.parametrize("pixels", ["torch", "device"])
def test_nearly_the_same_pixels_of_the_same_crops(tmp_path: Path, style: str, interpolation: str, pixels: str) -> None:
    put_picture(tmp_path / "a.png", seed="a")
    image, _ = datasets.FileReader(tmp_path).read("a.png")
    transform = Transform(style=style, size=32, mean=(0, 0, 0), std=(1, 1, 1), interpolation=interpolation)
    for number in range(4):
        reference, crop = view(image, transform, number=number, path="a.png", seed=0)
        made, same_crop = view(image, replace(transform, pixels=pixels), number=number, path="a.png", seed=0)
        assert made.shape == (32, 32, 3)
        assert np.array_equal(crop, same_crop)
        assert np.abs(made.astype(int) - reference).mean() < 0.5


def test_the_key_of_pils_pixels_says_nothing_of_them_and_others_have_their_own(pictures: Path, home: Path) -> None:
    pil, torchs, devices = (planned(pictures, request)[0].spec for request in (PIL, TORCH, DEVICE))
    assert "pixels" not in pil.transform
    assert (torchs.transform["pixels"], devices.transform["pixels"]) == ("torch", "device")
    assert len({pil.key, torchs.key, devices.key}) == 3


@pytest.mark.parametrize("request_", [TORCH, DEVICE], ids=["torch", "device"])
def test_a_drift_is_told_and_small(pictures: Path, home: Path, request_: Request) -> None:
    plan, backbone = planned(pictures, request_)
    found = gate(plan, backbone, MACHINE, allow_drift=False)
    assert found is not None
    assert found.num_embeddings > 2
    assert 0 <= found.median <= found.largest < drift.BOUND
    assert gate(*planned(pictures, PIL), MACHINE, allow_drift=False) is None


def test_a_drift_beyond_the_bound_is_refused_unless_allowed(
    pictures: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, backbone = planned(pictures)
    monkeypatch.setattr("featcache.views._resize_bytes", lambda pixels, size, _: pixels.new_zeros(3, *size[::-1]))
    with pytest.raises(ConfigError, match="leave --pixels out"):
        gate(plan, backbone, MACHINE, allow_drift=False)
    assert gate(plan, backbone, MACHINE, allow_drift=True)
    with pytest.raises(ConfigError, match="nan"):
        drift.Drift(num_embeddings=1, median=float("nan"), largest=float("nan")).check()


@pytest.mark.parametrize("request_", [TORCH, DEVICE], ids=["torch", "device"])
def test_other_pixels_are_stored_and_near_pils(pictures: Path, home: Path, request_: Request) -> None:
    rows, crops = [], []
    for request in (PIL, request_):
        plan, backbone = planned(pictures, request)
        carry_out(plan, backbone, MACHINE, provenance={}, progress=lambda _: None)
        with Store(plan.store) as store:
            positions = np.arange(store.num_rows("train"))
            rows.append(store.gather("train", "image", positions).astype(np.float32))
            crops.append(store.gather("train", "crop", positions))
    assert np.array_equal(*crops)
    assert not np.array_equal(*rows)
    assert np.abs(rows[0] - rows[1]).max() < 0.05 * np.abs(rows[0]).max()


def photographs(folder: Path) -> dict[str, bool]:
    """Files of many kinds, each with whether a plain JPEG decoder may read it."""
    put_picture(folder / "a.png", seed="a")
    picture = Image.open(folder / "a.png").convert("RGB").resize((70, 50))
    picture.save(folder / "plain.jpg", quality=95)
    picture.convert("L").save(folder / "grey.jpg", quality=95)
    picture.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    picture.save(folder / "turned.jpg", quality=95, exif=turned)
    return {"a.png": False, "plain.jpg": True, "grey.jpg": True, "cmyk.jpg": False, "turned.jpg": False}


def test_the_device_decodes_plain_jpegs_and_pil_the_rest(tmp_path: Path) -> None:
    reader = datasets.FileReader(tmp_path, upright=True)
    transform = Transform(style="coop", size=32, mean=(0, 0, 0), std=(1, 1, 1), pixels="device")
    kinds = photographs(tmp_path)
    images = {path: laid(reader, path, (0, 1, 5), transform, 0)[0] for path in kinds}
    assert {path: isinstance(image.image, bytes) for path, image in images.items()} == kinds
    made = drawn(list(images.values()), transform, torch.device("cpu"))
    for path, views in zip(images, made, strict=True):
        assert isinstance(views, torch.Tensor)
        assert views.shape == (3, 32, 32, 3)
        for number, pixels, layout in zip((0, 1, 5), views, images[path].layouts, strict=True):
            reference, crop = view(
                reader.read(path)[0], replace(transform, pixels="pil"), number=number, path=path, seed=0
            )
            assert np.array_equal(crop, layout.crop)
            assert np.abs(pixels.numpy().astype(int) - reference).mean() < 1.5, (path, number)
    assert torch.equal(drawn([images["plain.jpg"]], transform, torch.device("cpu"))[0], made[1])  # type: ignore[arg-type]


def test_what_the_device_cannot_decode_is_tried_by_pil_and_harms_no_neighbour(tmp_path: Path) -> None:
    photographs(tmp_path)
    transform = Transform(style="coop", size=32, mean=(0, 0, 0), std=(1, 1, 1), pixels="device")
    sound, _ = laid(datasets.FileReader(tmp_path), "plain.jpg", (0,), transform, 0)
    assert isinstance(sound.image, bytes)
    hollow = Laid(sound.image[:4] + b"\xff\xd9", sound.layouts)
    first, second, third = drawn([sound, hollow, sound], transform, torch.device("cpu"))
    assert isinstance(second, DataError)
    assert torch.equal(first, third)  # type: ignore[arg-type]


def test_a_damaged_jpeg_stops_or_is_left_out_under_the_device_too(tmp_path: Path, home: Path) -> None:
    data = tmp_path / "data"
    for kind in ("cat", "dog"):
        for number in range(3):
            put_picture(data / kind / f"{number}.png", seed=f"{kind}{number}")
            Image.open(data / kind / f"{number}.png").convert("RGB").save(data / kind / f"{number}.jpg")
            (data / kind / f"{number}.png").unlink()
    whole = (data / "cat" / "0.jpg").read_bytes()
    (data / "cat" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    plan, backbone = planned(data, DEVICE)
    with pytest.raises(DataError, match=r"cat/0\.jpg"):
        carry_out(plan, backbone, MACHINE, provenance={}, progress=lambda _: None)
    plan, backbone = planned(data, replace(DEVICE, skip_unreadable=True))
    carry_out(plan, backbone, MACHINE, provenance={}, progress=lambda _: None)
    with Store(plan.store) as store:
        assert sum(len(store.missing(split)) for split in store.splits) == 1

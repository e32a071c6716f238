"""Backbones: names, identities that follow the checkpoint's bytes, and models that say what is wrong with them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from featcache import backbones
from featcache.backbones import Backbone
from featcache.errors import ConfigError, DataError, InputError, UnknownNameError


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    """Tiny with random weights, built once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATCACHE_HOME", os.devnull + "/none")  # building alone must write nothing
        backbone = Backbone("tiny", "random:0")
        assert backbone.model is not None
    return backbone


@pytest.fixture
def checkpoint(tiny: Backbone, tmp_path: Path) -> Path:
    """A checkpoint file of tiny."""
    file = tmp_path / "checkpoint.safetensors"
    safetensors.torch.save_file(tiny.model.state_dict(), file)
    return file


def state(backbone: Backbone) -> bytes:
    return b"".join(value.numpy().tobytes() for value in backbone.model.state_dict().values())


# --- names


@pytest.mark.parametrize(
    ("name", "weights", "architecture"),
    [
        ("RN50", None, "RN50-quickgelu"),
        ("RN50", "openai", "RN50-quickgelu"),
        ("ViT-B/32", None, "ViT-B-32-quickgelu"),
        ("ViT-L/14", "random:3", "ViT-L-14-quickgelu"),
        ("RN50-quickgelu", None, "RN50-quickgelu"),
        ("ViT-B-32", "laion2b_s34b_b79k", "ViT-B-32"),
        ("tiny", None, "tiny"),
    ],
)
def test_short_names_mean_quickgelu_with_openais_weights(name: str, weights: str | None, architecture: str) -> None:
    assert Backbone(name, weights).architecture == architecture


def test_an_unknown_backbone_lists_the_known_ones(home: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown backbone 'ViT-B-33' \(did you mean .*known: .*RN50.*tiny"):
        _ = Backbone("ViT-B/33", "random:0").identity
    assert "tiny" in backbones.known()


def test_unknown_weights_list_the_known_ones(home: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"weights of ViT-B-32 'none'.*laion2b_s34b_b79k.*random:SEED"):
        _ = Backbone("ViT-B-32", "none").identity
    with pytest.raises(ConfigError, match="bundled exists for the backbone tiny only"):
        _ = Backbone("RN50", "bundled").identity


@pytest.mark.parametrize(
    "weights", ["random:", "random:x", "random:-1", "random:1.5", "random:²", "random:" + 30 * "9"]
)
def test_random_weights_need_a_seed(home: Path, weights: str) -> None:
    with pytest.raises(ConfigError, match="random:SEED"):
        _ = Backbone("tiny", weights).identity


@pytest.mark.parametrize(
    ("name", "weights", "right"),
    [("ViT-B-32", "metaclip_400m", "ViT-B-32-quickgelu"), ("RN50", "yfcc15m", "RN50-quickgelu")],
)
def test_the_wrong_activation_is_refused_before_any_download(home: Path, name: str, weights: str, right: str) -> None:
    with pytest.raises(ConfigError, match=f"wrong activation.*use --backbone {right}$"):
        _ = Backbone(name, weights).identity


# --- random weights


def test_random_weights_are_a_function_of_the_seed(tiny: Backbone) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    same, other = Backbone("tiny", "random:0"), Backbone("tiny", "random:1")
    assert state(same) == state(tiny)
    assert state(other) != state(tiny)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_random_weights_are_marked(home: Path) -> None:
    tower = Backbone("tiny", "random:7").identity.tower
    assert (tower.checkpoint, tower.untrained) == ("random:7", True)


def test_the_model_is_frozen_and_embeddings_are_raw(tiny: Backbone) -> None:
    assert not tiny.model.training
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    image = tiny.encode_images(torch.rand(2, 3, 64, 64))
    assert (image.dtype, image.requires_grad) == (torch.float32, False)
    text = tiny.encode_texts(["a", "b", "c"], torch.device("cpu"), batch=2)
    assert text.shape == (3, image.shape[1])
    for rows in (image.numpy(), text):
        assert not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)


# --- identity and memo


def test_the_identity_says_what_a_plan_needs(home: Path, tiny: Backbone) -> None:
    identity = Backbone("tiny", "random:0").identity
    assert identity.dim == tiny.encode_images(torch.rand(1, 3, 64, 64)).shape[1]
    assert identity.size == 64
    assert identity.interpolation == "bicubic"
    assert identity.tower.activation == "gelu"
    assert identity.logit_scale == pytest.approx(tiny.model.logit_scale.exp().item())  # type: ignore[operator, union-attr]


def test_the_memo_spares_the_model(home: Path, checkpoint: Path) -> None:
    first = Backbone("tiny", str(checkpoint))
    assert len(first.identity.tower.checkpoint) == 64
    again = Backbone("tiny", str(checkpoint))
    assert again.identity == first.identity
    assert "model" not in vars(again)


def test_a_changed_checkpoint_is_another_identity(home: Path, checkpoint: Path) -> None:
    before = Backbone("tiny", str(checkpoint)).identity
    safetensors.torch.save_file(Backbone("tiny", "random:9").model.state_dict(), checkpoint)
    os.utime(checkpoint, ns=(0, checkpoint.stat().st_mtime_ns + 1))
    after = Backbone("tiny", str(checkpoint)).identity
    assert after.tower.checkpoint != before.tower.checkpoint
    assert after == replace(before, tower=after.tower)


def test_one_relative_name_in_two_folders_is_two_checkpoints(
    home: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    safetensors.torch.save_file(Backbone("tiny", "random:9").model.state_dict(), other / checkpoint.name)
    towers = []
    for folder in (tmp_path, other):
        monkeypatch.chdir(folder)
        towers.append(Backbone("tiny", checkpoint.name).identity.tower)
    assert towers[0] != towers[1]


@pytest.mark.parametrize("memo", ["", "[]", "{", '{"x": 1}', "null"])
def test_a_spoilt_memo_is_made_anew(home: Path, memo: str) -> None:
    home.mkdir()
    (home / "backbones.json").write_text(memo)
    assert Backbone("tiny", "random:0").identity.dim
    assert any("random:0" in key for key in json.loads((home / "backbones.json").read_text()))


def test_a_memo_that_cannot_be_written_is_said(home: Path) -> None:
    (home / "backbones.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write .*backbones\.json"):
        _ = Backbone("tiny", "random:0").identity
    assert [path.name for path in home.iterdir()] == ["backbones.json"]


# --- checkpoints that do not fit


def test_a_file_that_is_no_checkpoint_is_said(home: Path, tmp_path: Path) -> None:
    for name in ("a.pt", "b.safetensors"):
        for content in (b"", b"not a checkpoint", bytes(100)):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DataError, match="do not load into tiny"):
                _ = Backbone("tiny", str(tmp_path / name)).identity
    assert not home.exists()


def test_another_architectures_checkpoint_is_said(home: Path, tmp_path: Path) -> None:
    safetensors.torch.save_file({"visual.proj": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="do not load into tiny"):
        _ = Backbone("tiny", str(tmp_path / "other.safetensors")).identity

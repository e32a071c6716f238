"""Backbones: names, identities that follow the checkpoint's bytes, and models that say what is wrong with them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from featcache import backbones
from featcache.backbones import Backbone, building, hub
from featcache.backbones.clip import open_clip_module
from featcache.backbones.files import Files, locate
from featcache.backbones.names import parse
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


@pytest.fixture
def folder(tiny: Backbone, tmp_path: Path) -> Path:
    """A folder as a hub repository has it: tiny's config with other means, and tiny's weights."""
    return put_folder(tmp_path / "folder", tiny)


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache: an empty folder, with no network beyond it."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def put_folder(folder: Path, backbone: Backbone, **preprocess: object) -> Path:
    folder.mkdir(parents=True)
    config = {
        "model_cfg": open_clip_module().get_model_config(backbone.architecture),
        "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], **preprocess},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(backbone.model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def put_revision(hub_cache: Path, repository: str, revision: str, files: Path) -> None:
    """What a download of the repository's `main` leaves in the hub's cache."""
    root = hub_cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / revision
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(revision)
    (root / "blobs").mkdir(exist_ok=True)
    snapshot.mkdir(parents=True)
    for file in files.iterdir():
        blob = root / "blobs" / f"{revision}-{file.name}"
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))


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
        ("ViT-L/14@336px", None, "ViT-L-14-336-quickgelu"),
        ("RN50/openai", None, "RN50-quickgelu"),
        ("RN50-gelu", "random:0", "RN50"),
    ],
)
def test_short_names_mean_quickgelu_with_openais_weights(name: str, weights: str | None, architecture: str) -> None:
    assert Backbone(name, weights).architecture == architecture


@pytest.mark.parametrize(
    ("name", "architecture", "weights"),
    [
        ("ViT-B-32/laion2b_s34b_b79k", "ViT-B-32", "laion2b_s34b_b79k"),
        ("ViT-B/16/laion400m_e32", "ViT-B-16", "laion400m_e32"),
        ("ViT-B/16/openai", "ViT-B-16-quickgelu", "openai"),
        ("ViT-B/16-SigLIP/webli", "ViT-B-16-SigLIP", "webli"),
        ("ViT-L/14@336px/openai", "ViT-L-14-336-quickgelu", "openai"),
        ("tiny/random:3", "tiny", "random:3"),
        ("hf-hub:someone/some.model-1", "hf-hub:someone/some.model-1", "own"),
    ],
)
def test_one_word_names_architecture_and_weights(name: str, architecture: str, weights: str) -> None:
    backbone = Backbone(name)
    assert (backbone.architecture, backbone.weights) == (architecture, weights)


def test_names_are_known_without_open_clip(tmp_path: Path) -> None:
    open_clip = open_clip_module()
    assert list(backbones.known()) == sorted(open_clip.list_models())
    code = (
        "import sys; from featcache.backbones import known; known(); print({'torch', 'open_clip'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_tag_never_looks_like_a_file() -> None:
    tags = {tag for _, tag in open_clip_module().pretrained.list_pretrained()}
    assert len(tags) > 20
    assert not [tag for tag in tags if set(tag) & set("./\\")]


@pytest.mark.parametrize(
    ("name", "weights", "precision", "said"),
    [
        ("ViT-B-32/openai", "random:0", "fp32", r"names the weights openai, --weights random:0 others"),
        ("tiny", "random:0", "fp8", r"unknown precision 'fp8'.*known: bf16, fp16, fp32"),
        ("tiny", "nowhere/a.safetensors", "fp32", r"there is no file .*nowhere/a\.safetensors"),
        ("tiny", "a.pt", "fp32", r"there is no file .*a\.pt"),
        ("RN50/", None, "fp32", r"unknown backbone"),
        ("", None, "fp32", r"unknown backbone"),
        ("hf-hub:", None, "fp32", r"hf-hub:OWNER/REPO"),
        ("hf-hub:model", None, "fp32", r"hf-hub:OWNER/REPO"),
        ("hf-hub:a/b/c", None, "fp32", r"hf-hub:OWNER/REPO"),
        ("hf-hub:../b", None, "fp32", r"hf-hub:OWNER/REPO"),
        ("hf-hub:a/b", "bundled", "fp32", r"bundled exists for the backbone tiny only"),
        ("local-dir:", None, "fp32", r"there is no folder"),
        ("local-dir:/nowhere/at/all", None, "fp32", r"there is no folder /nowhere/at/all"),
    ],
)
def test_names_that_mean_nothing_are_said(name: str, weights: str | None, precision: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Backbone(name, weights, precision)


def test_a_file_for_a_name_of_two_activations_is_asked_about(checkpoint: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"does not tell its activation.*RN50-quickgelu \(OpenAI.*or --backbone RN50-gelu"
    ):
        Backbone("RN50", str(checkpoint))
    assert Backbone("RN50-gelu", str(checkpoint)).architecture == "RN50"
    assert Backbone("RN50-quickgelu", str(checkpoint)).architecture == "RN50-quickgelu"
    assert Backbone("tiny", str(checkpoint)).architecture == "tiny", "there is but one"


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
    [
        ("ViT-B-32", "metaclip_400m", "ViT-B-32-quickgelu"),
        ("RN50", "yfcc15m", "RN50-quickgelu"),
        ("RN50-gelu", "openai", "RN50-quickgelu"),
        ("ViT-L/14/dfn2b", None, "ViT-L-14-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "ViT-B-32"),  # listed under the other name alone
    ],
)
def test_the_wrong_activation_is_refused_before_any_download(
    home: Path, name: str, weights: str | None, right: str
) -> None:
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
    text = tiny.encode_texts(["a", "b", "c"], torch.device("cpu"))
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


# --- checkpoints that could run code


class RunsCode:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_no_checkpoint_runs_code(home: Path, tmp_path: Path, zipped: bool) -> None:
    file, mark = tmp_path / "a.pt", tmp_path / "mark"
    torch.save({"state_dict": {"x": RunsCode(mark)}}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        DataError, match=r"not load into tiny: they are no plain tensors.*weights_only=True.*safetensors"
    ):
        _ = Backbone("tiny", str(file)).identity
    assert not mark.exists()


def test_torchscript_is_refused_and_says_where_openais_weights_are(home: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what OpenAI's files were made with
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "RN50.pt"))
    with pytest.raises(DataError, match=r"TorchScript.*--weights openai.*huggingface\.co/timm/resnet50_clip\.openai"):
        _ = Backbone("RN50-quickgelu", str(tmp_path / "RN50.pt")).identity
    with pytest.raises(DataError, match=r"TorchScript.*convert its state_dict"):
        _ = Backbone("tiny", str(tmp_path / "RN50.pt")).identity


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_of_plain_tensors_loads(home: Path, tiny: Backbone, tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "epoch_3.pt"
    training = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tiny.model.state_dict().items()}}
    torch.save(training, file, _use_new_zipfile_serialization=zipped)
    assert state(Backbone("tiny", str(file))) == state(tiny)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1000.0])
def test_a_scale_that_is_no_number_is_said(home: Path, tiny: Backbone, tmp_path: Path, value: float) -> None:
    spoilt = {**tiny.model.state_dict(), "logit_scale": torch.tensor(value)}
    safetensors.torch.save_file(spoilt, tmp_path / "spoilt.safetensors")
    with pytest.raises(DataError, match=r"logit_scale of tiny .* no finite number"):
        _ = Backbone("tiny", str(tmp_path / "spoilt.safetensors")).identity
    assert not home.exists()


# --- precision


@pytest.mark.parametrize(("precision", "distance"), [("bf16", 0.02), ("fp16", 0.003)])
def test_precisions_are_other_backbones_of_nearly_the_same_embeddings(
    home: Path, checkpoint: Path, precision: str, distance: float
) -> None:
    whole, half = Backbone("tiny", str(checkpoint)), Backbone("tiny", str(checkpoint), precision)
    assert (whole.identity.tower.precision, half.identity.tower.precision) == ("fp32", precision)
    expected = replace(whole.identity, tower=replace(whole.identity.tower, precision=precision))
    assert half.identity == expected, "nothing else differs, the logit scale included"
    assert Backbone("tiny", str(checkpoint), precision).identity == expected, "the memo keeps them apart"
    assert Backbone("tiny", str(checkpoint)).identity == whole.identity
    pixels = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cpu, sentences = torch.device("cpu"), ["a cat", "a dog on a sofa"]
    for a, b in (
        (whole.encode_images(pixels), half.encode_images(pixels)),
        (torch.from_numpy(whole.encode_texts(sentences, cpu)), torch.from_numpy(half.encode_texts(sentences, cpu))),
    ):
        assert b.dtype == torch.float32
        assert 0 < ((a - b).norm(dim=1) / a.norm(dim=1)).max() < distance


def test_a_sentence_does_not_hang_on_its_neighbours(tiny: Backbone) -> None:
    sentences = [f"a photo of a {word}" for word in ("cat", "dog", "very old chair", "star")] * 12
    together = tiny.encode_texts(sentences, torch.device("cpu"))
    assert together.shape[0] == 48
    for count in (1, 5, 33):
        assert np.array_equal(together[:count], tiny.encode_texts(sentences[:count], torch.device("cpu")))


def test_a_compiled_tower_is_another_precision_of_nearly_the_same_embeddings(
    home: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []

    def counted(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(len(inputs))
        return graph  # no C++ is generated: that takes half a minute

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counted))
    plain, compiled = Backbone("tiny", str(checkpoint)), Backbone("tiny", str(checkpoint), "fp32-compiled")
    assert compiled.identity.tower.precision == "fp32-compiled"
    assert compiled.identity.tower != plain.identity.tower
    pixels = torch.rand(2, 3, 64, 64)
    for _ in range(2):
        embedding = compiled.encode_images(pixels)
    assert torch.allclose(embedding, plain.encode_images(pixels), atol=1e-5)
    assert len(graphs) == 1, "one graph, compiled once"


def test_a_precision_that_a_tower_cannot_compute_in_is_said(tiny: Backbone) -> None:
    mixed = Backbone("tiny", "random:0", "bf16")
    mixed.model.double()
    with pytest.raises(ConfigError, match=r"tiny does not run in bf16 on cpu .*--precision fp32"):
        mixed.encode_images(torch.rand(1, 3, 64, 64))


# --- folders and repositories with a config


def test_a_folder_is_a_backbone(home: Path, tiny: Backbone, folder: Path) -> None:
    backbone = Backbone(f"local-dir:{folder}")
    identity, pixels = backbone.identity, torch.rand(2, 3, 64, 64)
    assert (identity.dim, identity.size, identity.mean, identity.std) == (128, 64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert len(identity.tower.checkpoint) == 64
    assert torch.equal(backbone.encode_images(pixels), tiny.encode_images(pixels))
    cpu = torch.device("cpu")
    assert np.array_equal(backbone.encode_texts(["a cat"], cpu), tiny.encode_texts(["a cat"], cpu))
    moved = folder.rename(folder.with_name("elsewhere"))
    assert Backbone(f"local-dir:{moved}").identity == identity, "the folder's name means nothing"
    assert Backbone(f"local-dir:{moved}", "random:0").identity.tower.checkpoint == "random:0"


def test_a_changed_config_is_noticed(home: Path, tiny: Backbone, folder: Path) -> None:
    before = Backbone(f"local-dir:{folder}").identity
    shutil.rmtree(folder)
    put_folder(folder, tiny, mean=[0.9, 0.9, 0.9])
    after = Backbone(f"local-dir:{folder}").identity
    assert after == replace(before, mean=(0.9, 0.9, 0.9))
    config = folder / "open_clip_config.json"
    config.write_text(config.read_text().replace('"model_cfg": {', '"model_cfg": {"quick_gelu": true, '))
    assert Backbone(f"local-dir:{folder}").identity.tower.activation == "quickgelu"


def test_a_folder_that_is_no_backbone_is_said(home: Path, folder: Path) -> None:
    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    with pytest.raises(ConfigError, match="openai is a tag of open_clip's own"):
        _ = Backbone(f"local-dir:{folder}", "openai").identity
    shutil.copyfile(weights, folder / "a.safetensors")
    weights.rename(folder / "b.safetensors")
    with pytest.raises(DataError, match=r"one checkpoint .*found: a\.safetensors, b\.safetensors"):
        _ = Backbone(f"local-dir:{folder}").identity
    assert Backbone(f"local-dir:{folder}", str(folder / "a.safetensors")).identity.dim == 128
    for text in ("", "[]", "{}", '{"model_cfg": 3}', '{"model_cfg": {"embed_dim": 3}}', '{"model_cfg": {"a": NaN}}'):
        config.write_text(text)
        with pytest.raises(DataError, match=r"open_clip_config\.json is not an open_clip config"):
            _ = Backbone(f"local-dir:{folder}", "random:0").identity
    config.unlink()
    with pytest.raises(DataError, match=r"has no open_clip_config\.json"):
        _ = Backbone(f"local-dir:{folder}", "random:0").identity


def test_a_cached_repository_needs_no_network(home: Path, no_hub: Path, tiny: Backbone, folder: Path) -> None:
    put_revision(no_hub, "someone/small", "1" * 40, folder)
    backbone = Backbone("hf-hub:someone/small")
    assert backbone.identity.tower.architecture.startswith("small-")
    pixels = torch.rand(2, 3, 64, 64)
    assert torch.equal(backbone.encode_images(pixels), tiny.encode_images(pixels))
    assert backbone.encode_texts(["a cat"], torch.device("cpu")).shape == (1, 128)
    again = Backbone("hf-hub:someone/small")
    assert again.identity == backbone.identity
    assert "model" not in vars(again), "the memo holds"


def test_a_new_revision_is_noticed(home: Path, no_hub: Path, folder: Path, tmp_path: Path) -> None:
    put_revision(no_hub, "someone/small", "1" * 40, folder)
    before = Backbone("hf-hub:someone/small")
    _ = before.identity
    other = put_folder(tmp_path / "other", Backbone("tiny", "random:9"))
    put_revision(no_hub, "someone/small", "2" * 40, other)
    after = Backbone("hf-hub:someone/small")
    assert after.identity.tower.checkpoint != before.identity.tower.checkpoint
    assert state(after) != state(before), "and what was hashed first is what is built"


# --- what is on this machine


def test_offline_what_is_here_is_listed(home: Path, no_hub: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"cannot download open_clip_model.* weights on this machine: tiny$"):
        _ = Backbone("RN50").identity
    put_revision(no_hub, "someone/small", "1" * 40, folder)
    put_revision(no_hub, "timm/resnet50_clip.openai", "1" * 40, folder)
    put_revision(no_hub, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "1" * 40, folder)
    here = "weights on this machine: tiny, RN50, ViT-B-32/laion2b_s34b_b79k, hf-hub:someone/small$"
    with pytest.raises(DataError, match=f"cannot download .*; {here}"):
        _ = Backbone("ViT-B/16").identity
    with pytest.raises(DataError, match=f"cannot download open_clip_config.json of some/other .*; {here}"):
        _ = Backbone("hf-hub:some/other").identity
    with pytest.raises(UnknownNameError, match=f"unknown weights of ViT-B-32 'laion'.*{here}"):
        _ = Backbone("ViT-B-32", "laion").identity
    assert not home.exists()


def test_a_hub_that_does_not_answer_is_said_once(
    home: Path, no_hub: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> str:
        logging.getLogger("huggingface_hub").warning("Retrying in 1s [Retry 1/5].")
        raise LocalEntryNotFoundError("its own words")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    with pytest.raises(DataError, match=r"\(the hub does not answer, or HF_HUB_OFFLINE is set\); check the name"):
        _ = Backbone("RN50").identity
    assert not caplog.records, "the client's log of its own retries is no message to users"


def test_a_half_cached_repository_is_not_here(home: Path, no_hub: Path, folder: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()
    put_revision(no_hub, "someone/small", "1" * 40, folder)
    assert hub.cached_repositories() == []
    with pytest.raises(DataError, match=r"cannot download open_clip_model\.safetensors of someone/small"):
        _ = Backbone("hf-hub:someone/small").identity


def test_a_tags_own_preprocessing_is_kept(no_hub: Path, folder: Path, tiny: Backbone) -> None:
    put_revision(no_hub, "timm/ViT-B-16-SigLIP", "1" * 40, folder)
    files = locate(parse("ViT-B-16-SigLIP/webli", None, "fp32"))
    assert files.preprocess is not None
    assert files.preprocess["mean"] == (0.5, 0.5, 0.5)
    assert files.checkpoint == hub.cached("timm/ViT-B-16-SigLIP", hub.WEIGHTS)
    same = Files(checkpoint=folder / "open_clip_model.safetensors", preprocess=files.preprocess)
    model = building.build(parse("tiny", "random:0", "fp32"), same)
    assert model.visual.preprocess_cfg["mean"] == (0.5, 0.5, 0.5)  # type: ignore[union-attr, index]
    assert model.visual.preprocess_cfg["size"] in (64, (64, 64))  # type: ignore[union-attr, index]


# --- tokens


def test_a_sentence_beyond_the_context_is_named(tiny: Backbone) -> None:
    context = tiny.model.context_length
    assert isinstance(context, int)
    cpu, fits = torch.device("cpu"), " ".join(["cat"] * (context - 2))
    assert tiny.encode_texts(["a", fits], cpu).shape == (2, 128)
    with pytest.raises(
        DataError, match=rf"1 of 2 prompts are longer than the {context} tokens that tiny reads, first 'cat"
    ):
        tiny.encode_texts(["a", fits + " cat"], cpu)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("mode", [None, "clips"])
def test_other_tokenizers_are_watched_too(side: str, special: bool, mode: str | None, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "dog"])}
    split = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    split.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if special:
        split.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    marks = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "bos": "[CLS]", "eos": "[SEP]"}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=split, padding_side=side, **{f"{name}_token": mark for name, mark in marks.items()}
    ).save_pretrained(tmp_path)
    tokenize = open_clip_module().tokenizer.HFTokenizer(str(tmp_path), context_length=8, tokenizer_mode=mode)
    fits = ["cat"] * (5 if mode else 6 if special else 8)
    assert building.tokens_of(tokenize, [" ".join(fits), "dog", ""], "it").shape == (3, 8)
    with pytest.raises(DataError, match="1 of 2 prompts are longer than the 8 tokens that it reads"):
        building.tokens_of(tokenize, ["dog", " ".join([*fits, "cat"])], "it")


def test_a_tokenizer_that_is_not_here_is_said_before_anything_is_built(home: Path, no_hub: Path) -> None:
    if find_spec("transformers") is None:
        error, said = (
            ConfigError,
            "tokenizer of ViT-B-16-SigLIP needs the package transformers: pip install transformers",
        )
    else:
        error, said = DataError, r"cannot load the tokenizer timm/ViT-B-16-SigLIP .*check the connection"
    backbone = Backbone("ViT-B-16-SigLIP", "random:0")
    with pytest.raises(error, match=said):
        _ = backbone.identity
    assert "model" not in vars(backbone)

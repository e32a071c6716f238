"""`featcache backbones ls`: what can be named, and what of it is on this machine, without a model or the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from featcache.backbones import Backbone, listing
from featcache.backbones.clip import open_clip_module
from featcache.backbones.names import OPENAI
from featcache.commands.backbones import app
from featcache.errors import ConfigError


def put_file(hub_cache: Path, repository: str, file: str, text: str = "") -> None:
    """A file of a repository's `main`, as a download leaves it in the hub's cache."""
    root = hub_cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text("1" * 40)
    (root / "snapshots" / ("1" * 40)).mkdir(parents=True, exist_ok=True)
    (root / "snapshots" / ("1" * 40) / file).write_text(text)


def listed(*options: str) -> list[dict[str, object]]:
    done = CliRunner().invoke(app, ["ls", *options, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def names(*options: str) -> list[object]:
    return [entry["name"] for entry in listed(*options)]


def test_short_names_are_listed() -> None:
    entries = {entry["name"]: entry for entry in listed()}
    assert list(entries) == ["tiny", *OPENAI]
    assert entries["tiny"] == {"name": "tiny", "dim": 128, "size": 64, "activation": "gelu", "here": True}
    assert (entries["RN50"]["dim"], entries["RN50"]["size"], entries["RN50"]["activation"]) == (1024, 224, "quickgelu")
    assert (entries["ViT-L-14-336"]["dim"], entries["ViT-L-14-336"]["size"]) == (768, 336)


def test_every_listed_name_means_what_the_list_says() -> None:
    every = listed("--all")
    assert len(every) > 150
    assert len({entry["name"] for entry in every}) == len(every)
    configs = open_clip_module().get_model_config
    for entry in every:
        config = configs(Backbone(str(entry["name"])).architecture)
        assert (entry["dim"], entry["activation"] == "quickgelu") == (
            config["embed_dim"],
            bool(config.get("quick_gelu")),
        )


def test_pairs_of_the_wrong_activation_are_left_out() -> None:
    every = names("--all")
    assert {"ViT-B-32/laion2b_s34b_b79k", "RN50-quickgelu/yfcc15m", "ViT-B-32-quickgelu/metaclip_400m"} <= set(every)
    assert not {"RN50/yfcc15m", "ViT-B-32/metaclip_400m", "RN50-quickgelu/openai"} & set(every)


def test_only_what_is_on_this_machine(tmp_path: Path) -> None:
    """In a process of its own, with the variables a user would set."""
    hub = tmp_path / "hub"
    put_file(hub, "timm/resnet50_clip.openai", "open_clip_pytorch_model.bin")
    put_file(hub, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_model.safetensors")
    config = {"model_cfg": {"embed_dim": 7, "vision_cfg": {"image_size": 32}, "text_cfg": {}, "quick_gelu": True}}
    for repository, text in (("a/good", json.dumps(config)), ("a/bad", "{}"), ("a/no-weights", json.dumps(config))):
        put_file(hub, repository, "open_clip_config.json", text)
    for repository in ("a/good", "a/bad", "someone/else"):
        put_file(hub, repository, "open_clip_model.safetensors")
    put_file(hub, "timm/resnet101_clip.openai", "README.md")
    (hub / "models--a--not-downloaded").mkdir()
    (hub / "models----strange").mkdir()
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    code = "from featcache.commands.backbones import app; app(['ls', '--local', '--json'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    found = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert list(found) == ["tiny", "RN50", "ViT-B-32/laion2b_s34b_b79k", "hf-hub:a/good"]
    assert found["hf-hub:a/good"] == {
        "name": "hf-hub:a/good", "dim": 7, "size": 32, "activation": "quickgelu", "here": True
    }  # fmt: skip


def test_the_table_says_what_to_type() -> None:
    done = CliRunner().invoke(app, ["ls"], catch_exceptions=False)
    assert all(name in done.stdout for name in ("tiny", "ViT-L-14-336", "quickgelu", "weights here"))
    assert "hf-hub:OWNER/REPO" in done.stderr


def test_options_without_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match="--local looks through every tag already"):
        CliRunner().invoke(app, ["ls", "--all", "--local"], catch_exceptions=False)


def test_short_names_are_a_part_of_all() -> None:
    every = {entry.name for entry in listing.every_tag()}
    assert {entry.name for entry in listing.short_names()} < every

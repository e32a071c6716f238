"""What `featcache backbones ls` shows, from configs and the hub's cache alone: no model is built, no network asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from featcache.backbones import hub
from featcache.backbones.clip import open_clip_module
from featcache.backbones.names import HUB
from featcache.bounded import parse_json, read_text


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One backbone that can be named."""

    name: str
    """What to type after --backbone."""
    dim: int
    """D, the width of its embeddings."""
    size: int
    """Side of its input, in pixels."""
    activation: str
    here: bool
    """Whether its weights are on this machine."""


def short_names() -> list[Entry]:
    """The bundled backbone and OpenAI's, by their short names."""
    return [entry for entry in every_tag() if "/" not in entry.name]


def every_tag() -> list[Entry]:
    """The bundled backbone and every pretrained tag that fits its architecture."""
    config_of = open_clip_module().get_model_config
    return [
        _entry("tiny", config_of("tiny"), here=True),
        *(_entry(name, config_of(arch), here=hub.is_cached(of_tag)) for name, arch, of_tag in hub.tags()),
    ]


def on_this_machine() -> list[Entry]:
    """Every backbone whose weights are here, those of hub repositories that open_clip has no tag for among them."""
    return [*(entry for entry in every_tag() if entry.here), *_repositories()]


def _repositories() -> Iterator[Entry]:
    for name in hub.cached_repositories():
        config = hub.cached(name.removeprefix(HUB), hub.CONFIG)
        assert config is not None
        try:
            yield _entry(name, parse_json(read_text(config, "utf-8"))["model_cfg"], here=True)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no open_clip config after all; naming it as a backbone says what is wrong with it


def _entry(name: str, config: dict[str, Any], *, here: bool) -> Entry:
    return Entry(
        name=name,
        dim=int(config["embed_dim"]),
        size=int(config["vision_cfg"].get("image_size", 224)),
        activation="quickgelu" if config.get("quick_gelu") else "gelu",
        here=here,
    )

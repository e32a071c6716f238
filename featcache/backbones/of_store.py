"""The backbone that a store was made with, built again: to encode more sentences, or to learn prompts through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featcache.backbones.backbone import Backbone
from featcache.errors import ConfigError, InputError

if TYPE_CHECKING:
    import torch

    from featcache.backbones.text_tower import TextTower
    from featcache.store import Store


def backbone_of(store: Store, name: str | None = None, weights: str | None = None) -> Backbone:
    """The store's own backbone, or the one named, which an import needs; raises ConfigError where it does not fit.

    Raises InputError for an import without a name, and what `Backbone` raises.
    """
    noted = store.provenance
    if name is None and noted.get("kind") != "extract":
        raise InputError(f"{store.name} was imported, so its encoder is not known: say which one with --backbone NAME")
    precision = store.spec.tower.precision if store.spec.tower.precision != "unknown" else "fp32"
    if name is None:
        name, weights = str(noted["backbone"]), weights or (str(noted["weights"]) if noted.get("weights") else None)
    backbone = Backbone(name, weights, precision)
    _check_fits(backbone, store)
    return backbone


def text_tower_of(store: Store, device: torch.device) -> TextTower:
    """The text tower of an extracted store's backbone, to learn prompts through; ConfigError for an import."""
    from featcache.backbones.text_tower import TextTower

    if store.provenance.get("kind") != "extract":
        raise ConfigError(
            f"{store.name} was imported, so the text tower that belongs to its images is not known; prompts are learnt "
            "on stores made by `featcache extract`"
        )
    backbone = backbone_of(store)
    return TextTower(backbone.model.to(device), backbone.tokens, backbone.name)


def _check_fits(backbone: Backbone, store: Store) -> None:
    identity = backbone.identity
    imported = store.provenance.get("kind") != "extract"
    if identity.dim != store.dim or (not imported and identity.tower != store.spec.tower):
        raise ConfigError(
            f"{backbone.name} (width {identity.dim}, checkpoint {identity.tower.checkpoint[:12]}) is not what made "
            f"{store.name} (width {store.dim}, checkpoint {store.spec.tower.checkpoint[:12]}); its text would point "
            "elsewhere: name the store's own backbone and weights"
        )

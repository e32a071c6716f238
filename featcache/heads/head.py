"""What a head is: one fitted run with all that its logits are made from, and the encoder whose embeddings it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from featcache.errors import ConfigError
from featcache.shift import Fitted
from featcache.store import Store
from featcache.store.spec import Tower
from featcache.task import Frozen, LearnsText, Params, field_values

TEXT_ALONE = "zero_shot"
"""The method that predicts from text weights and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What made the embeddings that a head was fitted on, and so what must make those it is given."""

    tower: Tower
    backbone: str
    """As it was typed; of an import, what the file says."""
    weights: str | None
    """As they were typed; None for the name's default."""
    transform: Mapping[str, Any]
    """The preprocessing, as in a store's spec."""
    dtype: str
    """What embeddings are rounded to: `float16` or `float32`."""
    norm: str
    """`raw`, or `unit`: embeddings are brought to length 1 first."""
    dim: int
    """D."""
    imported: bool
    """Whether the embeddings came from elsewhere, so that no one knows how to make more of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """One fitted run, ready to be written down."""

    adapter: str
    """The method that was fitted."""
    config: dict[str, Any]
    """Its whole configuration, training values included."""
    predictor: str
    """The method whose `logits` classify: the adapter, or `zero_shot` for one that learnt text weights alone."""
    fields: dict[str, Any]
    """The predictor's fields."""
    params: Params
    text: Tensor
    """(C, D) unit text weights, or (C, 0) without any."""
    logit_scale: float
    classes: tuple[str, ...]
    """(C,) names."""
    encoder: Encoder
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where it comes from: the result, the store, the draw, the recipe, versions, and how it did."""

    @property
    def frozen(self) -> Frozen:
        """The frozen model's side, as a method sees it."""
        return Frozen(text=self.text, logit_scale=self.logit_scale, names=self.classes)

    @property
    def num_bytes(self) -> int:
        """What its tensors take."""
        return sum(value.numel() * value.element_size() for value in (self.text, *self.params.values()))


def encoder_of(store: Store) -> Encoder:
    """What made a store's embeddings."""
    noted = store.provenance
    return Encoder(
        tower=store.spec.tower,
        backbone=str(noted.get("backbone", store.spec.tower.architecture)),
        weights=None if noted.get("weights") is None else str(noted["weights"]),
        transform=dict(store.spec.transform),
        dtype=store.spec.dtype,
        norm=store.norm,
        dim=store.dim,
        imported=noted.get("kind") != "extract",
    )


def head_of(adapter: str, config: Mapping[str, Any], fitted: Fitted, encoder: Encoder) -> Head:
    """A fitted run as a head. Raises ConfigError for a method that needs the text tower to classify."""
    method, params, frozen = fitted
    predictor, fields, text = adapter, field_values(method), frozen.text
    if "tower" in method.needs:
        if not isinstance(method, LearnsText):
            raise ConfigError(f"{adapter} classifies through the text tower, so a head alone would not do; refit it")
        predictor, fields, text, params = TEXT_ALONE, {}, method.text(params, frozen), {}
    return Head(
        adapter=adapter,
        config=dict(config),
        predictor=predictor,
        fields=fields,
        params={name: value.detach().cpu() for name, value in params.items()},
        text=text.detach().cpu(),
        logit_scale=frozen.logit_scale,
        classes=frozen.names,
        encoder=encoder,
    )

"""A head as a torch module: raw embeddings in, logits out, by the very code that the search predicted with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from featcache import registry
from featcache.errors import ConfigError, DataError, FeatcacheError
from featcache.heads.head import Head
from featcache.ops import normalise
from featcache.task import Frozen, Method
from featcache.training import single_hyper

if TYPE_CHECKING:
    from PIL import Image

    from featcache.heads.predicting import Prediction

_BLOCK = 8192


class HeadModule(nn.Module):
    """A fitted head: `module(image)` gives logits (N, C) of raw embeddings (N, D), of whatever length."""

    def __init__(self, head: Head, linear: LinearHead | None = None) -> None:
        """`linear` stands in for the method where that is not here."""
        super().__init__()
        self.head = head
        self.method = None if linear else method_of(head)
        self.linear = linear
        self.register_buffer("text", head.text)
        self._names = tuple(head.params)
        for index, name in enumerate(self._names):  # by number: a method may call one of its parameters `text`
            self.register_buffer(f"param{index}", head.params[name])

    @property
    def classes(self) -> tuple[str, ...]:
        """(C,) the classes' names, in the order of the logits."""
        return self.head.classes

    @property
    def dim(self) -> int:
        """D, the width of the embeddings it takes."""
        return self.head.encoder.dim

    @property
    def provenance(self) -> dict[str, Any]:
        """Where it comes from and how it did."""
        return self.head.provenance

    def forward(self, image: Tensor) -> Tensor:
        """(N, C) logits of raw embeddings (N, D)."""
        if self.method is None:
            assert self.linear is not None
            stand_in: Tensor = self.linear(image)
            return stand_in
        params = {name: self.get_buffer(f"param{index}") for index, name in enumerate(self._names)}
        text = self.get_buffer("text")
        frozen = Frozen(text=text, logit_scale=self.head.logit_scale, names=self.head.classes)
        return self.method.logits(params, image, frozen, single_hyper(self.method, image.device))

    @torch.no_grad()
    def logits(self, image: Tensor) -> Tensor:
        """The same without gradients, block by block of rows: bounds memory whatever N."""
        return torch.cat([self(rows) for rows in torch.split(image, _BLOCK)])

    def classify(self, images: Sequence[str | Path | Image.Image], *, top: int = 1) -> list[list[Prediction]]:
        """The `top` classes of each image, likeliest first, from files or PIL images, through the head's own backbone.

        Raises DataError for an image that does not decode, ConfigError where the backbone is not here.
        """
        from featcache.heads.predicting import Predictor

        predictor = self.__dict__.get("_predictor") or Predictor(self)
        self.__dict__["_predictor"] = predictor  # built once: not a submodule, whose weights would be this one's
        return list(predictor.classify(images, top=top))

    @cached_property
    def _merged(self) -> LinearHead | None:
        from featcache.heads.merging import merge

        return self.linear or merge(self)

    @property
    def is_linear(self) -> bool:
        """Whether the logits are a linear function of the unit embedding, so that `merged` gives one."""
        return self._merged is not None

    def merged(self) -> LinearHead:
        """The same logits as one matrix and a bias on the unit embedding. Raises ConfigError where no such form is."""
        if self._merged is None:
            raise ConfigError(
                f"{self.head.adapter} as it was fitted ({_listed(self.head.config)}) is not linear in the embedding, "
                "so there is no merged form; use the head itself"
            )
        return self._merged


class LinearHead(nn.Module):
    """logits = unit(image) weight^T + bias: what a head comes to where its method is linear in the unit embedding."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, image: Tensor) -> Tensor:
        """(N, C) logits of raw embeddings (N, D)."""
        return torch.addmm(self.get_buffer("bias"), normalise(image), self.get_buffer("weight").mT)


def method_of(head: Head) -> Method:
    """The method that predicts. Raises UnknownNameError where its file is not here, DataError for fields it has not."""
    kind = registry.load(head.predictor)
    if "tower" in kind.needs:
        raise DataError(f"the head's method {head.predictor} needs a text tower, which no head has")
    try:
        return kind(**head.fields)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise DataError(
            f"{head.predictor} does not take the head's fields ({_listed(head.fields)}): {error}"
        ) from error


def probe_rows(dim: int, num_rows: int = 3) -> Tensor:
    """(num_rows, dim) fixed embeddings of various lengths, to tell by whether a head computes as it did."""
    count = torch.arange(1, num_rows * dim + 1, dtype=torch.float64).view(num_rows, dim)
    # Weyl's sequence, not a generator: the same numbers under every version of torch.
    uniform = (count * math.sqrt(2)) % 1 + (count * math.sqrt(3)) % 1 - 1
    return (uniform * torch.arange(1, num_rows + 1).view(-1, 1)).float()


@torch.no_grad()
def probe(head: Head) -> Tensor:
    """(3, C) what the head says of `probe_rows`. Raises DataError for one that says nothing usable."""
    try:
        logits = HeadModule(head)(probe_rows(head.encoder.dim))
    except FeatcacheError:
        raise
    except Exception as error:  # shapes, indices and dtypes that do not fit raise as many kinds as there are methods
        raise DataError(f"the head's numbers do not fit its method {head.predictor}: {error}") from error
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (3, len(head.classes)) or not logits.isfinite().all():
        raise DataError(f"the head gives no usable logits for its {len(head.classes)} classes")
    return logits


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={str(value)[:40]}" for name, value in values.items()) or "no fields"

"""How far embeddings move when their pixels are not the reference's: the gate that faster pixels have to pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from featcache.backbones import Backbone
from featcache.errors import ConfigError
from featcache.extraction.batches import BatchEncoder
from featcache.extraction.encode import Machine, Work, pixels_of
from featcache.extraction.plan import Plan
from featcache.extraction.shards import Item, Shards

BOUND = 0.05
"""The largest drift that passes: a twentieth of the way from an embedding to the mean one."""
_IMAGES = 16
_VIEWS = 2


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Distances of embeddings from those of PIL's pixels, over the mean distance of the latter from their mean.

    Not a cosine: untrained and badly centred towers give all images nearly the same direction.
    """

    num_embeddings: int
    median: float
    largest: float

    @property
    def words(self) -> str:
        """For people."""
        return (
            f"drift against PIL's pixels on {self.num_embeddings} embeddings: median {self.median:.2g}, largest "
            f"{self.largest:.2g} of an embedding's distance from the mean one (bound {BOUND:g})"
        )

    def check(self) -> None:
        """Raises ConfigError for a drift beyond the bound."""
        if not self.largest <= BOUND:  # so that what is no number fails
            raise ConfigError(f"{self.words}; leave --pixels out, or take it all the same with --allow-drift")


def measured(plan: Plan, backbone: Backbone, machine: Machine) -> Drift | None:
    """The drift on a sample of what the plan encodes; None where there is none, or no image can be read."""
    if plan.transform.pixels == "pil" or not plan.num_missing:
        return None
    images = Shards(plan.missing, plan.manifest)
    numbers = np.unique(np.linspace(0, len(images) - 1, _IMAGES).astype(int)).tolist()
    sample = [replace(item, views=item.views[:_VIEWS]) for item in (images[number] for number in numbers)]
    reference, other = (_drawn(plan, sample, machine, pixels) for pixels in ("pil", plan.transform.pixels))
    both = reference.keys() & other.keys()  # an image that cannot be read stops the extraction itself, or is noted
    drawn = [pair for index in sorted(both) for pair in zip(reference[index], other[index], strict=True)]
    return _compared(drawn, plan, backbone, machine) if drawn else None


def _drawn(plan: Plan, sample: Sequence[Item], machine: Machine, pixels: str) -> dict[int, Any]:
    """The views (v, size, size, 3) of each of the sample that can be read, by its place there."""
    work = replace(Work.of(plan), transform=replace(plan.transform, pixels=pixels))
    drawn = pixels_of(work, sample, range(len(sample)), replace(machine, workers=0))
    return {index: decoded.pixels for index, decoded in enumerate(drawn) if not decoded.error}


def _compared(drawn: list[tuple[Any, Any]], plan: Plan, backbone: Backbone, machine: Machine) -> Drift:
    encode, size = BatchEncoder(backbone, plan.transform, machine.device, machine.batch_size), machine.batch_size
    reference, other = (
        torch.cat([encode(pixels[start : start + size]) for start in range(0, len(pixels), size)]).cpu().double()
        for pixels in zip(*drawn, strict=True)
    )  # (n, D) each
    spread = (reference - reference.mean(dim=0)).norm(dim=1).mean()
    moved = (other - reference).norm(dim=1) / (spread if len(drawn) > 1 else reference.norm())
    return Drift(num_embeddings=len(drawn), median=float(moved.median()), largest=float(moved.max()))

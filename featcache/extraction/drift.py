"""How far embeddings move when their pixels are not the reference's: the gate that faster pixels have to pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from featcache.errors import ConfigError, DataError
from featcache.extraction.shards import Item, Shards
from featcache.views import view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featcache.backbones import Backbone
    from featcache.extraction.encode import Machine
    from featcache.extraction.plan import Plan

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
    sample = [images[index] for index in np.unique(np.linspace(0, len(images) - 1, _IMAGES).astype(int)).tolist()]
    drawn = [pair for item in sample for pair in _drawn(plan, item)]
    return _compared(drawn, plan, backbone, machine) if drawn else None


def _drawn(plan: Plan, item: Item) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """An image's first missing views, of PIL's pixels and of the plan's; none where it cannot be read."""
    reference = replace(plan.transform, pixels="pil")
    try:
        image, _ = plan.manifest.reader.read(item.path)
        return [
            (
                view(image, reference, number=number, path=item.path, seed=plan.request.view_seed)[0],
                view(image, plan.transform, number=number, path=item.path, seed=plan.request.view_seed)[0],
            )
            for number in item.views[:_VIEWS]
        ]
    except DataError:
        return []  # the extraction itself will stop at it, or note it


def _compared(
    drawn: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], plan: Plan, backbone: Backbone, machine: Machine
) -> Drift:
    import torch

    from featcache.extraction.batches import BatchEncoder

    encode = BatchEncoder(backbone, plan.transform, machine.device, machine.batch_size)
    pixels = [*(one for one, _ in drawn), *(other for _, other in drawn)]
    batches = [pixels[start : start + machine.batch_size] for start in range(0, len(pixels), machine.batch_size)]
    reference, other = torch.cat([encode(batch) for batch in batches]).cpu().double().chunk(2)  # (n, D) each
    spread = (reference - reference.mean(dim=0)).norm(dim=1).mean()
    moved = (other - reference).norm(dim=1) / (spread if len(drawn) > 1 else reference.norm())
    return Drift(num_embeddings=len(drawn), median=float(moved.median()), largest=float(moved.max()))

"""The searches that are looked at image by image, and what zero-shot CLIP says of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from featcache.errors import FeatcacheError
from featcache.ops import cosine_logits
from featcache.predictions import Answers, Items, Predictions
from featcache.reporting.page.gather import Found, Gathered, grouped
from featcache.reporting.page.model import Blank
from featcache.reporting.page.stores import frozen_of, test_rows
from featcache.text_sources import sources_of

MOST = 6
"""Searches of one place, the best by what they were chosen on or, chosen on nothing, by test."""
_BATCH = 4096


class Seen(NamedTuple):
    """A search with what its chosen runs say of each test image."""

    one: Found
    items: Items
    answers: Sequence[Answers]


def places(gathered: Gathered) -> list[list[Seen]]:
    """For each store, prompt set and part of the classes: its searches at the most shots, a few methods each.

    Places with many test images come first: they show more.
    """
    groups = grouped(gathered.found, lambda one: (one.store_key, one.text_set, one.classes))
    found = []
    for members in groups.values():
        most = max(one.shots for one in members)
        kept = sorted((one for one in members if one.shots == most), key=_rank)[:MOST]
        seen = [Seen(one, *answered) for one in kept if (answered := gathered.answered(one)) is not None]
        # A store that was extended since may hold other test images: only those of the same are set side by side.
        seen = [each for each in seen if each.items.digest == seen[0].items.digest]
        if seen:
            found.append(seen)
    return sorted(found, key=lambda seen: -seen[0].one.num_test)


def nothing_kept() -> Blank:
    """What a panel says where no result has predictions."""
    return Blank("no result has its test predictions kept, for they are older than the keeping", "featcache fit")


def zero_shot(gathered: Gathered, seen: Seen) -> Answers | Blank:
    """What zero-shot CLIP says of the same images, or why that cannot be told."""
    one = seen.one
    try:
        with gathered.stores.open(one.store_key, one.store) as store:
            frozen = frozen_of(store, sources_of(one.text_set).written, one.classes)
            if not frozen.text.shape[1]:
                return Blank(
                    f"{one.store} has no text, so nothing is zero-shot",
                    f"featcache prompts add {one.store} default --backbone NAME",
                )
            rows = test_rows(store, one.classes)
    except FeatcacheError as error:
        return Blank(f"zero-shot answers on {one.store} ({error})", "")
    if len(rows.label) != len(seen.items.label) or not np.array_equal(rows.label.numpy(), seen.items.label):
        return Blank(f"{one.store} holds other test images now than when result {one.id} was made", "featcache fit")
    logits = [cosine_logits(image, frozen.text, frozen.logit_scale) for image in torch.split(rows.image, _BATCH)]
    confidence, predicted = torch.cat(logits).softmax(dim=1).max(dim=1)
    made = Predictions(predicted=predicted.numpy(), confidence=confidence.numpy())
    return Answers("zero-shot", 0, 0, made)


def _rank(one: Found) -> tuple[bool, bool, float]:
    """CLIP-Adapter first, then by test accuracy; what was chosen on test itself comes last."""
    mean = one.test[0]
    return one.protocol == "test-oracle", one.adapter != "clip_adapter", -mean if mean == mean else 0.0

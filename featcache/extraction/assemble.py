"""The current store and all parts become a new store, block by block; nothing is removed here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.extraction.parts import Part
from featcache.extraction.plan import Plan
from featcache.prompts import TextSet
from featcache.store import Block, Contents, SplitContents, Store, write_store
from featcache.store.reading import BLOCK_ROWS


def assemble(plan: Plan, *, text: dict[str, TextSet], provenance: dict[str, Any]) -> None:
    """Write the finished store over the old one."""
    with Store(plan.store) if plan.stored else nullcontext() as old:
        splits = {split: _split(plan, split, old) for split in plan.rows}
        contents = Contents(
            spec=plan.spec,
            classes=plan.manifest.classes,
            class_ids=plan.manifest.class_ids,
            dim=plan.identity.dim,
            logit_scale=plan.identity.logit_scale,
            logit_bias=plan.identity.logit_bias,
            provenance=provenance,
            splits=splits,
            text=text,
        )
        write_store(plan.store, contents)


def _split(plan: Plan, split: str, old: Store | None) -> SplitContents:
    manifest = plan.manifest.splits[split]
    parts = [part for part in plan.parts if part.split == split]
    asked = set(plan.rows[split].tolist())
    before = {} if old is None or split in plan.request.damage.lists else old.missing(split)
    missing = {row: reason for row, reason in before.items() if row not in asked} | plan.unreadable[split]
    rows = np.setdiff1d(plan.rows[split], np.array(list(missing), dtype=np.int64))
    return SplitContents(
        path=manifest.path,
        label=manifest.label,
        row=rows,
        num_views=plan.num_views[split],
        blocks=_Blocks(plan, split, rows, old, parts),
        missing=missing,
    )


class _Blocks:
    """The rows of a split in order: old rows from the store, new ones from the parts, which win."""

    def __init__(self, plan: Plan, split: str, rows: NDArray[np.int64], old: Store | None, parts: list[Part]) -> None:
        self.plan = plan
        self.split = split
        self.rows = rows
        self.old = old
        self.parts = parts

    def __iter__(self) -> Iterator[Block]:
        load = lru_cache(maxsize=8)(
            lambda index: [self.parts[index].load(name) for name in ("image", "crop", "source")]
        )
        for start in range(0, len(self.rows), BLOCK_ROWS):
            rows = self.rows[start : start + BLOCK_ROWS]
            block, filled = self._from_store(rows)
            for index, part in enumerate(self.parts):
                inside = np.flatnonzero(np.isin(part.row, rows) & (part.view < block.image.shape[1]))
                if len(inside):
                    at, number = np.searchsorted(rows, part.row[inside]), part.view[inside]
                    image, crop, source = load(index)
                    block.image[at, number] = image[inside]
                    block.crop[at, number] = crop[inside]
                    block.source[at] = source[inside]
                    filled[at, number] = True
            assert filled.all(), (
                f"{int((~filled).sum())} embeddings of {self.split} are in no part and not in the store"
            )
            yield block

    def _from_store(self, rows: NDArray[np.int64]) -> tuple[Block, NDArray[np.bool_]]:
        shape = (len(rows), self.plan.num_views[self.split])
        block = Block(
            image=np.zeros((*shape, self.plan.identity.dim), dtype=self.plan.spec.dtype),
            crop=np.zeros((*shape, 5), dtype=np.int32),
            source=np.zeros((len(rows), 2), dtype=np.uint64),
        )
        filled = np.zeros(shape, dtype=bool)
        if self.old is not None:
            sound = np.setdiff1d(self.old.rows(self.split), self.plan.request.damage.rows.get(self.split, ()))
            kept = np.flatnonzero(np.isin(rows, sound))
            positions = np.searchsorted(self.old.rows(self.split), rows[kept])
            num_views = self.old.num_views(self.split)
            block.image[kept, :num_views] = self.old.gather(self.split, "image", positions)
            block.crop[kept, :num_views] = self.old.gather(self.split, "crop", positions)
            block.source[kept] = self.old.gather(self.split, "source", positions)
            filled[kept, :num_views] = True
        return block, filled

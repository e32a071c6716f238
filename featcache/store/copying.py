"""A store's contents, to be written anew with something changed: stores themselves never change."""

from __future__ import annotations

from collections.abc import Iterator

from featcache.store.reading import BLOCK_ROWS, Store
from featcache.store.writing import Block, Contents, SplitContents


def contents_of(store: Store) -> Contents:
    """All that a store holds, its rows read block by block as they are written: keep it open meanwhile."""
    return Contents(
        spec=store.spec,
        classes=store.classes,
        class_ids=store.class_ids,
        dim=store.dim,
        logit_scale=store.logit_scale,
        logit_bias=store.logit_bias,
        norm=store.norm,
        provenance=store.provenance,
        splits={split: _split(store, split) for split in store.splits},
        text={name: store.text(name) for name in store.text_sets},
        written_ns=store.path.stat().st_mtime_ns,
    )


def _split(store: Store, split: str) -> SplitContents:
    return SplitContents(
        path=tuple(store.paths(split)),
        label=store.label(split),
        row=store.rows(split),
        num_views=store.num_views(split),
        blocks=_Blocks(store, split),
        missing=store.missing(split),
    )


class _Blocks:
    """The rows of a split, some at a time, as often as they are asked for."""

    def __init__(self, store: Store, split: str) -> None:
        self.store = store
        self.split = split

    def __iter__(self) -> Iterator[Block]:
        for start in range(0, self.store.num_rows(self.split), BLOCK_ROWS):
            at = slice(start, start + BLOCK_ROWS)
            yield Block(*(self.store.array(self.split, name, at) for name in ("image", "crop", "source")))

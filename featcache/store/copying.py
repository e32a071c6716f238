"""A store's contents, to be written anew with something changed: stores themselves never change."""

from __future__ import annotations

from collections.abc import Iterator

from featcache.store.reading import BLOCK_ROWS, Store
from featcache.store.writing import Block, Contents, SplitContents


def contents_of(store: Store, *, whole: bool = False) -> Contents:
    """All that a store holds, its rows read block by block as they are written: keep it open meanwhile.

    Embeddings that lie in files beside the store stay there, unless it is to be `whole`.
    """
    return Contents(
        spec=store.spec,
        classes=store.classes,
        class_ids=store.class_ids,
        dim=store.dim,
        logit_scale=store.logit_scale,
        logit_bias=store.logit_bias,
        norm=store.norm,
        provenance=store.provenance,
        splits={split: _split(store, split, whole=whole) for split in store.splits},
        text={name: store.text(name) for name in store.text_sets},
        written_ns=store.path.stat().st_mtime_ns,
    )


def _split(store: Store, split: str, *, whole: bool) -> SplitContents:
    runs = None if whole else store.runs(split) or None
    return SplitContents(
        path=tuple(store.paths(split)),
        label=store.label(split),
        row=store.rows(split),
        num_views=store.num_views(split),
        blocks=_Blocks(store, split, with_images=runs is None),
        missing=store.missing(split),
        runs=runs,
    )


class _Blocks:
    """The rows of a split, some at a time, as often as they are asked for."""

    def __init__(self, store: Store, split: str, *, with_images: bool) -> None:
        self.store = store
        self.split = split
        self.with_images = with_images

    def __iter__(self) -> Iterator[Block]:
        for start in range(0, self.store.num_rows(self.split), BLOCK_ROWS):
            at = slice(start, start + BLOCK_ROWS)
            crop, source, digest = (self.store.array(self.split, name, at) for name in ("crop", "source", "digest"))
            image = self.store.array(self.split, "image", at) if self.with_images else None
            yield Block(image, crop, source, digest)

"""The current store and all parts become a new store, block by block; nothing is removed here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.extraction.held import without
from featcache.extraction.parts import Part
from featcache.extraction.plan import Plan
from featcache.prompts import TextSet
from featcache.spilled import spans
from featcache.store import Block, Contents, SplitContents, Store, write_store
from featcache.store.reading import BLOCK_ROWS
from featcache.store.replacing import state_of
from featcache.store.virtual import MOST_RUNS, Run, adopt, forget, merged


def assemble(plan: Plan, *, text: dict[str, TextSet], provenance: dict[str, Any]) -> None:
    """Write the finished store over the one that the plan was made from.

    Raises OvertakenError where that is no longer there.
    """
    with Store(plan.store) if plan.stored else nullcontext() as old:
        if plan.layout == "virtual" or plan.stored_layout == "virtual":  # what an earlier store needed, or none at all
            forget(plan.store, old.files if old is not None else ())
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
        write_store(plan.store, contents, unless=lambda: state_of(plan.store) != plan.state)


def _split(plan: Plan, split: str, old: Store | None) -> SplitContents:
    manifest = plan.manifest.splits[split]
    parts = [part for part in plan.parts if part.split == split]
    before = {} if old is None or split in plan.request.damage.lists else old.missing(split)
    others = without(np.array(sorted(before), dtype=np.int64), plan.rows[split]).tolist() if before else ()
    missing = {row: before[row] for row in others} | plan.unreadable[split]
    rows = without(plan.rows[split], missing)
    found = _Found(plan, split, rows, old, parts)
    runs = _runs(plan, found) if plan.layout == "virtual" else None
    return SplitContents(
        path=manifest.path,
        label=manifest.label,
        row=rows,
        num_views=plan.num_views[split],
        blocks=_Blocks(found, with_images=runs is None),
        missing=missing,
        runs=runs,
    )


def _runs(plan: Plan, found: _Found) -> list[Run] | None:
    """The pieces of files that make up a split's embeddings; None where they are to be written whole."""
    kept = any(len(found.in_store(block)[0]) for block in found.blocks())
    if not len(found.rows) or (kept and not found.old_runs):
        return None  # nothing to show, or embeddings that lie in the store itself
    names = [adopt(plan.store, part.path) for part in found.parts]
    runs: list[Run] = []
    for run in merged(found.pieces(names)):
        runs.append(run)
        if len(runs) > MOST_RUNS:
            return None
    return runs


class _Found:
    """Where each embedding of a split's rows is: old ones in the store, new ones in the parts, which win."""

    def __init__(self, plan: Plan, split: str, rows: NDArray[np.int64], old: Store | None, parts: list[Part]) -> None:
        self.split = split
        self.rows = rows
        self.num_views = plan.num_views[split]
        self.dim = plan.identity.dim
        self.dtype = plan.spec.dtype
        self.old = old
        self.parts = parts
        self.stored = np.zeros(0, dtype=np.int64) if old is None else old.rows(split)
        """The rows that the store holds."""
        self.damaged = plan.request.damage.rows.get(split, ())
        """Those of them that are not to be trusted."""
        self.old_runs: list[Run] = [] if old is None else old.runs(split)
        """What the split's embeddings are made of in the store, where they lie beside it."""

    def blocks(self) -> Iterator[slice]:
        """The rows, some at a time."""
        return spans(len(self.rows), BLOCK_ROWS)

    def in_store(self, block: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which of a block's rows the store keeps, and where they lie in it."""
        rows = self.rows[block]
        first, last = np.searchsorted(self.stored, [rows[0], rows[-1] + 1])
        kept = np.flatnonzero(np.isin(rows, self.stored[first:last]) & ~np.isin(rows, self.damaged))
        return kept, first + np.searchsorted(self.stored[first:last], rows[kept])

    def in_parts(self, block: slice) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """Each part with something of a block: its index, which of its embeddings, and their rows and views there."""
        rows = self.rows[block]
        for index, part in enumerate(self.parts):
            inside = part.among(rows, self.num_views)
            if len(inside):
                yield index, inside, np.searchsorted(rows, part.row[inside]), part.view[inside]

    def pieces(self, names: list[str]) -> Iterator[Run]:
        """Every embedding as a run of one or more, in order; `names` are the parts' files beside the store."""
        files = [*dict.fromkeys(run.file for run in self.old_runs), *names]
        number = {file: index for index, file in enumerate(files)}
        starts = np.array([run.at for run in self.old_runs], dtype=np.int64)
        begins = np.array([run.begin for run in self.old_runs], dtype=np.int64)
        of_run = np.array([number[run.file] for run in self.old_runs], dtype=np.int64)
        old_views = self.old.num_views(self.split) if self.old is not None else 0
        for block in self.blocks():
            shape = (block.stop - block.start, self.num_views)
            file, begin = np.full(shape, -1, dtype=np.int64), np.zeros(shape, dtype=np.int64)
            at, positions = self.in_store(block)
            if len(at):
                flat = positions[:, None] * old_views + np.arange(old_views)
                run = np.searchsorted(starts, flat, side="right") - 1
                file[at, :old_views], begin[at, :old_views] = of_run[run], begins[run] + flat - starts[run]
            for index, inside, row, view in self.in_parts(block):
                file[row, view], begin[row, view] = number[names[index]], inside
            assert (file >= 0).all(), f"embeddings of {self.split} are in no part and not in the store"
            file, begin = file.ravel(), begin.ravel()
            breaks = np.flatnonzero((np.diff(file) != 0) | (np.diff(begin) != 1)) + 1
            edges = [0, *breaks.tolist(), len(file)]
            for first, end in pairwise(edges):
                name = files[int(file[first])]
                where = block.start * self.num_views + first
                yield Run(name, int(begin[first]), where, end - first)


class _Blocks:
    """The rows of a split in order, as often as they are asked for; without their images where those stay in files."""

    def __init__(self, found: _Found, *, with_images: bool) -> None:
        self.found = found
        self.names = ("image", "crop", "source") if with_images else ("crop", "source", "digest")

    def __iter__(self) -> Iterator[Block]:
        found = self.found
        load = lru_cache(maxsize=8)(
            lambda index: dict(zip(self.names, found.parts[index].load_all(*self.names), strict=True))
        )
        for block in found.blocks():
            arrays, filled = self._from_store(block)
            for index, inside, row, view in found.in_parts(block):
                for name, values in load(index).items():
                    at = row if name == "source" else (row, view)
                    arrays[name][at] = values[inside]
                filled[row, view] = True
            assert filled.all(), (
                f"{int((~filled).sum())} embeddings of {found.split} are in no part and not in the store"
            )
            yield Block(arrays.get("image"), arrays["crop"], arrays["source"], arrays.get("digest"))

    def _from_store(self, block: slice) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
        found, num_rows = self.found, block.stop - block.start
        shape = (num_rows, found.num_views)
        whole: dict[str, tuple[tuple[int, ...], str]] = {
            "image": ((*shape, found.dim), found.dtype),
            "crop": ((*shape, 5), "int32"),
            "source": ((num_rows, 2), "uint64"),
            "digest": (shape, "uint64"),
        }
        arrays = {name: np.zeros(*whole[name]) for name in self.names}
        filled = np.zeros(shape, dtype=bool)
        at, positions = found.in_store(block)
        if found.old is not None and len(at):
            num_views = found.old.num_views(found.split)
            for name, values in arrays.items():
                stored = found.old.gather(found.split, name, positions)
                if name == "source":
                    values[at] = stored
                else:
                    values[at, :num_views] = stored
            filled[at, :num_views] = True
        return arrays, filled

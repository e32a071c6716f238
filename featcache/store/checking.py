"""Is a store what it says it is, and how do two stores differ?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from featcache.store.damage import find_damage
from featcache.store.reading import BLOCK_ROWS, Store


def verify(store: Store) -> list[str]:
    """What is wrong with a store, one sentence each; empty when every byte that counts is as it was written."""
    return list(find_damage(store).problems)


def diff(first: Store, second: Store) -> list[tuple[str, str, str]]:
    """(what, in the first, in the second) for all that differs; empty when the two hold the same."""
    found = [fact for fact in _facts(first, second) if fact[1] != fact[2]]
    if first.spec.manifest == second.spec.manifest:  # else equal row numbers mean different images
        for split in first.splits:
            found += _row_differences(first, second, split)
    if not found and first.content != second.content:
        found.append(("content digest", first.content[:16], second.content[:16]))
    return found


def _facts(first: Store, second: Store) -> list[tuple[str, str, str]]:
    a, b = _flat(asdict(first.spec)), _flat(asdict(second.spec))
    facts = [(name, str(a.get(name)), str(b.get(name))) for name in sorted({*a, *b})]
    facts.append(("classes", f"{len(first.classes)} names", f"{len(second.classes)} names"))
    if first.classes != second.classes:
        facts[-1] = ("classes", ", ".join(first.classes)[:60], ", ".join(second.classes)[:60])
    facts.append(("logit_scale", f"{first.logit_scale:.6g}", f"{second.logit_scale:.6g}"))
    for split in sorted({*first.splits, *second.splits}):
        facts.append((f"{split} rows x views", _shape(first, split), _shape(second, split)))
    for name in sorted({*first.text_sets, *second.text_sets}):
        in_first, in_second = (s.text(name).digest[:16] if name in s.text_sets else "absent" for s in (first, second))
        facts.append((f"text set {name}", in_first, in_second))
    return facts


def _row_differences(first: Store, second: Store, split: str) -> list[tuple[str, str, str]]:
    """How many of the rows both hold differ in view 0, and by how much."""
    common, at_first, at_second = np.intersect1d(first.rows(split), second.rows(split), return_indices=True)
    differing, largest = 0, 0.0
    if first.dim != second.dim:
        return [(f"{split} width", str(first.dim), str(second.dim))]
    for start in range(0, len(common), BLOCK_ROWS):
        a = first.gather(split, "image", at_first[start : start + BLOCK_ROWS])[:, 0].astype(np.float32)
        b = second.gather(split, "image", at_second[start : start + BLOCK_ROWS])[:, 0].astype(np.float32)
        error = np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(a, axis=1), 1e-12)
        differing += int((error > 0).sum())
        largest = max(largest, float(error.max(initial=0)))
    if not differing:
        return []
    return [
        (
            f"{split} view 0",
            f"{differing} of {len(common)} common rows differ",
            f"by up to {largest:.2e} of their length",
        )
    ]


def _shape(store: Store, split: str) -> str:
    return f"{store.num_rows(split)} x {store.num_views(split)}" if split in store.splits else "absent"


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat.update(_flat(item, f"{prefix}{name}.") if isinstance(item, dict) else {f"{prefix}{name}": item})
    return flat

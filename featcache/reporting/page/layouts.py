"""Embeddings laid out in the plane by t-SNE, kept in the cache: a layout is made once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featcache.errors import InputError
from featcache.store.places import home, make_folder
from featcache.store.spec import canonical_json

PERPLEXITY = 30.0


def laid_out(meaning: Any, rows: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """(N, 2) the layout of `rows` (N, D), made or, if it was made before, read.

    `meaning` is all that decides the rows, as JSON can hold it: while it stays the same, `rows` is not called. Raises
    InputError where scikit-learn is missing.
    """
    digest = hashlib.sha256(canonical_json(["tsne", PERPLEXITY, meaning]).encode()).hexdigest()
    file = home() / "report" / f"layout-{digest[:32]}.npy"
    kept = _read(file)
    if kept is None:
        kept = _tsne(rows())
        _write(file, kept)
    return kept


def _tsne(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise InputError("t-SNE needs scikit-learn: pip install 'featcache[report]'") from error
    perplexity = min(PERPLEXITY, max(1.0, (len(rows) - 1) / 3))
    made = TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=750).fit_transform(rows.astype(np.float64))
    span = np.abs(made).max() or 1.0
    return np.asarray(made / span, dtype=np.float32)


def _read(file: Path) -> NDArray[np.float32] | None:
    try:
        found: NDArray[np.float32] = np.load(file, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return found


def _write(file: Path, layout: NDArray[np.float32]) -> None:
    make_folder(file.parent)
    fresh = file.with_suffix(f".{os.getpid()}.tmp.npy")
    np.save(fresh, layout, allow_pickle=False)
    fresh.replace(file)

"""Precomputed features become a store, no images needed: an .npz of arrays, or a folder that a peer's code wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from featcache.errors import ConfigError, UnknownNameError
from featcache.importing import npz
from featcache.importing.common import Found, Progress, Stated, save, unseen
from featcache.store.places import check_name

__all__ = ["KINDS", "PEERS", "Stated", "import_from", "import_npz"]

NPZ: Final = "npz"
PEERS: Final = ("tip-adapter", "clip-benchmark", "clip-retrieval")
KINDS: Final = (NPZ, *PEERS)
_NOTHING: Final = Stated()


def import_from(
    kind: str | None,
    path: Path,
    *,
    name: str,
    dataset: str | None = None,
    stated: Stated = _NOTHING,
    progress: Progress = unseen,
) -> Path:
    """The path of the store `name` made from what a `kind` of code left at `path`; None: an .npz.

    `stated` is what a peer's files do not say themselves. Raises UnknownNameError, ConfigError for an option without
    effect, DataError for files that are lacking, unsound or hold more than plain arrays. Nothing is written then, and
    nothing that a file carries is run.
    """
    kind = kind or _default_kind(path)
    if kind not in KINDS:
        raise UnknownNameError("format to import from", kind, KINDS)
    check_name(name)
    _check_effect(kind, stated)
    if kind == NPZ:
        return import_npz(path, name=name, dataset=dataset, progress=progress)
    return save(_reader(kind)(path, stated), name=name, dataset=dataset, progress=progress)


def import_npz(file: Path, *, name: str, dataset: str | None = None, progress: Progress = unseen) -> Path:
    """The path of the store made from `file`; raises DataError for a file that does not hold what it must.

    Arrays: `{train,val,test}_features` (N, D) and `{train,val,test}_labels` (N,), val optional; optional
    `text_features` (C, D), `class_names` (C,), `logit_scale` (), `backbone` ().
    """
    check_name(name)
    return save(npz.read(file), name=name, dataset=dataset, progress=progress)


def _default_kind(path: Path) -> str:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; say what wrote it, with --from {' or --from '.join(PEERS)}")
    return NPZ


def _check_effect(kind: str, stated: Stated) -> None:
    """Raises ConfigError for an option that this kind of source leaves without effect."""
    if kind != "tip-adapter" and stated.shots is not None:
        raise ConfigError(f"--shots picks one of the caches in a Tip-Adapter folder; it has no effect on {kind}")
    if kind == NPZ and stated != _NOTHING:
        raise ConfigError(
            "an .npz states its own backbone, class_names and text_features: put those arrays into it in place of "
            "--backbone, --classnames and --classifier"
        )


def _reader(kind: str) -> Callable[[Path, Stated], Found]:
    # Imported when asked for: the first two load torch.
    if kind == "tip-adapter":
        from featcache.importing import tip_adapter as module
    elif kind == "clip-benchmark":
        from featcache.importing import clip_benchmark as module  # type: ignore[no-redef]
    else:
        from featcache.importing import clip_retrieval as module  # type: ignore[no-redef]
    return module.read

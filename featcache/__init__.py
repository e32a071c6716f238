"""featcache: extract CLIP features once, then fit adapters on them in seconds.

    import featcache

    store = featcache.extract("shapes", "tiny")          # or featcache.open("shapes-tiny-coop")
    task = store.task(shots=16, seed=1)
    results = featcache.fit(task, "clip_adapter", alpha=featcache.grid(0, 1, 0.1))
    results.best, results.test_accuracy, results.frame()
    head = results.head()                                # a torch module: raw embeddings -> logits

Nothing is loaded before it is used: `import featcache` imports neither torch nor open_clip.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featcache.api import FeatureStore, FewShotTask, extract, fit, grid, load_head, open
    from featcache.errors import FeatcacheError
    from featcache.estimator import AdapterClassifier
    from featcache.fitted import FitResults
    from featcache.heads.module import HeadModule, LinearHead

__version__ = "0.1.0"
__all__ = [
    "AdapterClassifier",
    "FeatcacheError",
    "FeatureStore",
    "FewShotTask",
    "FitResults",
    "HeadModule",
    "LinearHead",
    "__version__",
    "extract",
    "fit",
    "grid",
    "load_head",
    "open",
]
_HOMES = {
    "AdapterClassifier": "featcache.estimator",
    "FeatcacheError": "featcache.errors",
    "FitResults": "featcache.fitted",
    "HeadModule": "featcache.heads.module",
    "LinearHead": "featcache.heads.module",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "featcache.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""What decides the meaning of an image embedding, and the key made from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = "featcache/1"


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Which frozen encoder made the embeddings."""

    architecture: str
    """open_clip's name of the architecture, e.g. `RN50-quickgelu`; for an import, what the file says."""
    activation: str
    """`quickgelu` or `gelu`: the same weights under the other activation are another encoder."""
    checkpoint: str
    """SHA-256 of the checkpoint file, or `random:SEED` for untrained weights."""
    precision: str
    """The arithmetic of the forward pass: `fp32`, `bf16` or `fp16`, with `-compiled` where torch.compile made it."""

    @property
    def untrained(self) -> bool:
        """Whether the weights are random, which every table says."""
        return self.checkpoint.startswith("random:")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """All that changes an image embedding, and nothing else."""

    tower: Tower
    transform: Mapping[str, Any]
    """The preprocessing (`views.Transform` as a mapping), or `{"style": "import"}`."""
    view_seed: int
    """Seed of the augmented views."""
    dtype: str
    """`float16` or `float32`, as stored."""
    manifest: str
    """Digest of the whole manifest: every path, class index and split."""

    def to_json(self) -> str:
        """The canonical JSON of this spec."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The spec that `to_json` wrote; raises KeyError, TypeError or ValueError on anything else."""
        fields = json.loads(text)
        return cls(**{**fields, "tower": Tower(**fields["tower"])})

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON: the same key, the same meaning."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

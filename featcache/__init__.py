"""featcache: extract CLIP features once, then fit adapters on them in seconds."""

__version__ = "0.1.0"

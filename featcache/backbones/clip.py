"""open_clip, imported quietly and with the bundled `tiny` among its architectures."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

BUNDLED_FOLDER = Path(__file__).parents[1] / "bundled"


def open_clip_module() -> Any:
    """The module open_clip; its first import takes some seconds."""
    # Its import runs code that warns about others' deprecations; they say nothing to our users.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import open_clip
    if "tiny" not in open_clip.list_models():
        open_clip.add_model_config(BUNDLED_FOLDER / "tiny.json")
    return open_clip

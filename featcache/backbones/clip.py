"""open_clip, imported quietly and with the bundled `tiny` among its architectures."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def quiet() -> Iterator[None]:
    """open_clip warns through logging that weights are random or not loaded yet, which is what was asked of it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

"""Other packages' log messages, kept from the user where the outcome is said in words of our own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is logged below an error.

    open_clip warns that weights are random or not loaded yet, which is what was asked of it; the hub's client tells of
    each of its retries.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

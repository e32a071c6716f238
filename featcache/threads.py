"""Several things at once on a CPU: torch's threads shared out among threads of Python."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def side_by_side(count: int, *, each: int = 1) -> Iterator[ThreadPoolExecutor]:
    """A pool of `count` threads, in each of which torch uses `each` threads of its own.

    Small products and small tables gain more from this than from being cut up by torch: no core waits for another at
    each of them.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(each,))
    try:
        yield pool
    finally:
        pool.shutdown()
        torch.set_num_threads(threads)

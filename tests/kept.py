"""What test_kept_memory.py runs, each in a process of its own: a heap that other work has left has room of its own."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import torch

from featcache.extraction.encode import _begin_worker
from featcache.kept_memory import kept_memory

SIZE = 64 * 2**20
CPU = torch.device("cpu")


def kept_of_a_freed_array() -> int:
    """Bytes that the process still holds of an array of SIZE that was filled and freed."""
    before = held()
    np.empty(SIZE, dtype=np.uint8).fill(1)
    return held() - before


def held() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def freed_memory_is_kept_and_then_given_back() -> None:
    before = held()
    with kept_memory(CPU):
        assert kept_of_a_freed_array() > SIZE / 2
        inside = held()
        assert kept_of_a_freed_array() < SIZE / 4, "the second lies where the first was"
    assert held() < inside - SIZE / 2
    assert held() < before + SIZE / 4


def an_error_inside_gives_it_back_too() -> None:
    before = held()
    try:
        with kept_memory(CPU):
            kept_of_a_freed_array()
            raise ValueError
    except ValueError:
        assert held() < before + SIZE / 4


def a_decoding_process_keeps_nothing() -> None:
    with kept_memory(CPU):
        child = os.fork()
        if child == 0:
            _begin_worker(0)
            os._exit(int(kept_of_a_freed_array() >= SIZE / 4))
        assert os.waitpid(child, 0)[1] == 0


def what_the_user_has_set_up_stays() -> None:
    os.environ["MALLOC_ARENA_MAX"] = "2"
    with kept_memory(CPU):
        assert kept_of_a_freed_array() < SIZE / 4


def on_another_device_nothing_is_done() -> None:
    with kept_memory(torch.device("meta")):
        assert kept_of_a_freed_array() < SIZE / 4

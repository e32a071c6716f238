"""Inside, what is freed stays with the process; afterwards the system has it back."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache.kept_memory import _glibc, kept_memory

SIZE = 64 * 2**20
CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(_glibc() is None, reason="the C library is not glibc")


def _kept_of_a_freed_array() -> int:
    """Bytes that the process still holds of an array of SIZE that was filled and freed."""
    before = _held()
    np.empty(SIZE, dtype=np.uint8).fill(1)
    return _held() - before


def _held() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_freed_memory_is_kept_and_then_given_back() -> None:
    before = _held()
    with kept_memory(CPU):
        assert _kept_of_a_freed_array() > SIZE / 2
        inside = _held()
        assert _kept_of_a_freed_array() < SIZE / 4, "the second lies where the first was"
    assert _held() < inside - SIZE / 2
    assert _held() < before + SIZE / 4
    assert _kept_of_a_freed_array() < SIZE / 4


def test_an_error_inside_gives_it_back_too() -> None:
    before = _held()

    def fail() -> None:
        with kept_memory(CPU):
            _kept_of_a_freed_array()
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert _held() < before + SIZE / 4


def test_on_another_device_nothing_is_done() -> None:
    with kept_memory(torch.device("meta")):
        assert _kept_of_a_freed_array() < SIZE / 4

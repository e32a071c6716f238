"""Inside, what is freed stays with the process; afterwards the system has it back."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache.extraction.batches import BatchEncoder
from featcache.kept_memory import _glibc, kept_memory, not_kept_here
from tests.commandline import Run

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


def test_a_process_begun_inside_can_keep_nothing() -> None:
    read, write = os.pipe()
    with kept_memory(CPU):
        child = os.fork()
        if child == 0:
            not_kept_here()
            os.write(write, str(_kept_of_a_freed_array()).encode())
            os._exit(0)
        os.waitpid(child, 0)
    assert int(os.read(read, 100)) < SIZE / 4


def test_what_the_user_has_set_up_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    with kept_memory(CPU):
        assert _kept_of_a_freed_array() < SIZE / 4


def test_images_are_encoded_inside(run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By extraction and by `predict`."""
    kept: list[bool] = []
    encode = BatchEncoder.__call__

    def watched(self: BatchEncoder, views: Any) -> torch.Tensor:
        kept.append(_kept_of_a_freed_array() > SIZE / 2)
        return encode(self, views)

    monkeypatch.setattr(BatchEncoder, "__call__", watched)
    few = ("--shots", "1", "--seeds", "1")
    assert run("extract", "--dataset", f"folder:{pictures}", "--backbone", "tiny", "--views", "1", *few).code == 0
    assert kept
    assert kept[0], "what later batches free may lie in what the first left"
    assert run("fit", *few, "--epochs", "1", "--alpha-grid", "0.4").code == 0
    assert run("export", "1", "-o", pictures.parent / "head.safetensors").code == 0
    kept.clear()
    assert run("predict", pictures.parent / "head.safetensors", pictures / "test").code == 0
    assert kept
    assert kept[0]
    assert _kept_of_a_freed_array() < SIZE / 4


def test_on_another_device_nothing_is_done() -> None:
    with kept_memory(torch.device("meta")):
        assert _kept_of_a_freed_array() < SIZE / 4

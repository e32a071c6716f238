"""Inside, what is freed stays with the process; afterwards the system has it back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from featcache.extraction import encode
from featcache.extraction.batches import BatchEncoder
from featcache.heads import predicting
from featcache.kept_memory import _glibc
from tests.commandline import Run

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(_glibc() is None, reason="the C library is not glibc, or MALLOC_* is set")
@pytest.mark.parametrize(
    "trial",
    [
        "freed_memory_is_kept_and_then_given_back",
        "an_error_inside_gives_it_back_too",
        "a_decoding_process_keeps_nothing",
        "what_the_user_has_set_up_stays",
        "on_another_device_nothing_is_done",
    ],
)
def test_kept_memory(trial: str) -> None:
    command = [sys.executable, "-c", f"from tests import kept; kept.{trial}()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_images_are_encoded_inside(run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By extraction and by `predict`."""
    inside: list[torch.device] = []
    seen: list[int] = []
    encoded = BatchEncoder.__call__

    @contextmanager
    def watched(device: torch.device) -> Iterator[None]:
        inside.append(device)
        yield
        inside.pop()

    def counted(self: BatchEncoder, views: list[torch.Tensor]) -> torch.Tensor:
        seen.append(len(inside))
        return encoded(self, views)

    monkeypatch.setattr(encode, "kept_memory", watched)
    monkeypatch.setattr(predicting, "kept_memory", watched)
    monkeypatch.setattr(BatchEncoder, "__call__", counted)
    few = ("--shots", "1", "--seeds", "1")
    assert run("extract", "--dataset", f"folder:{pictures}", "--backbone", "tiny", "--views", "1", *few).code == 0
    assert run("fit", *few, "--epochs", "1", "--alpha-grid", "0.4").code == 0
    head = pictures.parent / "head.safetensors"
    assert run("export", "1", "-o", head).code == 0
    extracted = len(seen)
    assert run("predict", head, pictures / "test").code == 0
    assert set(seen) == {1}
    assert 0 < extracted < len(seen)
    assert not inside

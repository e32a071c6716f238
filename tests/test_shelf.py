"""A search that was killed goes on with the stacks that it had trained, and ends as it would have."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch

from featcache import shelf
from featcache.shelf import DiskShelf
from featcache.store.places import results_path
from tests.commandline import Run
from tests.synthetic import arrays, save

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ("fit", "toy", "--alpha-grid", "0:1:0.1", "--shots", "4", "--epochs", "6")
# Many small stacks, all worth keeping; the process is killed once KILL of them are kept, and says what it trains.
_CODE = """
import os, signal, sys
from featcache import cli, shelf, training
shelf.WORTH_KEEPING_S, training.STACK_BYTES, training.WORTH_SPLITTING = 0.0, 1, 0
put, train, kept = shelf.DiskShelf.put, training._train_stack, []
def counted(self, *arguments):
    put(self, *arguments)
    kept.append(1)
    if len(kept) == int(os.environ["KILL"]):
        os.kill(os.getpid(), signal.SIGKILL)
def told(runs, *arguments):
    sys.stderr.write("trains a stack\\n")
    return train(runs, *arguments)
shelf.DiskShelf.put, training._train_stack = counted, told
cli.main()
"""


def fit(home: Path, *, kill_after: int = 0) -> tuple[int, int]:
    """Exit code of a fit in a process of its own, and how many stacks it began to train."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *COMMAND],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"KILL": str(kill_after), "OMP_NUM_THREADS": "1"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert home.exists()
    return done.returncode, done.stderr.count("trains a stack")


def test_a_killed_fit_goes_on_with_the_stacks_it_had(run: Run, home: Path, tmp_path: Path) -> None:
    assert run("import", save(tmp_path / "toy.npz", arrays()), "--name", "toy").code == 0
    code, whole = fit(home)
    assert (code, whole > 5) == (0, True)
    unfinished = results_path().parent / "unfinished"
    assert not list(unfinished.rglob("*.safetensors"))

    code, began = fit(home, kill_after=4)
    assert code == -signal.SIGKILL
    assert began <= whole - 1
    assert len(list(unfinished.rglob("*.safetensors"))) == 4
    code, rest = fit(home)
    assert (code, rest) == (0, whole - 4)
    assert not list(unfinished.rglob("*.safetensors"))

    with closing(sqlite3.connect(results_path())) as database:
        runs = database.execute("SELECT search, config, shot_seed, selection_loss, test_loss FROM run ORDER BY id")
        runs = list(runs)
    assert [run[1:] for run in runs if run[0] == 1] == [run[1:] for run in runs if run[0] == 2]
    assert {run[0] for run in runs} == {1, 2}


DOWN, UP = torch.arange(6.0).reshape(2, 3), torch.ones(2, dtype=torch.bfloat16)
PARAMS = [{"down": DOWN, "up": UP}, {"down": -DOWN, "up": UP}]


def test_what_is_put_is_taken_back_and_no_other_search_sees_it(tmp_path: Path) -> None:
    mine = DiskShelf(tmp_path, ["a search"])
    mine.put("stack", PARAMS, shelf.WORTH_KEEPING_S)
    taken = DiskShelf(tmp_path, ["a search"]).take("stack")
    assert taken is not None
    for one, other in zip(taken, PARAMS, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert mine.take("another stack") is None
    assert DiskShelf(tmp_path, ["another search"]).take("stack") is None
    mine.clear()
    assert mine.take("stack") is None


def test_what_is_soon_trained_again_or_too_large_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = DiskShelf(tmp_path, ["a search"])
    mine.put("stack", PARAMS, shelf.WORTH_KEEPING_S / 2)
    monkeypatch.setattr(shelf, "MAX_STACK_BYTES", 8)
    mine.put("stack", PARAMS, shelf.WORTH_KEEPING_S)
    assert mine.take("stack") is None


def test_no_damaged_byte_comes_back(tmp_path: Path) -> None:
    mine = DiskShelf(tmp_path, ["a search"])
    mine.put("stack", PARAMS, shelf.WORTH_KEEPING_S)
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        taken = mine.take("stack")
        assert taken is None or all(
            torch.equal(one[name], other[name]) for one, other in zip(taken, PARAMS, strict=True) for name in other
        )
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert mine.take("stack") is None

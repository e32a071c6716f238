"""Ctrl-C and SIGTERM: every long command stops soon, keeps what is done, says how to go on, exits 130 or 143."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from featcache import interrupts
from featcache.commands.running import stoppable
from featcache.importing import import_npz
from featcache.store import Store
from tests import synthetic
from tests.commandline import Run

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
NUMBERS = {signal.SIGINT: 130, signal.SIGTERM: 143}

# Slows what would be done before a signal could come, from outside: the command itself is the real one.
SLOW = """
import os, sys, time
from featcache import cli
sys.argv = ["featcache", *sys.argv[1:]]
def slow(module, name, seconds):
    import importlib
    place = importlib.import_module(module)
    for part in name.split(".")[:-1]:
        place = getattr(place, part)
    last = name.split(".")[-1]
    plain = getattr(place, last)
    def called(*given, **named):
        print("here", flush=True)
        time.sleep(seconds)
        return plain(*given, **named)
    setattr(place, last, called)
for told in os.environ["SLOW"].split(";"):
    module, name, seconds = told.split(":")
    slow(module, name, float(seconds))
cli.main()
"""


def interrupted(number: int, slow: str, *arguments: str | Path, after: int = 3) -> tuple[int, str, float]:
    """Exit code, stderr and seconds from the signal, sent once the slowed function has been called `after` times."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"SLOW": slow, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the signal goes to all its processes, as from a terminal or a scheduler
    )
    assert process.stdout is not None
    calls = 0
    while calls < after:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        calls += line == "here\n"
    begun = time.monotonic()
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=120)
    return process.returncode, err, time.monotonic() - begun


def check(ended: tuple[int, str, float], number: int) -> None:
    code, err, seconds = ended
    assert code == NUMBERS[signal.Signals(number)], err
    assert "Traceback" not in err
    assert "Aborted" not in err
    assert err.count("stopped; ") == 1, err
    assert "the same command" in err
    assert seconds < 30, "a machine may be busy, but the command would have taken minutes"


@pytest.mark.parametrize("number", NUMBERS)
def test_extract_keeps_what_is_encoded(run: Run, home: Path, pictures: Path, number: int) -> None:
    options = ["extract", "--backbone", "tiny", "--weights", "random:0", "--dataset", f"folder:{pictures}"]
    options += ["--views", "2", "--all-train", "--batch-size", "8"]
    slow = "featcache.backbones.backbone:Backbone.encode_images:0.3"
    check(interrupted(number, slow, *options, "--workers", "2", after=4), number)
    assert not list(home.glob("stores/*"))
    assert run(*options, "--workers", "0").code == 0


@pytest.mark.parametrize("number", NUMBERS)
def test_import_leaves_the_old_store_or_the_new(run: Run, home: Path, tmp_path: Path, number: int) -> None:
    file = synthetic.save(tmp_path / "toy.npz", synthetic.arrays())
    slow = "featcache.store.disk:_Disk.write:0.1"  # inside what HDF5 calls, where an exception would crash it
    check(interrupted(number, slow, "import", file, "--name", "toy"), number)
    assert not [path for path in home.rglob("*") if path.is_file()], "not even a temporary file"
    assert run("import", file, "--name", "toy").code == 0


@pytest.mark.parametrize("number", NUMBERS)
def test_fit_stops_between_two_steps(run: Run, home: Path, tmp_path: Path, number: int) -> None:
    import_npz(synthetic.save(tmp_path / "toy.npz", synthetic.arrays(train=40)), name="toy")
    options = ("fit", "toy", "--alpha-grid", "0.2,0.4", "--shots", "16", "--epochs", "100000")
    slow = "featcache.training:_spread:0.01"
    check(interrupted(number, slow, *options, after=20), number)
    assert "no results yet" in run("results").out


def test_prompts_add_leaves_the_store_as_it_was(run: Run, home: Path, pictures: Path) -> None:
    options = ["--backbone", "tiny", "--weights", "random:0", "--shots", "1", "--seeds", "1", "--views", "0"]
    assert run("extract", "--dataset", f"folder:{pictures}", *options, "--name", "mine").code == 0
    with Store(home / "stores" / "mine.h5") as store:
        before = store.content
    slow = "featcache.store.disk:_Disk.write:0.1"
    check(interrupted(signal.SIGINT, slow, "prompts", "add", "mine", "paper-7"), signal.SIGINT)
    with Store(home / "stores" / "mine.h5") as store:
        assert (store.content, store.text_sets) == (before, ("default",))


def test_a_plan_goes_on_where_it_was_stopped(run: Run, home: Path, tmp_path: Path, pictures: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'[extract]\ndatasets = ["folder:{pictures}"]\nbackbones = ["tiny"]\nweights = "random:0"\nviews = 1\n'
        'shots = [1]\nseeds = [1]\n[[fit]]\nadapters = ["zero_shot", "clip_adapter"]\nepochs = 100000\n'
        'grid = ["alpha=0.5"]\n'
    )
    slow = "featcache.training:_spread:0.01"
    check(interrupted(signal.SIGINT, slow, "run", plan, "--workers", "0", after=10), signal.SIGINT)
    told = run("run", plan, "--plan")
    assert told.code == 0, told.err
    assert "zero_shot" in run("results").out, "what was fitted before is kept"


def test_an_interrupt_outside_any_command_is_told_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert interrupts.code_of(KeyboardInterrupt()) == 130
    assert interrupts.code_of(interrupts.Stopped(signal.SIGTERM)) == 143
    with pytest.raises(Exception) as ended, stoppable("kept"):  # noqa: PT011
        raise interrupts.Stopped(signal.SIGTERM)
    assert getattr(ended.value, "exit_code", None) == 143


@pytest.fixture
def listening() -> Iterator[Callable[[], None]]:
    """The signals' handlers as they were, afterwards."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield interrupts.listen
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_waits_where_it_must_not_be_raised(listening: Callable[[], None]) -> None:
    listening()
    done = []

    def deferring() -> None:
        with interrupts.deferred():
            signal.raise_signal(signal.SIGINT)
            done.append("after the signal")
        done.append("after the end")

    with pytest.raises(interrupts.Stopped):
        deferring()
    assert done == ["after the signal"]


def test_a_signal_is_raised_between_two_blocks_of_rows(listening: Callable[[], None]) -> None:
    listening()
    done = []

    def deferring() -> None:
        with interrupts.deferred():
            for block in range(3):
                if block == 1:
                    signal.raise_signal(signal.SIGTERM)
                interrupts.check()
                done.append(block)

    with pytest.raises(interrupts.Stopped) as stop:
        deferring()
    assert (done, stop.value.code) == ([0], 143)

"""Whole processes, timed from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

HERE = Path(__file__).parent
PASSIVE = {"OMP_WAIT_POLICY": "passive"}
"""For both sides alike: threads that spin while they wait would slow the processes that decode."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """A process that ended well."""

    seconds: float
    """From its start to its end by the wall clock: interpreter and imports are in it."""
    peak_mb: float | None
    """The most memory its main process held at once, in units of 2^20 bytes; None on systems that do not tell."""
    out: str
    """What it printed."""


def featcache(home: Path, *arguments: str) -> Done:
    """The command line, on a cache folder of its own."""
    return timed([sys.executable, "-m", "featcache", *arguments], {"FEATCACHE_HOME": str(home)})


def script(name: str, *arguments: str, home: Path) -> Done:
    """A script of this folder. The home is an empty one, so that nothing is at hand from an earlier run."""
    return timed([sys.executable, str(HERE / name), *arguments], {"FEATCACHE_HOME": str(home)})


def timed(command: list[str], environment: Mapping[str, str]) -> Done:
    """The process, once it has ended; ends this script where it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**PASSIVE, **os.environ, **environment})
        watcher = _Watcher(process.pid)
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - start
        watcher.stop.set()
        watcher.join()
        out.seek(0)
        err.seek(0)
        if code:
            raise SystemExit(f"{' '.join(command[1:])} failed:\n{err.read()}")
        return Done(seconds=seconds, peak_mb=watcher.peak_mb, out=out.read())


def last_json(done: Done) -> Any:
    """What a script of this folder printed on its last line."""
    return json.loads(done.out.splitlines()[-1])


@dataclass(frozen=True, kw_only=True)
class Found:
    """What `featcache fit --json` printed."""

    accuracy: float
    """On test, of the chosen runs: the mean over draws."""
    zero_shot: float
    num_params: int | None
    """Of a chosen run."""
    chosen: list[dict[str, Any]]
    """The chosen configurations."""
    laps: dict[str, float]
    """Seconds inside the process, by stage."""


def found(done: Done) -> Found:
    """What the search came to."""
    outcome = json.loads(done.out)
    chosen = [run for run in outcome["runs"] if run["chosen"]]
    return Found(
        accuracy=fmean(run["test"]["accuracy"] for run in chosen),
        zero_shot=outcome["zero_shot"]["accuracy"],
        num_params=chosen[0]["num_params"],
        chosen=[run["config"] for run in chosen],
        laps=outcome["seconds"],
    )


class _Watcher(threading.Thread):
    """Reads a process's peak, which the kernel keeps, until it is told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.file = Path(f"/proc/{pid}/status")
        self.peak_mb: float | None = None
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.05):
            try:
                lines = self.file.read_text(encoding="utf-8").splitlines()
            except OSError:
                return
            for line in lines:
                if line.startswith("VmHWM"):
                    self.peak_mb = int(line.split()[1]) / 1024

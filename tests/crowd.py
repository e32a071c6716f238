"""Runs several commands at the very same time, each in a process of its own, forked from one that has loaded torch.

    python -m tests.crowd '[["extract", ..], ["extract", ..]]'      several, from here
    torchrun --nproc-per-node 2 -m tests.crowd rank extract ..      one, as a rank

Prints, as JSON, how each ended. CROWD_KILL=RANK:PARTS kills a rank once it has written so many parts.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SHARD_VIEWS = 20


class Ended(NamedTuple):
    """How one command ended."""

    code: int
    said: str
    parts: int
    """How many parts it wrote."""


def at_once(commands: list[list[str]], home: Path, *, meet: bool = False) -> list[Ended]:
    """Run the commands together, on a cache folder; `meet`: none goes on after its first part before all have one."""
    environment = {**os.environ, "FEATCACHE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    if meet:
        log = home.with_suffix(".log")
        log.write_text("")
        environment |= {"CROWD_LOG": str(log), "CROWD_MEET": str(len(commands))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.crowd", json.dumps(commands)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [Ended(*item) for item in json.loads(done.stdout)]


def as_ranks(arguments: list[str], home: Path, *, kill: str = "") -> tuple[int, str, list[int]]:
    """Exit code, what was said, and how many parts each of two ranks wrote, of a command under torchrun."""
    log = home.with_suffix(".log")
    log.write_text("")
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tests.crowd", "rank"]
    environment = {**os.environ, "FEATCACHE_HOME": str(home), "CROWD_LOG": str(log)}
    if kill:
        environment |= {"CROWD_KILL": kill, "CROWD_MEET": "2"}
    done = subprocess.run(
        [*start, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    wrote = log.read_text().split()
    return done.returncode, done.stdout + done.stderr, [wrote.count("wrote-0"), wrote.count("wrote-1")]


def main() -> None:
    import torch  # all is loaded once, for all that are forked

    from featcache.commands import fitting  # noqa: F401

    torch.set_num_threads(1)
    commands = json.loads(sys.argv[1])
    if any(command[0] == "extract" for command in commands):
        import open_clip  # noqa: F401

        from featcache.commands import extracting  # noqa: F401
        from featcache.extraction import assemble, encode  # noqa: F401

    begin_read, begin_write = os.pipe()
    children = []
    for number, command in enumerate(commands):
        told_read, told_write = os.pipe()
        process = os.fork()
        if not process:
            os.close(begin_write)
            os.environ["CROWD_RANK"] = str(number)
            os.read(begin_read, 1)  # returns once the parent has closed the other end: all begin together
            os.write(told_write, json.dumps(_one(command)).encode())
            os._exit(0)
        os.close(told_write)
        children.append((process, told_read))
    os.close(begin_write)
    ended = []
    for process, told in children:
        with os.fdopen(told) as told_file:
            ended.append(json.loads(told_file.read()))
        os.waitpid(process, 0)
    sys.stdout.write(json.dumps(ended))


def _one(command: list[str]) -> Ended:
    from featcache.engines import sharing
    from featcache.extraction import shards
    from featcache.extraction.parts import write_part

    shards.SHARD_VIEWS = SHARD_VIEWS
    parts = 0

    def counted(*given: object) -> None:
        nonlocal parts
        write_part(*given)  # type: ignore[arg-type]
        parts += 1
        _told(parts)

    sharing.write_part = counted  # type: ignore[assignment]
    from featcache import cli

    sys.argv = ["featcache", *command]
    said, code = io.StringIO(), 0
    streams = contextlib.ExitStack()
    if "RANK" not in os.environ:
        streams.enter_context(contextlib.redirect_stdout(said))
        streams.enter_context(contextlib.redirect_stderr(said))
    with streams:
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            code = 70
    return Ended(code, said.getvalue(), parts)


def _told(parts: int) -> None:
    """What this process has done goes to the log; then it waits for the others, and perhaps it dies."""
    if "CROWD_LOG" not in os.environ:
        return
    rank, log = os.environ.get("RANK", os.environ.get("CROWD_RANK")), Path(os.environ["CROWD_LOG"])
    with log.open("a") as file:
        file.write(f"wrote-{rank}\n")
    others = [f"wrote-{number}" for number in range(int(os.environ.get("CROWD_MEET", "0")))]
    until = time.monotonic() + 120
    while not all(line in log.read_text() for line in others) and time.monotonic() < until:
        time.sleep(0.01)
    if os.environ.get("CROWD_KILL") == f"{rank}:{parts}":
        os.kill(os.getpid(), signal.SIGKILL)


def _rank() -> None:
    """One rank, begun when all have loaded torch."""
    from featcache.extraction import assemble, encode  # noqa: F401

    log = Path(os.environ["CROWD_LOG"])
    with log.open("a") as file:
        file.write("ready\n")
    while log.read_text().count("ready") < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.01)
    sys.exit(_one(sys.argv[2:]).code)


if __name__ == "__main__":
    if sys.argv[1] == "rank":
        _rank()
    else:
        main()

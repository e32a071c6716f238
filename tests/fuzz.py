"""Feeds damaged and hostile files to every reader: is each refused with our own error, or read as something sound?

    python -m tests.fuzz --inputs 10000           so many inputs, shared out among the readers
    python -m tests.fuzz --minutes 10             each reader for so long
    python -m tests.fuzz --reader npz --seed 3    one reader

Inputs are sound files changed at random (bytes flipped, cut out, doubled, numbers put in) and, for readers of text,
made by hypothesis from the form's own words. Each is read in a child process with limits of time and memory. A
FeatcacheError and a sound reading are right; any other exception, a hang, too much memory or the child's death are
wrong, printed with the seed that makes the input again, and make the trial fail.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS_AN_INPUT = 30
MEMORY_BYTES = 12 << 30
INPUTS_A_CHILD = 3000


def fuzz(reader: str, *, inputs: int, minutes: float, seed: int) -> Counter[str]:
    """How many inputs of a reader ended in which way; prints each that ended in none it may."""
    counts: Counter[str] = Counter()
    until = time.monotonic() + 60 * minutes if minutes else float("inf")
    first = 0
    while first < inputs and time.monotonic() < until:
        first = _in_child(reader, first, min(inputs, first + INPUTS_A_CHILD), seed, until, counts)
    return counts


def _in_child(reader: str, first: int, end: int, seed: int, until: float, counts: Counter[str]) -> int:
    """One child's inputs, counted; the number of the next one to try."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        left_s = min(1e9, max(0.1, until - time.monotonic()))
        numbers = [str(number) for number in (first, end, seed, left_s)]
        with out.open("w") as said:
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz", "--child", reader, *numbers],
                cwd=ROOT,
                env=os.environ | {"FEATCACHE_HOME": f"{folder}/home", "FUZZ_FOLDER": folder, "OMP_NUM_THREADS": "1"},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            ending = _wait(child, out)
        lines = out.read_text(errors="replace").splitlines()
        done = [line.split(" ", 2) for line in lines if line.startswith("input ")]
        for _, number, outcome in done:
            kind = outcome.split(":")[0]
            counts[kind] += 1
            if kind not in ("refused", "read"):
                print(f"{reader} input {number}, seed {seed}: {outcome}", flush=True)  # noqa: T201
        after = first + len(done)
        if child.returncode == 0:
            return after if done else end
        if not done and ending != "hangs" and "ready" not in lines:
            raise RuntimeError(f"{reader}: {' '.join(lines[-15:])}")
        if _refused_apart(reader, after, seed):
            counts["refused"] += 1
            return after + 1
        print(f"{reader} input {after}, seed {seed}: the process {ending}; {' '.join(lines[-3:])[-300:]}", flush=True)  # noqa: T201
        counts[ending.split()[0]] += 1
        return after + 1


def _refused_apart(reader: str, number: int, seed: int) -> bool:
    """Whether an input that ended this process is refused by a reader that itself reads in a process apart."""
    from tests import fuzz_readers

    if reader not in fuzz_readers.APART:
        return False
    with tempfile.TemporaryDirectory() as folder:
        made = fuzz_readers.APART[reader](Path(folder))
        return outcome_of(made, random.Random(f"{seed} {reader} {number}")) == "refused"


def _wait(child: subprocess.Popen[bytes], out: Path) -> str:
    size, since = -1, time.monotonic()
    while child.poll() is None:
        time.sleep(0.05)
        now = out.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > SECONDS_AN_INPUT + (240 if size <= 0 else 0):  # it loads torch at first
            child.kill()
            child.wait()
            return "hangs"
    return f"dies ({child.returncode})"


def _child(reader: str, first: int, end: int, seed: int, left_s: float) -> None:
    import resource
    import warnings

    from tests import fuzz_readers

    warnings.simplefilter("ignore")
    until = time.monotonic() + left_s
    made = fuzz_readers.READERS[reader](Path(os.environ["FUZZ_FOLDER"]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    print("ready", flush=True)  # noqa: T201
    for number in range(first, end):
        if time.monotonic() > until:
            return
        print(f"input {number} {outcome_of(made, random.Random(f'{seed} {reader} {number}'))}", flush=True)  # noqa: T201


def outcome_of(reader: object, generator: random.Random) -> str:
    """`refused`, `read`, or what went wrong."""
    from featcache.errors import FeatcacheError
    from tests.fuzz_readers import Reader

    assert isinstance(reader, Reader)
    try:
        reader.put(generator)
        reader.read()
    except FeatcacheError as error:
        return "refused" if 0 < len(str(error)) < 5000 else f"MESSAGE: of {len(str(error))} characters"
    except BaseException as error:
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"RAISES: {type(error).__name__} {str(error)[:200]} at {where.filename}:{where.lineno}".replace(
            "\n", " "
        )
    return "read"


def main() -> None:
    from tests.fuzz_readers import READERS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, help="how many in all, shared out")
    parser.add_argument("--minutes", type=float, default=0.0, help="how long each reader is tried")
    parser.add_argument("--reader", action="append", choices=list(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        reader, first, end, seed, left_s = options.child
        _child(reader, int(first), int(end), int(seed), float(left_s))
        return
    readers = options.reader or list(READERS)
    inputs = -(-options.inputs // len(readers)) if options.inputs else (10**9 if options.minutes else 1000)
    failed, total = False, 0
    for reader in readers:
        start = time.monotonic()
        counts = fuzz(reader, inputs=inputs, minutes=options.minutes, seed=options.seed)
        failed |= bool(set(counts) - {"refused", "read"})
        total += counts.total()
        ended = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
        print(f"fuzz {reader}: {counts.total():,} inputs, {time.monotonic() - start:.0f} s: {ended}", flush=True)  # noqa: T201
    print(f"{total:,} inputs, seed {options.seed}: {'SOMETHING WENT WRONG' if failed else 'all refused or read'}")  # noqa: T201
    sys.exit(failed)


if __name__ == "__main__":
    main()

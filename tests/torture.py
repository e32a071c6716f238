"""The long trials of docs/reliability.md, in turns of a few minutes each: kills, faults, damage, fuzzing.

    python -m tests.torture             all turns that are not done yet, one after another
    python -m tests.torture --jobs 2    two at a time
    python -m tests.torture --next      one turn; exit code 3 where none is left
    python -m tests.torture --tell      what all turns so far came to

What a turn printed is kept in build/torture/, one file a turn, so that an interrupted trial goes on where it was and
other work can run between two turns. Remove that folder to begin again, as is due when the code has changed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz_readers import READERS

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "torture"
SWEEPS, KILLS, FAULTS = 10, 5, 5
"""How many turns each trial is cut into."""
FUZZ_MINUTES = (5, 5)
"""How long a reader is tried in each of its turns, each with a seed of its own."""


def turns() -> dict[str, list[str]]:
    """The name and the arguments of every turn."""
    found = {}
    for number in range(1, KILLS + 1):
        found[f"kills-{number}"] = ["kill_harness", "--kills", "20", "--seed", str(number)]
    for number in range(1, FAULTS + 1):
        share = f"{number}/{FAULTS}"
        found[f"faults-{number}"] = ["kill_harness", "--kills", "0", "--faults", "all", "--share", share]
    for number in range(1, SWEEPS + 1):
        found[f"sweep-{number}"] = ["damage_sweep", "--jobs", "1", "--share", f"{number}/{SWEEPS}"]
    for reader in READERS:
        for number, minutes in enumerate(FUZZ_MINUTES, start=1):
            options = ["--reader", reader, "--minutes", str(minutes), "--seed", str(number)]
            found[f"fuzz-{reader}-{number}"] = ["fuzz", *options]
    return found


def do(name: str, arguments: list[str]) -> bool:
    """Run one turn and keep what it printed; whether it found nothing wrong."""
    KEPT.mkdir(parents=True, exist_ok=True)
    module, *options = arguments
    command = [sys.executable, "-m", f"tests.{module}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = f"$ python -m tests.{module} {' '.join(options)}\n{done.stdout}{done.stderr}exit {done.returncode}\n"
    print(f"== {name}\n{told}", end="", flush=True)  # noqa: T201
    (KEPT / f"{name}.txt").write_text(told)
    return done.returncode == 0


def tell() -> bool:
    """Print the sums over all turns that are kept; whether none found anything wrong."""
    totals: dict[str, Counter[str]] = {}
    failed, left = [], []
    for name in turns():
        kept = KEPT / f"{name}.txt"
        if not kept.exists():
            left.append(name)
            continue
        lines = kept.read_text().splitlines()
        if lines[-1] != "exit 0":
            failed.append(name)
        counts = totals.setdefault(name.rpartition("-")[0], Counter())
        for line in lines[1:-1]:
            counts.update(_counts(line))
    for trial, counts in totals.items():
        print(f"{trial}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))  # noqa: T201
    print(f"turns with a fault: {', '.join(failed) or 'none'}; not done: {', '.join(left) or 'none'}")  # noqa: T201
    return not failed


def _counts(line: str) -> dict[str, int]:
    """The numbers of a line that a trial ends with, by what they count."""
    if counted := re.match(r"^([\w ,:]+): (\d+)(?:;|$)", line):
        return {counted[1]: int(counted[2])}
    form = r"^(fuzz [\w-]+|\w+): (?:[\d,]+ inputs|[\d,]+ bytes, [\d,]+ damaged files), \d+ s: (.*)$"
    if swept := re.match(form, line):
        return {
            f"{swept[1]} {name}": int(count.replace(",", ""))
            for count, name in re.findall(r"([\d,]+) (\w+)(?:,|$)", swept[2])
        }
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--next", action="store_true", help="one turn that is not done yet")
    parser.add_argument("--tell", action="store_true", help="only print the sums")
    parser.add_argument("--jobs", type=int, default=1, help="how many turns at a time")
    options = parser.parse_args()
    if options.tell:
        sys.exit(not tell())
    left = {name: arguments for name, arguments in turns().items() if not (KEPT / f"{name}.txt").exists()}
    if options.next:
        if not left:
            sys.exit(3)
        sys.exit(not do(*next(iter(left.items()))))
    with ThreadPoolExecutor(options.jobs) as workers:
        list(workers.map(do, left, left.values()))
    sys.exit(not tell())


if __name__ == "__main__":
    main()

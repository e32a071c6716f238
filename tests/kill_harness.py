"""Kills real commands, or lets the disk fail under them, runs them again, and looks for anything lost.

    python -m tests.kill_harness --kills 100            SIGKILL at 100 seeded points of progress
    python -m tests.kill_harness --kills 0 --faults all every rename, flush, sync and removal, by kill and by error
    python -m tests.kill_harness --kills 6 --faults 6   the short form, as the test suite runs it

Four commands take turns: extract, import, prompts add, fit. Each is first run undisturbed. A kill comes once there are
so many parts, bytes or lines, the number drawn at random, and a random moment after that; the command is then run
again, perhaps killed again, and at last left to end. What is then there must equal the undisturbed run's, and no part
or temporary file may be left. Processes are forked from this one, which has loaded torch; every tenth is a new Python.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests import faulty, synthetic
from tests.conftest import put_picture

ROOT = Path(__file__).resolve().parents[1]
MEASURES = ("parts", "bytes", "lines")
FRESH_EVERY = 10
LONGEST_S = 240


@dataclass
class Story:
    """One command, and what it comes to undisturbed."""

    name: str
    arguments: list[str]
    begin: Path
    """The cache folder it starts from; copied for every try."""
    seconds: float = 0.0
    most: dict[str, int] = field(default_factory=dict)
    """How far each measure of progress goes."""
    boundaries: list[str] = field(default_factory=list)
    result: str = ""


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    """Negative: the signal that killed it."""
    said: str


@dataclass
class Harness:
    """Tries stories, and counts."""

    work: Path
    stories: list[Story]
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    started: int = 0

    def learn(self) -> None:
        """Run every story undisturbed, twice: the second run shows how far it gets and where it can be hit."""
        for story in self.stories:
            home = self._home(story)
            log = self.work / "boundaries"
            log.write_text("")
            start = time.monotonic()
            ended = self._run(story, home, log=log, watch=story)
            story.seconds = time.monotonic() - start
            if ended.code:
                raise RuntimeError(f"{story.name} fails undisturbed: {ended.said[-2000:]}")
            story.boundaries = log.read_text().split()
            story.result = result_of(home)

    def kill_at_random(self, story: Story, generator: random.Random) -> int:
        """Kill a story once or more, then let it end and look. Returns the number of kills."""
        home = self._home(story)
        kills = 0
        for _ in range(generator.randint(1, 3)):
            measure = generator.choice([name for name in MEASURES if story.most[name]])
            target = generator.randint(0, story.most[measure])
            delay = generator.uniform(0, story.seconds / 4)
            ended = self._run(story, home, kill=(measure, target, delay))
            kills += ended.code == -signal.SIGKILL
            if ended.code not in (0, -signal.SIGKILL):
                self._problem(f"{story.name}, before a kill: exit {ended.code}: {ended.said[-500:]}")
        self.counts[f"{story.name}: kills"] += kills
        self._finish(story, home, f"{kills} kills, the last at {target} {measure}")
        return kills

    def fault(self, story: Story, fault: str) -> None:
        """One kill or error at a boundary, then the rerun."""
        home = self._home(story)
        ended = self._run(story, home, fault=fault)
        what = f"{story.name}, {fault}"
        if not fault.startswith("size"):
            what += f" ({story.boundaries[int(fault.partition(':')[2]) - 1]})"
        if fault.startswith("kill"):
            self.counts["kills at a boundary"] += ended.code == -signal.SIGKILL
            if ended.code != -signal.SIGKILL:
                self._problem(f"{what}: exit {ended.code}, not killed")
        else:
            self.counts["errors"] += 1
            self.counts["errors told, exit 2"] += ended.code == 2
            if ended.code not in (0, 2) or "Traceback" in ended.said:
                self._problem(f"{what}: exit {ended.code}: {ended.said[-700:]}")
        self._finish(story, home, what)

    def _finish(self, story: Story, home: Path, what: str) -> None:
        """Run to the end; then all must be as if nothing had happened."""
        ended = self._run(story, home)
        if ended.code:
            self._problem(f"{story.name}, {what}: the rerun ends with {ended.code}: {ended.said[-700:]}")
            return
        self.counts["reruns compared"] += 1
        if (found := result_of(home)) != story.result:
            self._problem(f"{story.name}, {what}: not the undisturbed result: {found} for {story.result}")
        if left := leftovers(home):
            self._problem(f"{story.name}, {what}: left behind {left}")
        shutil.rmtree(home)

    def _problem(self, told: str) -> None:
        self.problems.append(told)
        print("PROBLEM", told, flush=True)  # noqa: T201

    def _home(self, story: Story) -> Path:
        home = Path(tempfile.mkdtemp(dir=self.work, prefix="home-"))
        shutil.copytree(story.begin, home, dirs_exist_ok=True)
        return home

    def _run(
        self,
        story: Story,
        home: Path,
        *,
        kill: tuple[str, int, float] | None = None,
        fault: str = "",
        log: Path | None = None,
        watch: Story | None = None,
    ) -> Ended:
        out = home.with_suffix(".out")
        out.write_bytes(b"")
        self.started += 1
        start = _spawn if self.started % FRESH_EVERY == 0 else _fork
        process = start(story.arguments, home, out, fault, log)
        begun, reached = time.monotonic(), None
        while True:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                return Ended(os.waitstatus_to_exitcode(status), out.read_text(errors="replace"))
            progress = _progress(home, out) if kill or watch else {}
            if watch is not None:
                watch.most = {name: max(watch.most.get(name, 0), value) for name, value in progress.items()}
            now = time.monotonic()
            if kill is not None and reached is None and progress[kill[0]] >= kill[1]:
                reached = now
            if (reached is not None and kill is not None and now - reached >= kill[2]) or now - begun > LONGEST_S:
                os.kill(process, signal.SIGKILL)
                kill = None
            time.sleep(0.0005)


def result_of(home: Path) -> str:
    """All stores' content digests, each checked, and what finished searches came to."""
    from featcache.store import Store
    from featcache.store.checking import verify

    told = []
    for path in sorted((home / "stores").glob("*.h5")):
        with Store(path) as store:
            told += [path.stem, store.content, *verify(store)]
    database = home / "results.sqlite"
    if database.exists():
        with sqlite3.connect(database) as opened:
            told += [str(opened.execute("PRAGMA integrity_check").fetchone()[0])]
            searches = opened.execute("SELECT id FROM search WHERE state = 'done' ORDER BY id").fetchall()
            found = {_search(opened, number) for (number,) in searches}
        opened.close()
        told += sorted(found)  # one where all agree
    return json.dumps(told)


def _search(opened: sqlite3.Connection, number: int) -> str:
    asked = "SELECT config, draw, chosen, selection_accuracy, selection_loss, test_accuracy, test_loss FROM run"
    return json.dumps(opened.execute(f"{asked} WHERE search = ? ORDER BY id", (number,)).fetchall())


def leftovers(home: Path) -> list[str]:
    """Parts and temporary files, and folders of parts."""
    found = [path for path in home.rglob("*") if ".tmp" in path.name or path.suffix == ".part"]
    found += list((home / "parts").glob("*"))
    return sorted({str(path.relative_to(home)) for path in found})


def _progress(home: Path, out: Path) -> dict[str, int]:
    parts = size = 0
    for folder, _, files in os.walk(home):
        for name in files:
            parts += name.endswith(".part")
            try:
                size += os.stat(os.path.join(folder, name)).st_size  # noqa: PTH116, PTH118 (in a tight loop)
            except OSError:
                continue  # renamed meanwhile
    return {"parts": parts, "bytes": size, "lines": out.read_bytes().count(b"\n")}


def _environment(home: Path) -> dict[str, str]:
    return {"FEATCACHE_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def _spawn(arguments: Sequence[str], home: Path, out: Path, fault: str, log: Path | None) -> int:
    """The process number of a new Python."""
    extra = {"FEATCACHE_FAULT": fault, "FEATCACHE_BOUNDARIES": str(log or "")}
    with out.open("w") as said:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.faulty", *arguments],
            cwd=ROOT,
            env=os.environ | _environment(home) | extra,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    child.returncode = 0  # this program waits for it by its number
    return child.pid


def _fork(arguments: Sequence[str], home: Path, out: Path, fault: str, log: Path | None) -> int:
    """The process number of a copy of this one that runs the command."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        said = os.open(out, os.O_WRONLY | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ.update(_environment(home))
        faulty.install(fault, log)
        code = faulty.run(list(arguments))
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def stories(work: Path) -> list[Story]:
    """The four commands on small inputs, made here."""
    pictures, empty = work / "pictures", work / "empty"
    empty.mkdir()
    for split, count in {"train": 14, "val": 3, "test": 4}.items():
        for name in ("ant", "bee", "cat"):
            for number in range(count):
                put_picture(pictures / split / name / f"{number}.bmp", seed=f"{split}/{name}/{number}")
    features = synthetic.save(work / "toy.npz", synthetic.arrays(dim=64, train=400, val=50, test=400))
    templates = work / "many.txt"
    templates.write_text("".join(f"picture {number} of a {{}}.\n" for number in range(60)))
    options = "--backbone tiny --weights random:0 --shots 1,4 --seeds 1,2 --views 2 --all-train --workers 0"
    extract = ["extract", "--dataset", f"folder:{pictures}", *options.split(), "--name", "pictures"]
    made = Story("extract", extract, empty)
    imported = Story("import", ["import", str(features), "--name", "toy"], empty)
    with_both = work / "both"
    with_both.mkdir()
    for story in (made, imported):
        (work / "setup.out").write_text("")
        process = _fork(story.arguments, with_both, work / "setup.out", "", None)
        _, status = os.waitpid(process, 0)
        if status:
            raise RuntimeError((work / "setup.out").read_text())
    added = Story("prompts add", ["prompts", "add", "pictures", str(templates)], with_both)
    fit = ["fit", "toy", "--shots", "4", "--seeds", "1,2", "--alpha-grid", "0:1:0.5", "--epochs", "3"]
    return [made, imported, added, Story("fit", fit, with_both)]


def faults_of(story: Story, generator: random.Random) -> list[str]:
    """Every boundary, by each kind of fault, and some sizes beyond which no file can grow."""
    found = [f"{kind}:{at + 1}" for at in range(len(story.boundaries)) for kind in faulty.KINDS]
    largest = max(8, story.most["bytes"])
    return found + [f"size:{generator.randrange(1, largest)}" for _ in range(20)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many random kills at least")
    parser.add_argument("--faults", default="0", help="how many faults at boundaries, drawn at random, or all")
    parser.add_argument("--share", default="1/1", metavar="I/N", help="the I-th of N equal shares of the faults")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    os.environ.pop("FEATCACHE_DATA", None)
    import open_clip  # noqa: F401 (loaded once, for all that are forked)
    import torch

    from featcache.commands import extracting, fitting, importing  # noqa: F401
    from featcache.extraction import assemble, encode  # noqa: F401

    torch.set_num_threads(1)
    generator = random.Random(options.seed)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        harness = Harness(work, stories(work))
        harness.learn()
        kills, turn = 0, 0
        while kills < options.kills:
            kills += harness.kill_at_random(harness.stories[turn % len(harness.stories)], generator)
            turn += 1
        generator = random.Random(f"{options.seed} faults")
        faults = [(story, fault) for story in harness.stories for fault in faults_of(story, generator)]
        if options.faults != "all":
            faults = generator.sample(faults, int(options.faults))
        share, shares = map(int, options.share.split("/"))
        faults = faults[share - 1 :: shares]
        for story, fault in faults:
            harness.fault(story, fault)
    for name, count in harness.counts.items():
        print(f"{name}: {count}")  # noqa: T201
    boundaries = ", ".join(f"{story.name} {len(story.boundaries)}" for story in harness.stories)
    print(f"random kills: {kills}; boundaries: {boundaries}")  # noqa: T201
    print(f"lost or wrong: {len(harness.problems)}; {time.monotonic() - start:.0f} s, seed {options.seed}")  # noqa: T201
    sys.exit(bool(harness.problems))


if __name__ == "__main__":
    main()

"""What the scripts here share: their options, turns and rates (featcache.timing), the table, and the JSON they write.

A script's way: `parser` and the options it adds -> `options` -> `observed(device)` around what it measures -> `tell`
-> `write`. Its own `tell(result)` says what the JSON holds by `show` and `say`, and its `verdicts(result)` set that
against its targets: on the screen here, as Markdown for docs/write_performance.py. On CUDA `turns`, `now` and
`matrix_rate` wait for the device before they read the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from featcache import console
from featcache.bench import Grid
from featcache.devices import pick_device
from featcache.loading import Rows
from featcache.ops import normalise
from featcache.recipes import Recipe
from featcache.task import Task
from featcache.timing import matrix_rate, now, observed, ratios, summary, three_digits, turns

__all__ = [
    "ALPHAS",
    "CPU",
    "RESULTS",
    "Verdict",
    "add_device",
    "add_repeats",
    "apart",
    "as_markdown",
    "commit",
    "drawn",
    "drawn_grid",
    "judge",
    "matrix_rate",
    "now",
    "observed",
    "options",
    "parser",
    "peak_bytes",
    "ratios",
    "reset_peak",
    "say",
    "show",
    "spread",
    "summary",
    "three_digits",
    "turns",
    "versions",
    "write",
    "written",
]

ALPHAS = tuple(index / 10 for index in range(11))
CPU = torch.device("cpu")
RESULTS = Path(__file__).parent / "results"
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the featcache command does


def parser(doc: str) -> argparse.ArgumentParser:
    """The options of every script; it adds its own before `options` reads them."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--write",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FILE",
        help="write the figures as JSON; without FILE into benchmarks/results/, under the script's name",
    )
    made.add_argument("--short", action="store_true", help="a part of it, in minutes")
    return made


def add_repeats(made: argparse.ArgumentParser, default: int) -> None:
    """How often each way has its turn."""
    made.add_argument("--repeats", type=_count, default=default, help=f"turns that count (default {default})")


def add_device(made: argparse.ArgumentParser) -> None:
    """What to compute on, for scripts that can on a GPU."""
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def options(made: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for; `device` is a torch.device."""
    asked = made.parse_args()
    if hasattr(asked, "device"):
        asked.device = pick_device(asked.device)
    return asked


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


class Verdict(NamedTuple):
    """A target and what was found of it."""

    target: str
    found: str
    reached: bool


_blocks: list[str] | None = None


@contextmanager
def as_markdown() -> Iterator[list[str]]:
    """What `show` and `say` are given inside becomes blocks of Markdown, in this list, and stays off the screen."""
    global _blocks
    _blocks = []
    try:
        yield _blocks
    finally:
        _blocks = None


def show(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """A table on standard output, as wide as the terminal or 120 characters."""
    if _blocks is None:
        console.table(columns, rows, title=title)
    else:
        lines = [columns, ["---"] * len(columns), *rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        _blocks.append(f"*{title}*\n\n{table}")


def say(text: str) -> None:
    """A line on standard output."""
    if _blocks is None:
        console.say(text)
    else:
        _blocks.append(text)


def judge(verdicts: Sequence[Verdict]) -> None:
    """The targets, and whether they were reached; nothing where there are none."""
    if not verdicts:
        return
    rows = [[each.target, each.found, "reached" if each.reached else "missed"] for each in verdicts]
    show(["target", "found", ""], rows, "Targets")


def spread(measured: Mapping[str, float]) -> str:
    """A summary as a cell: median (min-max)."""
    return f"{measured['median']:g} ({measured['min']:g}-{measured['max']:g})"


def write(asked: argparse.Namespace, name: str, result: Mapping[str, Any]) -> None:
    """The figures, with the commit they are of, to where --write says; nothing without it.

    `name` is the script's; a short run has a file of its own, so that it never stands for a whole one.
    """
    if asked.write is None:
        return
    default = RESULTS / f"{name}{'-short' if asked.short else ''}.json"
    file = default if asked.write == Path() else asked.write
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = {**result, "short": asked.short, "commit": commit()}
    if hasattr(asked, "repeats"):
        whole["repeats"] = asked.repeats
    file.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    console.note(f"written: {file}")


def written(asked: argparse.Namespace, name: str) -> dict[str, Any]:
    """What the script's whole result holds already: a run of some of its parts leaves the others as they are."""
    file = RESULTS / f"{name}.json"
    if not asked.only or asked.short or asked.write != Path() or not file.exists():
        return {}
    held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return held


def commit() -> str:
    """The checkout's commit, with what is not committed said so, results apart; `unknown` outside one."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions(*names: str) -> dict[str, str]:
    """The versions of packages beside torch and featcache, which `observed` tells already."""
    return {name: version(name) for name in names}


def peak_bytes() -> int:
    """The most memory this process has held at once, mapped pages of files included."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the parent's memory too, up to the exec
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def reset_peak() -> int:
    """What the process holds now; `peak_bytes` counts from here on, where the system allows that (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak_bytes()


def apart(script: str | Path, *arguments: str) -> Any:
    """What the script prints as JSON on its last line, run in a process of its own."""
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{Path(script).name} {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def drawn(
    *, classes: int, width: int, images: int, views: int, seed: int, device: torch.device, num_rows: int = 2000
) -> tuple[Task, Rows]:
    """A task of `images` around class centres that text alone misses, and further rows of the same classes.

    The classes' order and the rows repeat in `seed`; images are of the classes in turn, so any first part of them is
    as good as all.
    """
    centres = torch.Generator().manual_seed(0)  # the same data set whatever the draw
    text = normalise(torch.randn(classes, width, generator=centres))
    centre = text + 0.7 * torch.randn(classes, width, generator=centres) / width**0.5
    generator = torch.Generator().manual_seed(seed + 1)

    def around(label: torch.Tensor, count: int) -> torch.Tensor:
        # More noise than this trains so roughly that roundings decide rows; with much less no alpha errs.
        noise = torch.randn(len(label), count, width, generator=generator).mul_(0.15)
        return noise.add_(centre[label][:, None]).mul_(5).to(device)  # raw embeddings are not of unit length

    label = torch.arange(images) % classes
    text = text.to(device)
    task = Task(text=text, logit_scale=100.0, image=around(label, views), label=label.to(device))
    label = torch.arange(num_rows) % classes
    return task, Rows(image=around(label, 1)[:, 0], label=label.to(device))


def drawn_grid(
    recipe: Recipe, *, classes: int, width: int, images: int, views: int, draws: int, device: torch.device
) -> Grid:
    """11 alphas on some draws of one data set; draws share their text, and so a stack."""
    size = {"classes": classes, "width": width, "images": images, "views": views}
    made = [drawn(**size, seed=seed, device=device) for seed in range(draws)]
    return Grid(
        alphas=ALPHAS,
        tasks=tuple(replace(task, text=made[0][0].text) for task, _ in made),
        init_seeds=tuple(range(1, draws + 1)),
        rows=tuple(rows for _, rows in made),
        recipe=recipe,
    )

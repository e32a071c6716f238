"""What the commands show: the only module that imports rich. Messages go to stderr, results to stdout.

Colours follow the terminal and `NO_COLOR`; progress is shown on a terminal alone. After `collect`, what would go to
stdout is kept, and `tell_collected` prints it as one JSON document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

# Control characters but line feeds and tabs, and those that reverse or hide what follows.
_STEERING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_PIPED_WIDTH = 120  # where there is no terminal to ask, wide enough for every table


def _console(*, stderr: bool) -> Console:
    # No emoji: a class may be called :smile:.
    console = Console(stderr=stderr, highlight=False, emoji=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, emoji=False, width=_PIPED_WIDTH)


_out = _console(stderr=False)
_err = _console(stderr=True)
_collected: dict[str, list[Any]] | None = None
"""Lines and tables, once a command was asked for JSON that has no form of its own for it."""


def collect() -> None:
    """From now on, keep what would go to stdout."""
    global _collected
    _collected = {"lines": [], "tables": []}


def tell_collected(error: str | None = None) -> None:
    """Print what was kept, and the failure of the command if there was one, as JSON; nothing where none was asked."""
    global _collected
    if _collected is None:
        return
    kept, _collected = _collected, None
    raw(json.dumps(kept if error is None else {**kept, "error": error}, indent=2))


def harmless(text: str) -> str:
    """The text, each character that would steer a terminal or turn its lines about written out as Python spells it.

    Class names, paths and messages come from files of strangers.
    """
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def say(text: str = "") -> None:
    """A line of result, on stdout."""
    if _collected is not None:
        _collected["lines"].append(text)
        return
    _out.print(_safe(text), soft_wrap=True)


def note(text: str) -> None:
    """A line about what is going on, on stderr."""
    _err.print(f"[dim]{_safe(text)}[/dim]", soft_wrap=True)


def warn(text: str) -> None:
    """A line the user should not overlook, on stderr."""
    _err.print(f"[yellow]note:[/yellow] {_safe(text)}", soft_wrap=True)


def fail(text: str) -> None:
    """The one message of a failed command, on stderr: a panel on a terminal, a line where it is piped."""
    if _err.is_terminal:
        _err.print(Panel(Text(harmless(text)), title="Error", title_align="left", border_style="red"))
        return
    _err.print(f"[bold red]error:[/bold red] {_safe(text)}", soft_wrap=True)


def raw(text: str) -> None:
    """Text exactly as it is, on stdout: JSON, plots of characters."""
    if _collected is not None:
        _collected["lines"].append(text)
        return
    _out.print(harmless(text), markup=False, soft_wrap=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", mark: int | None = None) -> None:
    """A table on stdout; numbers align right, row `mark` is set in bold."""
    if _collected is not None:
        rows_by_name = [dict(zip(columns, row, strict=True)) for row in rows]
        _collected["tables"].append({"title": title, "rows": rows_by_name})
        return
    if title:  # a line of its own: the table would fold it to its width
        _out.print(f"[bold]{_safe(title)}[/bold]", soft_wrap=True)
    drawn = Table(header_style="bold")
    numeric = [is_numeric([row[index] for row in rows]) for index in range(len(columns))]
    for column, right in zip(columns, numeric, strict=True):
        drawn.add_column(_safe(column), justify="right" if right else "left", overflow="fold")
    for index, row in enumerate(rows):
        drawn.add_row(*(_safe(cell) for cell in row), style="bold green" if index == mark else None)
    _out.print(drawn)


def is_numeric(cells: Sequence[str]) -> bool:
    """Whether a column holds numbers alone, and so aligns right."""
    return all(cell.strip(" %x±.,-0123456789") == "" for cell in cells)


@contextmanager
def progress(what: str, unit: str, *, rate: str, per_unit: float = 1.0) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; call the yielded function with (done now, total).

    Its speed is told in `rate`, of which `per_unit` are done with each unit.
    """
    columns = (
        TextColumn(_safe(what)),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as bar:
        task = bar.add_task(what, total=None, rate="")

        def advance(done: int, total: int) -> None:
            bar.update(task, advance=done, total=total)
            speed = bar.tasks[0].speed
            if speed:
                bar.update(task, rate=f"{per_second(speed * per_unit)} {rate}/s")

        yield advance


@contextmanager
def byte_progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on stderr for bytes; call the yielded function with (there, to be there or None)."""
    what = harmless(what)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        fresh = True

        def show(there: int, total: int | None) -> None:
            nonlocal fresh
            if fresh or there < bar.tasks[0].completed:
                # What an earlier call brought, or a start anew, is no speed.
                bar.reset(task, completed=there, total=total)
                fresh = False
            else:
                bar.update(task, completed=there, total=total)
            if there == total:
                bar.update(task, description=f"{what} is here; checking and unpacking it")

        yield show


def seconds(value: float) -> str:
    """A duration as people say it: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def per_second(value: float) -> str:
    """How many a second: `1,339`, `4.2`, `0.034`."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def size(num_bytes: float) -> str:
    """A size in powers of 1000: `640 bytes`, `3.8 MB`, `1.2 TB`."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        num_bytes /= 1000
        if num_bytes < 999.95:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1000:.1f} TB"


def confirm(question: str) -> bool:
    """Whether the user says yes; no terminal means no."""
    if not _err.is_terminal:
        return False
    return _err.input(f"{_safe(question)} \\[y/N] ").strip().lower() in ("y", "yes")


def _safe(text: str) -> str:
    """The text as rich prints it: no markup of its own, nothing that steers a terminal."""
    return escape(harmless(text))

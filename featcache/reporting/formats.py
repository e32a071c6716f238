"""Rows of text as a table for the terminal, CSV, JSON, Markdown or LaTeX."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from featcache import console
from featcache.errors import UnknownNameError
from featcache.reporting.words import no_nan

FORMATS = ("table", "csv", "json", "markdown", "latex")


class Sheet(NamedTuple):
    """The same rows twice: in words for people, and as values for programs."""

    columns: Sequence[str]
    words: Sequence[Sequence[str]]
    values: Sequence[Mapping[str, Any]]


def check_format(name: str) -> str:
    """The format itself, if there is one of that name; raises UnknownNameError."""
    if name not in FORMATS:
        raise UnknownNameError("format", name, FORMATS)
    return name


def show_sheet(sheet: Sheet, how: str, *, title: str = "") -> None:
    """Print a sheet: words as table, Markdown and LaTeX; values, accuracies as fractions, as CSV and JSON."""
    if how == "table":
        console.table(sheet.columns, sheet.words, title=title)
        return
    written: dict[str, Callable[[], str]] = {
        "csv": lambda: as_csv(sheet.values),
        "json": lambda: json.dumps(no_nan(list(sheet.values)), indent=2, default=_unprintable),
        "markdown": lambda: as_markdown(sheet.columns, sheet.words),
        "latex": lambda: as_latex(sheet.columns, sheet.words),
    }
    console.raw(written[how]().rstrip("\n"))


def as_csv(values: Sequence[Mapping[str, Any]]) -> str:
    """CSV with a header; lists and mappings within a cell are JSON, what is missing is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(values[0]) if values else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(no_nan(value)) for name, value in row.items()} for row in values)
    return file.getvalue()


def as_markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table, columns of numbers aligned right."""
    right = [console.is_numeric([row[index] for row in rows]) for index in range(len(columns))]
    lines = [columns, ["---:" if numeric else "---" for numeric in right], *rows]
    escaped = ([cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def as_latex(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A `tabular` with the rules of booktabs, columns of numbers aligned right."""
    right = [console.is_numeric([row[index] for row in rows]) for index in range(len(columns))]
    lines = [" & ".join(_tex(cell) for cell in line) + r" \\" for line in (columns, *rows)]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{''.join('r' if numeric else 'l' for numeric in right)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


def _tex(cell: str) -> str:
    return "".join(_TEX.get(mark, mark) for mark in cell.replace("\n", " "))


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value)
    return _unprintable(value) if isinstance(value, bytes) else value


def _unprintable(value: Any) -> str:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)

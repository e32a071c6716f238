"""Accuracy against alpha, in characters and as a figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.errors import ConfigError, InputError
from featcache.outcome import Outcome
from featcache.reporting.grid import GridRow, grid_rows
from featcache.reporting.words import title, words_of_test

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOT_FORMATS = (".png", ".svg", ".pdf")


def curve(rows: list[GridRow], zero_shot: float, *, height: int = 9, step: int = 5) -> str:
    """Test accuracy against alpha in characters: ● where it was chosen, ○ elsewhere, ▼ below the scale.

    `zero_shot` is NaN where the store has no text, and not drawn then.
    """
    rows = [row for row in rows if not math.isnan(row.test[0])]
    values = [row.test[0] for row in rows]
    known = not math.isnan(zero_shot)
    zero_shot = zero_shot if known else min(values)
    high = max([*values, zero_shot])
    # One alpha far below zero-shot would flatten the part that matters: it is drawn as an arrow off the scale.
    low = max(min([*values, zero_shot]), zero_shot - max(high - zero_shot, 0.01))
    span = max(high - low, 1e-3 * (height - 1))  # lines a tenth of a point apart at least

    def level(value: float) -> int:
        return max(0, round((value - low) / span * (height - 1)))

    lines = []
    for line in range(height - 1, -1, -1):
        fill = "┄" if known and level(zero_shot) == line else " "
        cells = ""
        for row, value in zip(rows, values, strict=True):
            mark = "▼" if value < low - 1e-9 else "●" if row.times_chosen else "○"
            cells += (mark if level(value) == line else fill).center(step, fill)
        lines.append(f"{100 * (low + span * line / (height - 1)):6.2f} ┤{cells}")
    axis = " " * 7 + "└" + "─" * (step * len(rows))
    ticks = " " * 8 + "".join(f"{row.alpha:g}".center(step) for row in rows)
    legend = "test %: ● chosen, ┄ zero-shot, ▼ below the scale" if known else "test %: ● chosen"
    return "\n".join([legend, *lines, axis, ticks + "  alpha"])


def check_plot_file(file: Path) -> Path:
    """The file itself, if it can be plotted to; raises before any work is done."""
    if file.suffix.lower() not in PLOT_FORMATS:
        raise ConfigError(f"--plot {file}: the ending says the format; use one of {', '.join(PLOT_FORMATS)}")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--plot {file}: there is no folder {file.absolute().parent}")
    return file


def plot(outcome: Outcome, file: Path) -> None:
    """Accuracy against alpha, mean and spread over draws, as PNG, SVG or PDF."""
    save(figure(outcome), file)


def figure(outcome: Outcome) -> Figure:
    """The same as a matplotlib figure. Raises ConfigError for a method without alpha."""
    from matplotlib.figure import Figure

    if any(math.isnan(run.alpha) for run in outcome.runs):
        raise ConfigError(f"{outcome.adapter} has no alpha, so there is no alpha curve to draw")
    rows = grid_rows(outcome.runs)
    alphas = [row.alpha for row in rows]
    drawn = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes: Any = drawn.subplots()
    series = [(words_of_test(outcome), [row.test for row in rows], "#1f5fbf", "-")]
    if outcome.protocol != "test-oracle" and all(row.selection for row in rows):
        series.append((outcome.protocol, [row.selection for row in rows if row.selection], "#c2571a", "--"))
    for label, values, colour, line in series:
        mean = [100 * value for value, _ in values]
        spread = [0.0 if math.isnan(value) else 100 * value for _, value in values]
        axes.plot(alphas, mean, line, color=colour, marker="o", markersize=4, label=label)
        low, high = ([m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(alphas, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(100 * outcome.zero_shot.accuracy, color="#666666", linestyle=":", label="zero-shot, test")
    for alpha in sorted({run.alpha for run in outcome.chosen}):
        axes.axvline(alpha, color="#2b8a3e", linewidth=1, alpha=0.6)
    axes.set_xlabel("residual ratio alpha (green: chosen)")
    axes.set_ylabel("accuracy, %")
    axes.set_title(title(outcome), fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return drawn


def save(figure: Figure, file: Path) -> None:
    """Write a figure in the format of the file's ending. Raises InputError where that cannot be written."""
    try:
        figure.savefig(file, dpi=160)
    except OSError as error:
        raise InputError(f"cannot write the plot {file}: {error.strerror}") from error

"""Numbers as the page writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percent(value: float | None, digits: int = 2) -> float | None:
    """A fraction in per cent as a plot takes it; None for none or NaN."""
    return None if value is None or math.isnan(value) else round(100 * value, digits)


def told(value: float | None, digits: int = 2) -> str:
    """A fraction in per cent as a reader takes it; a dash for none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def told_spread(value: tuple[float, float]) -> str:
    """`90.04`, or `90.04 ± 0.31` over draws."""
    mean, spread = value
    return told(mean) if math.isnan(spread) else f"{told(mean)} ± {told(spread)}"


def gain(value: float | None) -> str:
    """Points gained, with their sign."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:+.2f}"


def listed(values: Sequence[object]) -> str:
    """`1, 2, 3`, or one where all agree."""
    words = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return ", ".join(words if len(set(words)) > 1 else words[:1])


def plural(count: int, word: str, words: str = "") -> str:
    """`1 draw`, `3 draws`."""
    return f"{count:,} {word if count == 1 else words or word + 's'}"


def duration(seconds: float) -> str:
    """Seconds in units that can be read."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.0f} µs"
    if seconds < 1:
        return f"{1e3 * seconds:.0f} ms" if seconds >= 0.01 else f"{1e3 * seconds:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

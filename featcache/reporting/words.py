"""Numbers and outcomes in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from featcache.outcome import Outcome
from featcache.prompts import DEFAULT


def percent(value: tuple[float, float] | None) -> str:
    """`90.04` or, with more than one draw, `90.04 ± 0.31`."""
    if value is None or math.isnan(value[0]):
        return "-"
    mean, spread = value
    return f"{100 * mean:.2f}" if math.isnan(spread) else f"{100 * mean:.2f} ± {100 * spread:.2f}"


def words_of_test(outcome: Outcome, unit: str = "") -> str:
    """What the test numbers are called: under the oracle they did choose, and say so."""
    return f"test{unit} ({'chosen on it' if outcome.protocol == 'test-oracle' else 'not used to choose'})"


def title(outcome: Outcome) -> str:
    """What the search was: method, data set, backbone, draws."""
    words = [outcome.backbone, _draw_words(outcome)]
    words += [f"{outcome.classes} classes"] if outcome.classes != "all" else []
    words += [f"prompts {outcome.text_set}"] if outcome.text_set != DEFAULT else []
    return f"{outcome.adapter} on {outcome.dataset}, {', '.join(words)}"


def _draw_words(outcome: Outcome) -> str:
    chosen = outcome.chosen
    words = f"{outcome.runs[0].shots} shots, {_seeds('seed', [run.shot_seed for run in chosen])}"
    if all(run.init_seed == run.shot_seed for run in chosen):
        return words
    return f"{words}, each from {_seeds('init seed', [run.init_seed for run in chosen])}"


def _seeds(word: str, seeds: Sequence[int]) -> str:
    """`seeds 1, 2`, each once."""
    named = list(dict.fromkeys(seeds))
    return f"{word}{'s' if len(named) > 1 else ''} {', '.join(map(str, named))}"


def number(value: float | None) -> str:
    """A fraction as per cent: `90.04`; a dash for none or NaN."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.2f}"


def no_nan(value: Any) -> Any:
    """The plain value with null in place of what JSON has no number for."""
    if hasattr(value, "_asdict"):
        return no_nan(value._asdict())  # a named tuple
    if isinstance(value, dict):
        return {name: no_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [no_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

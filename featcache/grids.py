"""Grids as they are typed: `0:1:0.1` with both ends, or `0.2,0.4,0.6`."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from typing import Any

from featcache.errors import ConfigError

MAX_VALUES = 10_000


def parse(text: str) -> tuple[float, ...]:
    """The values of a grid, ascending as typed, each the decimal the user wrote; raises ConfigError.

    >>> parse("0:1:0.25")
    (0.0, 0.25, 0.5, 0.75, 1.0)
    >>> parse("0.2,0.6")
    (0.2, 0.6)
    """
    try:
        values = _span(text) if ":" in text else [_number(item, text) for item in text.split(",") if item.strip()]
    except ArithmeticError:
        raise ConfigError(f"the grid {text!r} holds a number beyond all bounds") from None
    if not values:
        raise ConfigError(f"the grid {text!r} is empty; write it as start:stop:step (0:1:0.1) or as a list (0.2,0.6)")
    if len(set(values)) < len(values):
        raise ConfigError(f"the grid {text!r} names a value twice")
    return tuple(float(value) for value in values)


def parse_as(kind: type, text: str, name: str) -> tuple[Any, ...]:
    """The values of a field of type float, int, bool or str, as typed; raises ConfigError that names the field.

    >>> parse_as(int, "2,4", "reduction")
    (2, 4)
    >>> parse_as(str, "visual,text", "where")
    ('visual', 'text')
    """
    if kind is float:
        return parse(text)
    words = [word.strip() for word in text.split(",")]
    if kind is int:
        values = parse(text)
        if any(value != int(value) for value in values):
            raise ConfigError(f"{name} takes whole numbers; got {text!r}")
        return tuple(int(value) for value in values)
    if not all(words) or kind not in (bool, str):
        raise ConfigError(f"{name} cannot be searched from {text!r}; write values by commas")
    if kind is bool and not all(word in ("true", "false") for word in words):
        raise ConfigError(f"{name} is true or false; got {text!r}")
    if len(set(words)) < len(words):
        raise ConfigError(f"the grid {text!r} of {name} names a value twice")
    return tuple(word == "true" for word in words) if kind is bool else tuple(words)


def _span(text: str) -> list[Decimal]:
    ends = text.split(":")
    if len(ends) != 3:
        raise ConfigError(f"the grid {text!r} is not start:stop:step, as in 0:1:0.1")
    start, stop, step = (_number(end, text) for end in ends)
    if step <= 0:
        raise ConfigError(f"the grid {text!r} has a step of {step}; a step is above 0")
    if start > stop:
        raise ConfigError(
            f"the grid {text!r} starts at {start}, beyond its stop {stop}; did you mean {stop}:{start}:{step}?"
        )
    num_values = int((stop - start) / step) + 1
    if num_values > MAX_VALUES:
        raise ConfigError(f"the grid {text!r} has {num_values} values; at most {MAX_VALUES} are tried at once")
    return [start + index * step for index in range(num_values)]


def _number(item: str, text: str) -> Decimal:
    try:
        value = Decimal(item.strip())
    except InvalidOperation:
        raise ConfigError(f"{item.strip()!r} in the grid {text!r} is not a number") from None
    if not (value.is_finite() and math.isfinite(value)):  # 1e400 is finite as a Decimal only
        raise ConfigError(f"{item.strip()!r} in the grid {text!r} is not a finite number")
    return value

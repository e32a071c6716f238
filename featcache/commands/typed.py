"""Options that hold a list or a pair, as typed -> as values. All raise ConfigError."""

from __future__ import annotations

from pathlib import Path

from featcache.commands import MAX_INT
from featcache.errors import ConfigError


def datasets(text: str) -> tuple[str, ...]:
    """Names by commas; a path that holds a comma stays whole."""
    place = text.partition(":")[2]
    return (text,) if place and Path(place).exists() else words(text, "--dataset")


def words(text: str, option: str) -> tuple[str, ...]:
    """Words by commas, each once."""
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise ConfigError(f"{option} {text!r}: a comma-separated list of names")
    return tuple(dict.fromkeys(words))


def text_sets(prompts: str | None, text: str | None) -> tuple[str, ...]:
    """The text sets that --prompts or --text means."""
    from featcache.prompts import DEFAULT
    from featcache.text_sources import as_typed

    if text is None:
        return words(prompts or DEFAULT, "--prompts")
    if prompts is not None:
        raise ConfigError(f"--text and --prompts both say which text: for their mean, --text {text}+{prompts}")
    return tuple(as_typed(item) for item in words(text, "--text"))


def crop_scale(text: str) -> tuple[float, float]:
    """`LOW:HIGH`."""
    try:
        low, high = (float(end) for end in text.split(":"))
    except ValueError:
        raise ConfigError(f"--crop-scale {text}: two shares of the image, as in 0.08:1 or 0.5:1") from None
    return low, high


def ints(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers by commas, each once, in the range of shots or seeds."""
    try:
        values = tuple(int(item) for item in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} {text}: a comma-separated list of whole numbers, as in 1,2,4") from None
    if min(values) < (1 if option == "--shots" else 0):
        raise ConfigError(f"{option} {text}: {'shots are 1 or more' if option == '--shots' else 'seeds are 0 or more'}")
    if max(values) > MAX_INT:
        raise ConfigError(f"{option} {text}: numbers go up to {MAX_INT}")
    return tuple(dict.fromkeys(values))

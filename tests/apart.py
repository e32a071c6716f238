"""What test_untrusted.py runs in a process apart, which has little memory: nothing here imports torch."""

from __future__ import annotations

import os
import time
from pathlib import Path

from featcache.errors import ConfigError


def crash() -> None:
    os.abort()


def hang() -> None:
    time.sleep(60)


def devour(num_bytes: str) -> int:
    return len(bytearray(int(num_bytes)))


def refuse(text: str) -> None:
    raise ConfigError(text)


def write(path: str) -> None:
    Path(path).write_text("x")

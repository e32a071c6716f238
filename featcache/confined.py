"""A function run in a child process with limits, so that a file which crashes its reader ends the child alone.

A reader of a binary format in C can be led by a damaged or hostile file into a crash, an endless loop or all of the
machine's memory, none of which Python can catch. What a child does is answer in JSON, or not at all.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from featcache import errors
from featcache.errors import FeatcacheError

MEMORY_BYTES = 4 << 30
"""Address space of a child; Windows and macOS do not hold a process to it."""
SECONDS = 60.0
_MARK = "featcache-confined:"
_ROOT = Path(__file__).resolve().parents[1]
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ConfinedError(FeatcacheError):
    """The child gave no answer; the message says what became of it, to be put into a sentence."""


def call(function: str, *arguments: str, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> Any:
    """What `package.module:function` makes of some strings in a child process: anything JSON can say.

    A FeatcacheError of the child's is raised here too. Raises ConfinedError where the child crashes, takes longer,
    wants more memory, or fails in any other way.
    """
    command = [sys.executable, "-P", "-B", "-m", "featcache.confined", function, str(memory_bytes), *arguments]
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | _ONE_THREAD | {"PYTHONPATH": os.pathsep.join(paths)}
    try:
        child = subprocess.run(
            command, env=environment, capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise ConfinedError(f"took more than {seconds:.0f} s") from None
    answer = child.stdout.decode(errors="replace").rpartition(_MARK)
    if child.returncode == 0 and answer[1]:
        return _taken(json.loads(answer[2]))
    if child.returncode < 0:
        raise ConfinedError(f"crashed (signal {-child.returncode})")
    last = child.stderr.decode(errors="replace").strip().splitlines()
    raise ConfinedError(f"failed ({last[-1][:200] if last else f'exit code {child.returncode}'})")


def _taken(answer: dict[str, Any]) -> Any:
    if "memory" in answer:
        raise ConfinedError(f"took more than its {answer['memory'] / 2**30:.3g} GiB of memory")
    if "error" in answer:
        raise getattr(errors, answer["kind"], FeatcacheError)(answer["error"])
    return answer["value"]


def _limit(memory_bytes: int) -> None:
    """Hold this process to so much memory, and let it write no file."""
    try:
        import resource
    except ImportError:
        return  # Windows
    limits = {"RLIMIT_AS": memory_bytes, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    for name, value in limits.items():
        with suppress(AttributeError, OSError, ValueError):  # a system that has no such limit, or a lower one
            resource.setrlimit(getattr(resource, name), (value, value))


def main() -> None:
    """The child: limits first, then the function's module, then its answer on stdout."""
    name, memory_bytes, *arguments = sys.argv[1:]
    _limit(int(memory_bytes))
    module, _, function = name.partition(":")
    try:
        answer = {"value": getattr(importlib.import_module(module), function)(*arguments)}
    except MemoryError:
        answer = {"memory": int(memory_bytes)}
    except FeatcacheError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    sys.stdout.write(_MARK + json.dumps(answer))


if __name__ == "__main__":
    main()

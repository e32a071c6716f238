"""The `featcache` command and `python -m featcache`: the command line as a process of its own."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn

from featcache.cli import main


def command() -> NoReturn:
    """Run the command line and end the process, without taking the interpreter apart.

    Python frees every object at its end: with torch loaded that takes half a second after each command, and 1 to 6
    seconds after an extraction, which a stopped one would spend after its last line. What others have asked to be done
    at the end is done.
    """
    code: str | int | None = None
    try:
        main()
    except SystemExit as end:
        code = end.code
    if isinstance(code, str):
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    command()

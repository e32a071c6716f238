"""Runs the command line inside a test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from featcache import cli


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Run:
    """Runs the command line in this process, as the installed script would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys

    def __call__(self, *arguments: str | Path) -> Said:
        self.monkeypatch.setattr(sys, "argv", ["featcache", *map(str, arguments)])
        self.capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Said(code, *self.capsys.readouterr())

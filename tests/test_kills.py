"""Killed commands, and disks that fail under them, lose nothing: the short form of tests/kill_harness.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_kills_and_failing_disks_lose_nothing() -> None:
    short = [sys.executable, "-m", "tests.kill_harness", "--kills", "5", "--faults", "4"]
    done = subprocess.run(short, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost or wrong: 0" in done.stdout

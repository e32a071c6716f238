"""What a command imports: nothing that it does not use, since some packages take seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.commandline import Run
from tests.synthetic import arrays, save

ROOT = Path(__file__).resolve().parents[1]
_CODE = (
    "import sys; from featcache import cli\n"
    "try: cli.main()\n"
    "except SystemExit as end: assert not end.code, end.code\n"
    "heavy = {'torch', 'torchvision', 'open_clip', 'matplotlib', 'scipy', 'sympy', 'pandas', 'sklearn', 'ray', 'PIL'}\n"
    "sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))\n"
)


def heavy(*arguments: str) -> set[str]:
    """Which heavy packages a command has imported when it ends."""
    command = [sys.executable, "-c", _CODE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split() if done.stderr else ())


def test_help_imports_nothing_heavy(home: Path) -> None:
    assert heavy("--help") == set()
    assert heavy("extract", "--help") == set()


def test_a_list_of_stores_imports_nothing_heavy(run: Run, tmp_path: Path) -> None:
    assert run("import", save(tmp_path / "toy.npz", arrays()), "--name", "toy").code == 0
    assert heavy("cache", "ls") == set()


def test_a_fit_imports_torch_alone(run: Run, tmp_path: Path) -> None:
    assert run("import", save(tmp_path / "toy.npz", arrays()), "--name", "toy").code == 0
    assert heavy("fit", "toy", "--alpha-grid", "0,0.5", "--shots", "2", "--epochs", "2") == {"torch"}


def test_what_a_command_imports_is_not_looked_through_for_garbage() -> None:
    code = (
        "import gc; from featcache.commands.running import loading\n"
        "with loading():\n"
        "    assert not gc.isenabled()\n"
        "    import torch\n"
        "assert gc.isenabled()\n"
        "frozen = gc.get_freeze_count()\n"
        "assert frozen > 100_000, frozen\n"
        "with loading():\n"  # all is there by now
        "    assert gc.isenabled()\n"
        "assert gc.get_freeze_count() == frozen\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_imports_leave_a_collector_that_was_off_and_one_after_an_error() -> None:
    code = (
        "import gc; from featcache.commands.running import loading\n"
        "try:\n"
        "    with loading(): import featcache.no_such_module\n"
        "except ImportError: assert gc.isenabled() and not gc.get_freeze_count()\n"
        "else: raise SystemExit('imported')\n"
        "gc.disable()\n"
        "with loading(): import torch\n"
        "assert not gc.isenabled() and not gc.get_freeze_count()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_list_of_results_imports_nothing_heavy(run: Run, tmp_path: Path) -> None:
    assert run("import", save(tmp_path / "toy.npz", arrays()), "--name", "toy").code == 0
    assert run("fit", "toy", "--alpha-grid", "0,0.5", "--shots", "2", "--epochs", "2").code == 0
    assert heavy("results") == heavy("results", "--json") == set()
    assert heavy("results", "1") == set()

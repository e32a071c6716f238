"""What every command shares: completion, JSON, colours, progress, units, errors; and `featcache doctor`."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from featcache import cli, console
from featcache.commands import completing
from featcache.commands.jsonable import give_json
from tests import synthetic
from tests.commandline import Run

DARK_RED = "\x1b[31m"


def leaves(command: Any, path: str = "featcache") -> Iterator[tuple[str, Any]]:
    """Every command that does something, with what is typed for it."""
    inner = getattr(command, "commands", {})
    if not inner or getattr(command, "invoke_without_command", False):
        yield path, command
    for name, one in inner.items():
        yield from leaves(one, f"{path} {name}")


def on_terminal(*arguments: str, **environment: str) -> str:
    """What the command writes, both streams together, to a terminal."""
    shown, inside = pty.openpty()
    told = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "featcache", *arguments],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env={**told, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
        close_fds=True,
    )
    os.close(inside)
    seen = b""
    try:
        while block := os.read(shown, 4096):
            seen += block
    except OSError:  # Linux says so when the other end closes
        pass
    os.close(shown)
    process.wait()
    return seen.decode()


def test_every_command_has_json() -> None:
    found = list(leaves(give_json(typer.main.get_command(cli.app))))
    assert len(found) > 20
    assert [path for path, command in found if not any("--json" in option.opts for option in command.params)] == []


def test_json_holds_the_lines_and_tables_that_would_be_shown(run: Run) -> None:
    plain, said = run("adapters", "ls"), run("adapters", "ls", "--json")
    (table,) = json.loads(said.out)["tables"]
    assert {row["method"] for row in table["rows"]} >= {"clip_adapter", "zero_shot"}
    assert "clip_adapter" in plain.out
    assert json.loads(run("cache", "ls", "--json").out)["lines"] == [f"no stores in {completing.stores_folder()} yet"]
    assert "no stores" in run("cache", "ls").out  # the next command is not caught by it


def test_json_tells_an_error_too(run: Run) -> None:
    said = run("prompts", "ls", "nothing", "--json")
    assert said.code == 2
    assert "unknown store" in json.loads(said.out)["error"]
    assert "unknown store" in said.err


def test_completion_knows_stores_methods_data_sets_and_results(run: Run, tmp_path: Path) -> None:
    assert completing.results("") == []
    run("import", synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), "--name", "toy")
    run("fit", "--adapter", "zero_shot", "--shots", "2", "--seeds", "1")
    assert completing.stores("t") == ["toy"]
    assert completing.results("1") == [("1", "zero_shot on toy")]
    assert completing.adapters("gda,clip") == ["gda,clip_adapter"]
    assert completing.adapters("gda,gd") == []  # named already
    assert completing.datasets("imagenet,dt") == ["imagenet,dtd"]
    assert "RN50" in completing.backbones("RN")


def test_completion_offers_what_is_there() -> None:
    from featcache import recipes, reporting, selection
    from featcache.reporting import page

    assert set(completing.PROTOCOLS) == set(selection.PROTOCOLS)
    assert page.kinds() == completing.PLOTS
    assert set(completing.FORMATS) == set(reporting.FORMATS)
    for name in completing.PRESETS:
        assert recipes.make(name, shots=1, dataset="").preset == name


@pytest.mark.parametrize(
    ("words", "offered"),
    [("featcache fit --adapter cl", "clip_adapter"), ("featcache extract --dataset ima", "imagenet")],
)
def test_the_shell_gets_it_without_torch(tmp_path: Path, words: str, offered: str) -> None:
    code = (
        "import atexit, sys; heavy = {'torch', 'open_clip'};"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules))));"
        "from featcache.cli import main; sys.argv = ['featcache']; main()"
    )
    told = {"_FEATCACHE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FEATCACHE_HOME": str(tmp_path), **told},
        capture_output=True,
        text=True,
    )
    assert offered in said.stdout.split(), said.stderr
    assert "HEAVY []" in said.stdout


def test_an_error_is_one_panel_on_a_terminal_and_a_line_elsewhere(run: Run) -> None:
    seen = on_terminal("results", "diff", "1", "1")
    assert DARK_RED in seen
    shown = re.sub(r"\x1b\[[0-9;]*m", "", seen)
    assert shown.count("╭─ Error ─") == shown.count("╰──") == 1
    assert "│ both are result 1" in shown
    assert run("results", "diff", "1", "1").err.startswith("error: both are result 1")


def test_no_color_is_heeded() -> None:
    seen = on_terminal("results", "diff", "1", "1", NO_COLOR="1")
    assert "╭─ Error" in seen
    assert "\x1b[3" not in seen


def test_progress_is_shown_on_a_terminal_alone(run: Run, tmp_path: Path, home: Path) -> None:
    features = str(synthetic.save(tmp_path / "toy.npz", synthetic.arrays()))
    assert "importing" in on_terminal("import", features, "--name", "toy", FEATCACHE_HOME=str(home))
    fit = ("fit", "toy", "--shots", "2", "--seeds", "1", "--alpha-grid", "0,1", "--epochs", "3")
    assert run(*fit).err.strip() == ""
    assert "left" in on_terminal(*fit, FEATCACHE_HOME=str(home))
    assert run("cache", "verify").err == ""
    assert "reading" in on_terminal("cache", "verify", FEATCACHE_HOME=str(home))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.44, "0.4 s"),
        (9.96, "10.0 s"),
        (12.3, "12 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_seconds_in_words(value: float, words: str) -> None:
    assert console.seconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(640, "640 bytes"), (3_800_000, "3.8 MB"), (999_960, "1.0 MB"), (12e9, "12.0 GB"), (1.2e12, "1.2 TB")],
)
def test_sizes_in_words(value: float, words: str) -> None:
    assert console.size(value) == words


@pytest.mark.parametrize(("value", "words"), [(1338.6, "1,339"), (9.97, "10"), (4.21, "4.2"), (0.0342, "0.034")])
def test_a_slow_pace_is_not_told_as_none(value: float, words: str) -> None:
    assert console.per_second(value) == words


def test_doctor_tells_versions_device_and_space(run: Run, home: Path) -> None:
    told = json.loads(run("doctor", "--json").out)
    assert told["cache"]["folder"] == str(home)
    assert told["cache"]["set_by"] == "FEATCACHE_HOME"
    assert told["cache"]["free_bytes"] > 0
    assert told["device"]["default"] in ("cpu", "cuda")
    assert "torch" in told["versions"]
    shown = run("doctor")
    assert shown.code == 0
    assert "is missing" in shown.out


def test_doctor_says_what_is_wrong_and_what_to_do(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("FEATCACHE_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr("featcache.commands.doctor.requires", lambda _: ["unheard-of-package>=1; extra == 'odd'"])
    said = run("doctor", "--json")
    assert said.code == 1
    found = {one["problem"]: one["remedy"] for one in json.loads(said.out)["findings"]}
    assert any("cannot be written" in problem and "FEATCACHE_HOME" in remedy for problem, remedy in found.items())
    assert any("FEATCACHE_DATA" in problem for problem in found)
    assert found["the extra odd is not there (unheard-of-package)"] == "pip install 'featcache[odd]'"


def test_doctor_notices_that_torch_is_compiled_at_every_start(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    monkeypatch.setattr("featcache.commands.doctor.cache_from_source", lambda source: f"{source}.there.is.none")
    found = {one["problem"]: one["remedy"] for one in json.loads(run("doctor", "--json").out)["findings"]}
    (remedy,) = (remedy for problem, remedy in found.items() if "PYTHONDONTWRITEBYTECODE" in problem)
    assert "compileall" in remedy
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    assert "PYTHONDONTWRITEBYTECODE" not in run("doctor", "--json").out


def ended(*arguments: str, stdout: Any = subprocess.PIPE) -> tuple[int, str, str]:
    """Exit code and words of a process that has something to do at its end and something to take apart."""
    asked = ["featcache", *arguments]
    process = subprocess.run(
        [sys.executable, "-c", ENDING, *asked], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )
    return process.returncode, process.stdout or "", process.stderr


ENDING = """
import atexit, sys
class Held:
    def __del__(self): sys.stderr.write("taken apart")
held = Held()
atexit.register(sys.stderr.write, "done at the end")
from featcache.__main__ import command
sys.argv = sys.argv[1:]
command()
"""


def test_a_command_ends_without_taking_the_interpreter_apart() -> None:
    code, out, err = ended("--version")
    assert (code, err) == (0, "done at the end")
    assert out.startswith("featcache ")
    code, out, err = ended("extract", "--dataset", "no-such-set", "--backbone", "tiny")
    assert (code, out) == (2, "")
    assert "no-such-set" in err
    assert err.endswith("done at the end")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full is Linux's")
def test_output_that_finds_the_disk_full_is_one_message() -> None:
    with Path("/dev/full").open("w") as full:
        code, _, err = ended("datasets", "ls", stdout=full)
    assert code == 2
    assert "cannot write: No space left" in err
    assert "Traceback" not in err

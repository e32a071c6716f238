"""Every command and Python block in the README and docs/ runs, page by page, on the bundled data in an empty cache.

A block's fence names its language. Commands (`sh`) run in this process, in a folder that holds `photos/` and a few
files; Python runs, page by page, in one namespace. A comment just above a block says where a test must depart from it:

    <!-- test: skip: WHY -->               not run: it needs data, weights, a GPU or an hour
    <!-- test: replace RN50 with tiny -->  in every line
    <!-- test: add to fit: --epochs 5 -->  to every `featcache fit` of the block
    <!-- test: save as FILE -->            the block is a file that later ones use
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests import synthetic
from tests.commandline import Run

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "python", "toml", "json", "text", "yaml", "sql", "html"}
MARK = re.compile(r"<!-- test: (.*?) -->")
FENCE = re.compile(r"^(?P<marks>(?:<!-- test: .*? -->\n)*)```(?P<language>.*)\n(?P<body>(?:.*\n)*?)```$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    where: str
    language: str
    body: str
    marks: tuple[str, ...]

    def told(self, kind: str) -> list[str]:
        """What stands after a kind of mark."""
        return [mark.removeprefix(kind).strip() for mark in self.marks if mark.startswith(kind)]

    def lines(self) -> Iterator[list[str]]:
        """The words of each command, departures made."""
        body = self.body.replace("\\\n", " ")
        for pair in self.told("replace "):
            old, new = pair.split(" with ")
            assert old in body, f"{self.where}: there is no {old} to replace"
            body = body.replace(old, new)
        added = dict(pair.split(": ", 1) for pair in self.told("add to "))
        for line in body.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["featcache"] and words[1] in added:
                words += added[words[1]].split()
            if words:
                yield words


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        marks = tuple(MARK.findall(match["marks"]))
        found.append(Block(f"{page.name}:{line}", match["language"].strip(), match["body"], marks))
    return found


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that most pages begin with, made once."""
    from featcache import cli

    home = tmp_path_factory.mktemp("extracted")
    words = "featcache extract --dataset shapes --backbone tiny --shots 1,4,16 --views 1 --workers 0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATCACHE_HOME", str(home))
        patch.setattr(sys, "argv", words.split())
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return home / "stores" / "shapes-tiny-coop.h5"


@pytest.fixture
def desk(
    run: Run, home: Path, tmp_path: Path, extracted: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder with the files that pages name, and a cache with the one store."""
    folder = tmp_path / "desk"
    shutil.copytree(pictures, folder / "photos")
    (folder / "prompts.txt").write_text("a picture of a {}.\na drawing of a {}.\n", encoding="utf-8")
    arrays = synthetic.arrays()
    np.savez(folder / "features.npz", **arrays)  # type: ignore[arg-type]
    (home / "stores").mkdir(parents=True)
    shutil.copy(extracted, home / "stores")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_to_type_works(page: Path, run: Run, desk: Path) -> None:
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.where}: name the block's language, one of {sorted(LANGUAGES)}"
        if block.told("skip:"):
            continue
        for name in block.told("save as "):
            (desk / name).parent.mkdir(parents=True, exist_ok=True)
            (desk / name).write_text(block.body, encoding="utf-8")
        if block.language == "sh":
            for words in block.lines():
                carry_out(words, run, block.where)
        elif block.language == "python" and not block.told("save as "):
            exec(compile(block.body, block.where, "exec"), namespace)
        elif block.language == "toml":
            tomllib.loads(block.body)
        elif block.language == "json":
            json.loads(block.body)


def carry_out(words: list[str], run: Run, where: str) -> None:
    """Run one command of a page, or check that it could be run."""
    match words:
        case ["featcache", *rest]:
            said = run(*rest)
            assert said.code == 0, f"{where}: {' '.join(words)}\n{said.out}{said.err}"
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), where
        case ["pip", "install", *rest]:
            known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            for name in re.findall(r"\[(.*?)\]", " ".join(rest)):
                assert set(name.split(",")) <= set(known["optional-dependencies"]), f"{where}: {name}"
        case _:
            pytest.fail(f"{where}: a test cannot run {' '.join(words)}; mark the block, or say it in words")


def test_the_marks_are_understood() -> None:
    kinds = ("skip: ", "replace ", "add to ", "save as ")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        marks = MARK.findall(text)
        assert all(mark.startswith(kinds) for mark in marks), page
        assert sum(len(block.marks) for block in blocks(page)) == len(marks), f"{page}: a mark stands above no block"
        assert text.count("\n```") == 2 * len(blocks(page)), f"{page}: a fence that does not begin its line"


def test_commands_are_found_and_changed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n<!-- test: replace RN50 with tiny -->\n<!-- test: add to fit: --epochs 5 -->\n"
        '```sh\nfeatcache fit a \\\n  --x "b c"  # why\n# nothing\nfeatcache extract RN50\n```\n',
        encoding="utf-8",
    )
    (block,) = blocks(page)
    assert block.where == "page.md:4"
    assert list(block.lines()) == [
        ["featcache", "fit", "a", "--x", "b c", "--epochs", "5"],
        ["featcache", "extract", "tiny"],
    ]


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    told = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert told.returncode == 0, told.stderr
    assert "WARNING" not in told.stderr
    assert "featcache.search.search" in (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    unlisted = {page.stem for page in PAGES[1:]} - {
        path.parent.name for path in (tmp_path / "site").rglob("index.html")
    }
    assert unlisted == {"index"}

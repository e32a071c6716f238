"""`featcache datasets`: what it prints, fetches from a real server, and says when it cannot."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from featcache.commands.datasets import app
from featcache.datasets import CATALOGUE, lists, load
from featcache.datasets.about import About, Download
from featcache.datasets.coop import CoopLayout
from featcache.datasets.downloads import alone
from featcache.errors import ConfigError, DataError, FeatcacheError, UnknownNameError
from tests.serving import Page, Site, site
from tests.test_archives import packed

PAGE = Path(__file__).resolve().parents[1] / "docs" / "datasets.md"
CLASSES = ("banded", "lined")
BY_HAND = "Log in at https://example.org, and put\n  images.zip   [30 MB]\ninto dots/."

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the sub-command; a user's fault comes back as the exception that the command line prints."""
    monkeypatch.delenv("FEATCACHE_DATA", raising=False)

    def call(*arguments: str | Path) -> Result:
        result = CliRunner().invoke(app, list(map(str, arguments)))
        if isinstance(result.exception, FeatcacheError):
            raise result.exception
        if result.exception is not None and not isinstance(result.exception, SystemExit | typer.Exit):
            raise result.exception
        return result

    return call


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with site() as served:
        yield served


def picture() -> bytes:
    whole = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(whole, "JPEG")
    return whole.getvalue()


IMAGES = {f"dots-1.0/images/{name}/{number}.jpg": picture() for name in CLASSES for number in range(6)}
ARCHIVE = packed("dots.tar.gz", IMAGES)
SPLIT = json.dumps(
    {
        split: [[f"{name}/{number}.jpg", label, name] for label, name in enumerate(CLASSES) for number in numbers]
        for split, numbers in {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}.items()
    }
).encode()
SIZES = {"train": 6, "val": 2, "test": 4}


def put_dots(
    web: Site,
    monkeypatch: pytest.MonkeyPatch,
    *,
    name: str = "dots",
    with_archive: bool = True,
    by_hand: str = "",
    sizes: dict[str, int] = SIZES,
) -> None:
    """A data set in CoOp's layout joins the catalogue; its split file and archive lie on the server."""
    split = Download(url=web.put(f"/{name}/split", Page(SPLIT)), file="split_zhou_Dots.json")
    md5 = hashlib.md5(ARCHIVE).hexdigest()
    archive = Download(
        url=web.put(f"/{name}/dots.tar.gz", Page(ARCHIVE)),
        file="dots.tar.gz",
        checksum=f"md5:{md5}",
        size_bytes=len(ARCHIVE),
        unpack="",
        strip="dots-1.0/",
    )
    about = About(
        title="Dots | and lines",
        licence="CC0",
        link="https://example.org/dots",
        num_classes=2,
        sizes=sizes,
        downloads=(archive, split) if with_archive else (split,),
        by_hand=by_hand,
    )
    entry = CoopLayout(
        folder=name,
        images="images",
        split="Dots",
        lists=partial(lists.class_folders, images="images"),
        about=about,
        template="{} dots.",
    )
    monkeypatch.setitem(CATALOGUE, name, entry)


@pytest.fixture
def dots(web: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    put_dots(web, monkeypatch)
    return web


def asked(web: Site) -> list[str]:
    return [path for path, _ in web.asked]


def test_prepare_downloads_checks_unpacks_and_says_what_is_next(dots: Site, run: Run, tmp_path: Path) -> None:
    root = tmp_path / "my data"
    result = run("prepare", "dots", "--data", root)
    assert result.exit_code == 0
    assert asked(dots) == ["/dots/split", "/dots/dots.tar.gz"]
    manifest = load("dots", data=root)
    assert {split: len(items.label) for split, items in manifest.splits.items()} == SIZES
    sha256 = hashlib.sha256(SPLIT).hexdigest()
    assert (
        f"split_zhou_Dots.json: its publisher states no checksum, so none was checked; sha256 {sha256}" in result.stdout
    )
    assert "dots.tar.gz: md5 as stated; 12 files unpacked" in result.stdout
    assert "dots: 2 classes, train 6, val 2, test 4; splits from split_zhou_Dots.json" in result.stdout
    assert f"next: featcache extract --dataset dots --data {shlex.quote(str(root))} --backbone RN50" in result.stdout
    assert not (root / "dots" / "dots.tar.gz").exists()


def test_a_second_prepare_does_nothing(dots: Site, run: Run, tmp_path: Path) -> None:
    run("prepare", "dots", "--data", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    dots.asked.clear()
    result = run("prepare", "dots", "--data", tmp_path)
    assert "there is nothing left to download" in result.stderr
    assert "2 classes" in result.stdout
    assert asked(dots) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_archives_may_be_kept(dots: Site, run: Run, tmp_path: Path) -> None:
    run("prepare", "dots", "--data", tmp_path, "--keep-archives")
    assert (tmp_path / "dots" / "dots.tar.gz").read_bytes() == ARCHIVE


def put_by_hand(root: Path, *, split: bool = True) -> None:
    for path, content in IMAGES.items():
        file = root / path.replace("dots-1.0", "dots")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    if split:
        (root / "dots" / "split_zhou_Dots.json").write_bytes(SPLIT)


def test_a_folder_made_for_coop_needs_nothing(dots: Site, run: Run, tmp_path: Path) -> None:
    put_by_hand(tmp_path)
    run("prepare", "dots", "--data", tmp_path)
    assert asked(dots) == []


def test_images_that_wait_for_their_split_file_are_not_fetched_again(dots: Site, run: Run, tmp_path: Path) -> None:
    put_by_hand(tmp_path, split=False)
    assert run("prepare", "dots", "--data", tmp_path).exit_code == 0
    assert asked(dots) == ["/dots/split"]


def test_by_hand_is_printed_exactly_after_what_can_be_downloaded(
    web: Site, monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    put_dots(web, monkeypatch, with_archive=False, by_hand=BY_HAND)
    result = run("prepare", "dots", "--data", tmp_path)
    assert result.exit_code == 1
    assert BY_HAND in result.stdout
    assert "dots is not complete yet" in result.stderr
    assert (tmp_path / "dots" / "split_zhou_Dots.json").read_bytes() == SPLIT
    put_by_hand(tmp_path)
    result = run("prepare", "dots", "--data", tmp_path)
    assert result.exit_code == 0
    assert BY_HAND not in result.stdout


def test_a_failed_download_does_not_keep_the_others_back(dots: Site, run: Run, tmp_path: Path) -> None:
    dots.pages["/dots/split"] = Page(b"<!doctype html>quota", content_type="text/html")
    with pytest.raises(DataError, match=r"/dots/split answers with a web page .* in a browser") as raised:
        run("prepare", "dots", "--data", tmp_path)
    assert str(tmp_path / "dots" / "split_zhou_Dots.json") in str(raised.value)
    assert "https://example.org/dots" in str(raised.value)
    assert (tmp_path / "dots" / "images" / "banded").is_dir()
    dots.put("/dots/split", Page(SPLIT))
    dots.asked.clear()
    assert run("prepare", "dots", "--data", tmp_path).exit_code == 0
    assert asked(dots) == ["/dots/split"]


def test_several_are_prepared_and_one_that_fails_is_named_at_the_end(
    dots: Site, monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    put_dots(dots, monkeypatch, name="other")
    dots.pages["/dots/dots.tar.gz"].status = 403
    with pytest.raises(DataError, match=r"1 of 3 data sets are not prepared, as said above: dots"):
        run("prepare", "dots,shapes", "other", "--data", tmp_path)
    assert load("other", data=tmp_path).classes == CLASSES


def test_what_loads_but_differs_from_the_published_is_said(
    web: Site, monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    put_dots(web, monkeypatch, sizes={"train": 6, "test": 5000})
    result = run("prepare", "dots", "--data", tmp_path)
    assert result.exit_code == 0
    assert "differs from what is published: val 2 instead of 0; test 4 instead of 5,000" in result.stderr


def test_what_is_downloaded_but_does_not_load_is_an_error(dots: Site, run: Run, tmp_path: Path) -> None:
    dots.pages["/dots/split"].content = b"[]"
    with pytest.raises(DataError, match=r"downloaded but does not load: .* remove .*\.featcache-downloads\.json"):
        run("prepare", "dots", "--data", tmp_path)


def test_a_rendered_data_set_needs_nothing(run: Run) -> None:
    result = run("prepare", "shapes")
    assert (result.exit_code, result.stdout) == (0, "shapes: featcache renders it, nothing is needed\n")


def test_prepare_without_a_root_or_with_an_unknown_name(dots: Site, run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --data ROOT, or set FEATCACHE_DATA"):
        run("prepare", "dots")
    with pytest.raises(UnknownNameError, match="did you mean dots"):
        run("prepare", "dots", "dotz", "--data", tmp_path)
    assert asked(dots) == []


def test_two_at_once_are_refused(dots: Site, run: Run, tmp_path: Path) -> None:
    with alone(tmp_path / "dots"), pytest.raises(DataError, match="another prepare is at work"):
        run("prepare", "dots", "--data", tmp_path)


def test_ctrl_c_keeps_what_came(dots: Site, run: Run, tmp_path: Path) -> None:
    page = dots.pages["/dots/dots.tar.gz"]
    page.stall_after, page.stall_s = 100, 20.0
    partial_file = tmp_path / "dots" / "dots.tar.gz.partial"

    def interrupt() -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until and not (partial_file.exists() and partial_file.stat().st_size):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    stopper = threading.Thread(target=interrupt)
    stopper.start()
    result = run("prepare", "dots", "--data", tmp_path)
    stopper.join()
    page.released.set()
    assert result.exit_code == 130
    assert "stopped; what came is kept" in result.stderr
    assert partial_file.stat().st_size == 100
    page.stall_s = 0.0
    assert run("prepare", "dots", "--data", tmp_path).exit_code == 0
    assert dots.ranges()[-1] == "bytes=100-"


def line_of(run: Run, name: str, *arguments: str | Path) -> dict[str, object]:
    lines = json.loads(run("ls", "--format", "json", *arguments).stdout)
    (line,) = [line for line in lines if line["name"] == name]
    assert isinstance(line, dict)
    return line


def test_ls_says_what_is_here(dots: Site, run: Run, tmp_path: Path) -> None:
    def here() -> object:
        return line_of(run, "dots", "--data", tmp_path)["here"]

    assert line_of(run, "dots")["here"] == "?"
    assert here() == "no"
    put_by_hand(tmp_path, split=False)
    assert here() == "incomplete: no split_zhou_Dots.json"
    (tmp_path / "dots" / "dots.tar.gz.partial").write_bytes(b"")
    assert here() == "incomplete: download of dots.tar.gz was cut"
    (tmp_path / "dots" / "dots.tar.gz.partial").unlink()
    put_by_hand(tmp_path)
    assert here() == "yes"
    assert line_of(run, "shapes")["here"] == "built in"


def test_ls_takes_the_root_from_the_environment(
    dots: Site, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_by_hand(tmp_path)
    monkeypatch.setenv("FEATCACHE_DATA", str(tmp_path))
    assert line_of(run, "dots")["here"] == "yes"


def test_ls_is_a_table_of_the_whole_catalogue(run: Run) -> None:
    result = run("ls")
    for name, entry in CATALOGUE.items():
        (row,) = [row for row in result.stdout.splitlines() if row.startswith(f"│ {name} ")]
        cells = [cell.strip() for cell in row.split("│")[2:6]]
        assert cells == [
            f"{entry.about.num_classes:,}",
            *(f"{entry.about.sizes[split]:,}" if split in entry.about.sizes else "-" for split in SIZES),
        ]
    assert "--data ROOT or FEATCACHE_DATA" in result.stderr
    with pytest.raises(ConfigError, match="--format yaml is not known; use table, markdown, json"):
        run("ls", "--format", "yaml")


def test_the_page_is_a_table_that_hangs_on_no_machine(dots: Site, run: Run, tmp_path: Path) -> None:
    page = run("ls", "--format", "markdown").stdout
    rows = [row for row in page.splitlines() if row.startswith("|")]
    assert len(rows) == len(CATALOGUE) + 2
    assert {row.replace("\\|", "").count("|") for row in rows} == {rows[0].count("|")}
    (row,) = [row for row in rows if "`dots`" in row]
    assert "[Dots \\| and lines](https://example.org/dots) | 2 | 6 | 2 | 4 | `{} dots.` | CC0 | `prepare` |" in row
    assert run("ls", "--format", "markdown", "--data", tmp_path).stdout == page


def test_the_committed_page_is_what_the_tool_prints(run: Run) -> None:
    assert PAGE.read_text(encoding="utf-8") == run("ls", "--format", "markdown").stdout


def test_info_says_all_that_is_known(dots: Site, run: Run, tmp_path: Path) -> None:
    known = json.loads(run("info", "dots", "--json").stdout)
    assert known["loads"].startswith("not tried: --data ROOT")
    assert known["layout"] == ["dots/images/", "dots/split_zhou_Dots.json"]
    assert [download["checksum"] for download in known["downloads"]][1] == "not stated"
    assert json.loads(run("info", "dots", "--json", "--data", tmp_path).stdout)["loads"].startswith("no: data set dots")
    put_by_hand(tmp_path)
    known = json.loads(run("info", "dots", "--json", "--data", tmp_path).stdout)
    assert (known["loads"], known["against the published"]) == ("yes", "equal")
    assert known["found"] == {
        "classes": 2,
        "images": SIZES,
        "splits from": "split_zhou_Dots.json",
        "template": "{} dots.",
    }


def test_info_prints_what_is_to_do_by_hand_exactly(
    web: Site, monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path
) -> None:
    put_dots(web, monkeypatch, by_hand=BY_HAND, sizes={**SIZES, "test": 9})
    put_by_hand(tmp_path)
    shown = run("info", "dots", "--data", tmp_path).stdout
    assert BY_HAND in shown
    assert "test 4 instead of 9" in shown


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_info_serves_every_entry_of_the_catalogue(run: Run, name: str, tmp_path: Path) -> None:
    known = json.loads(run("info", name, "--json", "--data", tmp_path).stdout)
    assert "{}" in known["template"]
    if CATALOGUE[name].folder:
        assert known["loads"].startswith(f"no: data set {name} needs the folder")
        assert known["layout"]
    else:
        assert known["against the published"] == "equal"
    assert run("info", name).exit_code == 0


@pytest.mark.parametrize("name", ["caltech101", "dtd", "eurosat"])
def test_a_ready_made_root_of_real_images_is_seen(run: Run, name: str, real_data: Path) -> None:
    known = json.loads(run("info", name, "--json", "--data", real_data / "images").stdout)
    assert known["loads"] == "yes"
    assert line_of(run, name, "--data", real_data / "images")["here"] == "yes"

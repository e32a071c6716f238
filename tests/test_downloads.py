"""Downloads of one data set's folder: fetched once, unpacked whole or not at all, gone on with after any end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from featcache.datasets.about import Download
from featcache.datasets.downloads import RECORD, Obtained, alone, check_room, left_over, obtain, outstanding
from featcache.datasets.fetching import Patience
from featcache.errors import DataError
from tests.serving import Page, Site, site
from tests.test_archives import FILES, packed, tree

QUICK = Patience(attempts=2, timeout_s=5, pause_s=0.001)
DTD = packed("dtd.tar.gz", FILES)
SPLIT = b'{"train": [], "test": []}'


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with site() as served:
        yield served


def archive(web: Site, content: bytes = DTD, *, unpack: str = "", strip: str = "dtd", **page: object) -> Download:
    url = web.put("/dtd.tar.gz", Page(content, **page))  # type: ignore[arg-type]
    md5 = hashlib.md5(content).hexdigest()
    return Download(
        url=url, file="dtd.tar.gz", checksum=f"md5:{md5}", size_bytes=len(content), unpack=unpack, strip=strip
    )


def plain(web: Site, *, checksum: str = "") -> Download:
    return Download(url=web.put("/split.json", Page(SPLIT)), file="split.json", checksum=checksum)


def get(download: Download, folder: Path, *, keep: bool = False) -> Obtained:
    return obtain(download, folder, page="", progress=lambda *_: None, patience=QUICK, keep_archive=keep)


def images(folder: Path) -> dict[str, bytes]:
    """What the folder holds, without our own notes."""
    return {path: content for path, content in tree(folder).items() if not path.startswith(".featcache")}


BELOW = {path.removeprefix("dtd/"): content for path, content in FILES.items()}


def test_an_archive_is_unpacked_once_and_removed(web: Site, tmp_path: Path) -> None:
    download = archive(web)
    assert outstanding(tmp_path, [download]) == [download]
    assert get(download, tmp_path).num_files == 3
    assert images(tmp_path) == BELOW
    assert outstanding(tmp_path, [download]) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [RECORD, "images", "labels"]


def test_an_archive_may_be_kept(web: Site, tmp_path: Path) -> None:
    get(archive(web), tmp_path, keep=True)
    assert (tmp_path / "dtd.tar.gz").read_bytes() == DTD


def test_an_archive_may_go_to_a_folder_of_another_name(web: Site, tmp_path: Path) -> None:
    download = archive(web, unpack="pictures/all", strip="dtd/images/")
    get(download, tmp_path)
    assert set(images(tmp_path)) == {"pictures/all/banded/b_1.jpg", "pictures/all/lined/l_1.jpg"}
    assert outstanding(tmp_path, [download]) == []


def test_what_was_removed_is_got_again(web: Site, tmp_path: Path) -> None:
    download = archive(web)
    get(download, tmp_path)
    (tmp_path / "labels").rename(tmp_path / "moved")
    assert outstanding(tmp_path, [download]) == [download]
    get(download, tmp_path)
    assert (tmp_path / "labels").is_dir()


def test_a_catalogue_that_names_another_file_is_followed(web: Site, tmp_path: Path) -> None:
    get(archive(web), tmp_path)
    other = archive(web, packed("a.tar.gz", {"dtd/images/new.jpg": b"new"}))
    assert outstanding(tmp_path, [other]) == [other]


def test_files_of_the_user_stay_and_those_of_the_archive_are_renewed(web: Site, tmp_path: Path) -> None:
    (tmp_path / "images" / "banded").mkdir(parents=True)
    (tmp_path / "images" / "banded" / "b_1.jpg").write_bytes(b"cut")
    (tmp_path / "images" / "mine.jpg").write_bytes(b"mine")
    get(archive(web), tmp_path)
    assert images(tmp_path) == {**BELOW, "images/mine.jpg": b"mine"}


@pytest.mark.skipif(sys.platform == "win32", reason="links take rights there")
def test_an_image_folder_that_is_a_link_of_the_users_is_filled(web: Site, tmp_path: Path) -> None:
    elsewhere = tmp_path / "big disk"
    elsewhere.mkdir()
    folder = tmp_path / "dtd"
    folder.mkdir()
    (folder / "images").symlink_to(elsewhere)
    get(archive(web), folder)
    assert (elsewhere / "banded" / "b_1.jpg").read_bytes() == b"one"
    assert (folder / "images").is_symlink()


def test_a_file_in_a_folders_place_is_an_error(web: Site, tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file")
    with pytest.raises(DataError, match="images is in the way: the archive has a folder there"):
        get(archive(web), tmp_path)
    assert (tmp_path / "images").read_text() == "a file"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed("a.tar.gz", {"dtd/good": b"x", "../evil": b"x"}), "a path that leaves its folder"),
        (DTD[:-20], "cut or damaged"),
        (packed("a.zip", {"else/x": b"x"}), "holds no file below dtd"),
    ],
    ids=["leaves its folder", "cut", "holds nothing wanted"],  # bytes as names would tell when they were packed
)
def test_an_archive_that_fails_leaves_the_folder_as_it_was(
    web: Site, tmp_path: Path, content: bytes, message: str
) -> None:
    folder = tmp_path / "dtd"
    folder.mkdir()
    (folder / "mine").write_bytes(b"mine")
    download = archive(web, content)
    with pytest.raises(DataError, match=message):
        get(download, folder)
    assert images(folder) == {"mine": b"mine", "dtd.tar.gz": content}
    assert outstanding(folder, [download]) == [download]
    assert [entry.name for entry in tmp_path.iterdir()] == ["dtd"]


def test_a_checksum_that_differs_unpacks_nothing(web: Site, tmp_path: Path) -> None:
    download = archive(web)
    web.pages["/dtd.tar.gz"].content = DTD[:-1] + bytes([DTD[-1] ^ 1])
    with pytest.raises(DataError, match="has md5"):
        get(download, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_brought_by_hand_is_checked_and_used(web: Site, tmp_path: Path) -> None:
    download = archive(web)
    (tmp_path / "dtd.tar.gz").write_bytes(DTD)
    get(download, tmp_path)
    assert images(tmp_path) == BELOW
    assert web.asked == []


def test_another_file_in_an_archives_place_is_not_touched(web: Site, tmp_path: Path) -> None:
    (tmp_path / "dtd.tar.gz").write_bytes(b"mine")
    with pytest.raises(DataError, match="is there already but is not the file that"):
        get(archive(web), tmp_path)
    assert images(tmp_path) == {"dtd.tar.gz": b"mine"}


def test_a_plain_file_is_kept_and_its_checksum_taken_once(web: Site, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(SPLIT).hexdigest()
    download = plain(web, checksum=f"sha256:{sha256}")
    (tmp_path / "split.json").write_bytes(SPLIT)
    assert outstanding(tmp_path, [download]) == [download], "there, but never checked"
    assert get(download, tmp_path).sha256 == sha256
    assert outstanding(tmp_path, [download]) == []
    assert web.asked == []


def test_a_plain_file_without_checksum_is_taken_as_it_is(web: Site, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_bytes(b"the user's own")
    assert outstanding(tmp_path, [plain(web)]) == []


@pytest.mark.parametrize("content", ["", "[]", '{"dtd.tar.gz": 1}', '{"dtd.tar.gz": {"placed": 3}}', "\0"])
def test_a_damaged_record_counts_as_none(web: Site, tmp_path: Path, content: str) -> None:
    download = archive(web)
    (tmp_path / RECORD).write_text(content)
    assert outstanding(tmp_path, [download]) == [download]
    get(download, tmp_path)
    assert json.loads((tmp_path / RECORD).read_text())["dtd.tar.gz"]["placed"] == ["images", "labels"]


def test_room_is_asked_for_twice_for_archives(web: Site, tmp_path: Path) -> None:
    check_room(tmp_path, [archive(web), plain(web)])
    huge = Download(url="http://x", file="a", size_bytes=10**18, unpack="")
    with pytest.raises(DataError, match=r"lacks needs 2,000,000,000\.0 GB"):
        check_room(tmp_path, [huge])


def test_one_prepare_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path / "dtd"):
        with pytest.raises(DataError, match="another prepare is at work"), alone(tmp_path / "dtd"):
            pass
        with alone(tmp_path / "eurosat"):
            pass
    with alone(tmp_path / "dtd"):
        pass


KILLED = """
    import sys
    from pathlib import Path
    from featcache.datasets.about import Download
    from featcache.datasets.downloads import obtain

    url, checksum, folder = sys.argv[1:]
    download = Download(url=url, file="dtd.tar.gz", checksum=checksum, unpack="", strip="dtd")
    obtain(download, Path(folder), page="", progress=lambda there, total: print(there, flush=True))
"""


def test_a_process_killed_while_it_downloads_is_gone_on_from(web: Site, tmp_path: Path) -> None:
    noise = os.urandom(3_000_000)
    download = archive(web, packed("a.tar.gz", {"dtd/images/a.jpg": noise}))
    page = web.pages["/dtd.tar.gz"]
    page.stall_after, page.stall_s = 1_000_000, 20.0
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), download.url, download.checksum, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        there = 0
        while there < 1_000_000:
            there = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
    assert left_over(tmp_path, [download]) == "download of dtd.tar.gz was cut"
    page.released.set()
    page.stall_s = 0.0
    web.asked.clear()
    get(download, tmp_path)
    assert web.ranges() == ["bytes=1000000-"]
    assert images(tmp_path) == {"images/a.jpg": noise}
    assert left_over(tmp_path, [download]) == ""


KILLS_ITSELF = """
    import os, signal

    def die_at_the_sixth(event, arguments):
        if event == "open" and str(arguments[0]).endswith(os.path.join("images", "5.jpg")):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die_at_the_sixth)
"""


def test_a_process_killed_while_it_unpacks_leaves_nothing_that_reads_as_there(web: Site, tmp_path: Path) -> None:
    many = {f"dtd/images/{number}.jpg": b"x" for number in range(10)}
    download = archive(web, packed("a.zip", many))
    dies = KILLED.replace("import sys\n", "import sys\n" + KILLS_ITSELF)
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(dies), download.url, download.checksum, str(tmp_path)],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / ".featcache-unpacking" / "images" / "4.jpg").exists()
    (tmp_path / ".featcache-unpacking" / "images" / "of another version.jpg").write_bytes(b"stale")
    assert left_over(tmp_path, [download]) == "unpacking was cut"
    assert not (tmp_path / "images").exists()
    assert outstanding(tmp_path, [download]) == [download]
    web.asked.clear()
    get(download, tmp_path)
    assert web.asked == []
    assert len(images(tmp_path)) == 10
    assert left_over(tmp_path, [download]) == ""

"""Files fetched from a real server that cuts, changes, refuses and lies."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featcache.datasets.about import Download
from featcache.datasets.fetching import Patience, check_space, fetch, partial_files, request
from featcache.errors import DataError
from tests.serving import Page, Site, site

BYTES = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(BYTES).hexdigest()
MD5 = hashlib.md5(BYTES).hexdigest()
QUICK = Patience(attempts=3, timeout_s=5, pause_s=0.001)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as served:
        yield served


class Seen:
    """What a fetch said of its progress."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int | None]] = []

    def __call__(self, there: int, total: int | None) -> None:
        self.steps.append((there, total))


def get(
    url: str,
    folder: Path,
    *,
    checksum: str = "",
    size: int | None = None,
    patience: Patience = QUICK,
    name: str = "a.bin",
) -> str:
    download = Download(url=url, file=name, checksum=checksum, size_bytes=size)
    return fetch(download, folder, page="https://example.org/about", progress=Seen(), patience=patience)


def leave_partial(folder: Path, content: bytes, *, url: str, validator: str = '"1"', total: int | None = None) -> None:
    """What a call that was killed leaves behind."""
    partial, note = partial_files(folder / "a.bin")
    partial.write_bytes(content)
    written = "null" if total is None else str(total)
    note.write_text(f'{{"url": "{url}", "validator": "{validator}", "total": {written}}}'.replace('""1""', '"\\"1\\""'))


def only(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("checksum", ["", f"sha256:{SHA256}", f"md5:{MD5}", f"sha256:{SHA256.upper()}"])
def test_a_file_arrives_whole_and_nothing_else_stays(web: Site, tmp_path: Path, checksum: str) -> None:
    assert get(web.put("/a", Page(BYTES)), tmp_path, checksum=checksum, size=len(BYTES)) == SHA256
    assert (tmp_path / "a.bin").read_bytes() == BYTES
    assert only(tmp_path) == ["a.bin"]
    assert web.ranges() == [""]


def test_progress_ends_at_the_whole_length(web: Site, tmp_path: Path) -> None:
    seen = Seen()
    fetch(Download(url=web.put("/a", Page(BYTES)), file="a.bin"), tmp_path, page="", progress=seen, patience=QUICK)
    there = [step for step, _ in seen.steps]
    assert there == sorted(there)
    assert seen.steps[-1] == (len(BYTES), len(BYTES))


def test_a_cut_connection_resumes_where_it_was_cut(web: Site, tmp_path: Path) -> None:
    page = Page(BYTES, cuts=[100_000, 50_000])
    assert get(web.put("/a", page), tmp_path) == SHA256
    assert web.ranges() == ["", "bytes=100000-", "bytes=150000-"]
    assert [headers.get("if-range") for _, headers in web.asked] == [None, '"1"', '"1"']


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, len(BYTES) // 8), max_size=7), ranges=st.booleans(), length=st.booleans())
def test_however_it_is_cut_the_bytes_are_the_same(
    web: Site, tmp_path: Path, cuts: list[int], ranges: bool, length: bool
) -> None:
    page = Page(BYTES, cuts=cuts if length and ranges else [], ranges=ranges, says_length=length)
    assert get(web.put("/a", page), tmp_path) == SHA256
    (tmp_path / "a.bin").unlink()


def test_a_later_call_goes_on_with_what_an_earlier_one_left(web: Site, tmp_path: Path) -> None:
    page = Page(BYTES, cuts=[70_000, 0, 0])
    url = web.put("/a", page)
    with pytest.raises(
        DataError, match=r"cut after 70,000 of 512,000 bytes, 3 tries in a row; the 70,000 bytes .* kept"
    ):
        get(url, tmp_path)
    assert only(tmp_path) == ["a.bin.partial", "a.bin.partial.json"]
    web.asked.clear()
    assert get(url, tmp_path) == SHA256
    assert web.ranges() == ["bytes=70000-"]
    assert only(tmp_path) == ["a.bin"]


def test_tries_that_bring_bytes_are_not_counted(web: Site, tmp_path: Path) -> None:
    assert get(web.put("/a", Page(BYTES, cuts=[1000] * 20)), tmp_path) == SHA256
    assert len(web.asked) == 21


def test_a_server_that_cannot_resume_starts_over(web: Site, tmp_path: Path) -> None:
    assert get(web.put("/a", Page(BYTES, ranges=False, cuts=[100_000])), tmp_path) == SHA256
    assert web.ranges() == ["", "bytes=100000-"]


def test_a_server_that_cannot_resume_and_always_cuts_is_given_up(web: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 tries in a row"):
        get(web.put("/a", Page(BYTES, ranges=False, cuts=[100_000] * 9)), tmp_path)


@pytest.mark.parametrize("validator", ["etag", "last_modified"])
def test_a_file_that_changed_in_between_is_fetched_anew(web: Site, tmp_path: Path, validator: str) -> None:
    marks = {
        "etag": ('"1"', '"2"'),
        "last_modified": ("Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"),
    }
    old, new = marks[validator]
    page = Page(b"old" * 100_000, etag="", cuts=[200_000, 0, 0])
    setattr(page, validator, old)
    url = web.put("/a", page)
    with pytest.raises(DataError, match="cut"):
        get(url, tmp_path)
    page.content = BYTES
    setattr(page, validator, new)
    assert get(url, tmp_path) == SHA256
    assert web.ranges()[-1] == "bytes=200000-"


def test_a_server_that_resumes_another_file_is_caught_by_the_length(web: Site, tmp_path: Path) -> None:
    url = web.put("/a", Page(b"old" * 100_000, cuts=[200_000, 0, 0]))
    with pytest.raises(DataError, match="cut"):
        get(url, tmp_path)
    web.put("/a", Page(BYTES, ignores_if_range=True))
    assert get(url, tmp_path) == SHA256
    assert web.ranges()[-2:] == ["bytes=200000-", ""]


def test_without_validator_or_checksum_nothing_is_resumed(web: Site, tmp_path: Path) -> None:
    assert get(web.put("/a", Page(BYTES, etag="", cuts=[100_000])), tmp_path) == SHA256
    assert web.ranges() == ["", ""]


def test_a_checksum_serves_where_there_is_no_validator(web: Site, tmp_path: Path) -> None:
    page = Page(BYTES, etag='W/"weak"', cuts=[100_000])
    assert get(web.put("/a", page), tmp_path, checksum=f"md5:{MD5}") == SHA256
    assert web.ranges() == ["", "bytes=100000-"]
    assert "if-range" not in web.asked[1][1]


def test_bytes_of_another_address_are_not_gone_on_from(web: Site, tmp_path: Path) -> None:
    url = web.put("/a", Page(BYTES))
    leave_partial(tmp_path, b"x" * 1000, url=web.address + "/elsewhere", total=len(BYTES))
    assert get(url, tmp_path) == SHA256
    assert web.ranges() == [""]


def test_a_partial_file_that_is_whole_asks_for_nothing(web: Site, tmp_path: Path) -> None:
    url = web.put("/a", Page(BYTES))
    leave_partial(tmp_path, BYTES, url=url, total=len(BYTES))
    assert get(url, tmp_path) == SHA256
    assert web.asked == []


def test_a_partial_file_longer_than_the_file_is_dropped(web: Site, tmp_path: Path) -> None:
    url = web.put("/a", Page(BYTES))
    leave_partial(tmp_path, BYTES + b"more", url=url)
    assert get(url, tmp_path) == SHA256
    assert web.ranges() == [f"bytes={len(BYTES) + 4}-", ""]


def test_a_damaged_note_means_starting_anew(web: Site, tmp_path: Path) -> None:
    url = web.put("/a", Page(BYTES))
    leave_partial(tmp_path, b"x" * 1000, url=url)
    partial_files(tmp_path / "a.bin")[1].write_text('{"url": 3}')
    assert get(url, tmp_path) == SHA256


@pytest.mark.parametrize(
    ("checksum", "size", "message"),
    [
        ("sha256:" + "0" * 64, None, f"has sha256 {SHA256}, but 0000"),
        ("md5:" + "0" * 32, None, f"has md5 {MD5}, but 0000"),
        ("", 511_999, "has 512,000 bytes, but 511,999 are stated"),
    ],
)
def test_a_file_that_is_not_the_stated_one_leaves_nothing(
    web: Site, tmp_path: Path, checksum: str, size: int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        get(web.put("/a", Page(BYTES)), tmp_path, checksum=checksum, size=size)
    assert only(tmp_path) == []


def test_a_wrong_length_shows_also_where_the_server_states_none(web: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 512,000 bytes, but 600,000 are stated"):
        get(web.put("/a", Page(BYTES, says_length=False)), tmp_path, size=600_000)
    assert only(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_login_is_asked_for_with_the_link_and_the_place(web: Site, tmp_path: Path, status: int) -> None:
    url = web.put("/a", Page(status=status))
    with pytest.raises(DataError, match="wants a login") as raised:
        get(url, tmp_path)
    for part in (url, str(status), "https://example.org/about", str(tmp_path / "a.bin")):
        assert part in str(raised.value)
    assert len(web.asked) == 1
    assert only(tmp_path) == []


def test_a_dead_link_is_not_tried_again(web: Site, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"404 Not Found: the file is not to be had there; open http.*/none in a browser"
    ):
        get(web.address + "/none", tmp_path)
    assert len(web.asked) == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\xef\xbb\xbf\n<!DOCTYPE html><title>Quota exceeded</title>", "application/octet-stream"),
        (b"<html><body>Virus scan</body></html>", "text/html; charset=utf-8"),
        (b"<title>Sign in</title>", "text/html"),
    ],
)
def test_a_web_page_is_not_taken_for_the_file(web: Site, tmp_path: Path, body: bytes, kind: str) -> None:
    with pytest.raises(DataError, match="answers with a web page instead") as raised:
        get(web.put("/a", Page(body, content_type=kind)), tmp_path, size=123)
    assert str(tmp_path / "a.bin") in str(raised.value)
    assert only(tmp_path) == []


def test_a_file_served_as_html_that_is_none_is_taken(web: Site, tmp_path: Path) -> None:
    get(web.put("/a", Page(b'{"train": []}', content_type="text/html")), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == b'{"train": []}'


def test_a_busy_server_is_asked_again(web: Site, tmp_path: Path) -> None:
    assert get(web.put("/a", Page(BYTES, failures=[503, 429])), tmp_path) == SHA256
    assert len(web.asked) == 3


def test_a_server_that_stays_busy_is_given_up(web: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="answers 503 Service Unavailable, 3 tries in a row"):
        get(web.put("/a", Page(BYTES, failures=[503] * 9)), tmp_path)


def test_a_silent_server_counts_as_cut(web: Site, tmp_path: Path) -> None:
    impatient = Patience(attempts=2, timeout_s=0.1, pause_s=0.001)
    with pytest.raises(DataError, match=r"cut \(timed out\), 2 tries in a row"):
        get(web.put("/a", Page(BYTES, pause_s=0.5)), tmp_path, patience=impatient)


def test_no_server_at_all(tmp_path: Path) -> None:
    with site() as closed:
        url = closed.put("/a", Page(BYTES))
    with pytest.raises(DataError, match=r"no connection .*3 tries in a row"):
        get(url, tmp_path)


def test_an_empty_answer_is_no_file(web: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sent nothing"):
        get(web.put("/a", Page(b"")), tmp_path)
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "data:,a", "a.tar"])
def test_other_schemes_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="only http and https"):
        get(url, tmp_path)
    assert only(tmp_path) == []


def test_a_redirect_is_followed_and_resumed(web: Site, tmp_path: Path) -> None:
    web.put("/real", Page(BYTES, cuts=[100_000]))
    assert get(web.put("/a", Page(status=302, headers={"Location": "/real"})), tmp_path) == SHA256
    assert [(path, headers.get("range")) for path, headers in web.asked] == [
        ("/a", None),
        ("/real", None),
        ("/a", "bytes=100000-"),
        ("/real", "bytes=100000-"),
    ]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_a_redirect_to_another_scheme_is_refused(web: Site, tmp_path: Path, target: str) -> None:
    with pytest.raises(DataError, match=r"not allowed|only http and https"):
        get(web.put("/a", Page(status=302, headers={"Location": target})), tmp_path)
    assert not (tmp_path / "a.bin").exists()


def test_the_token_goes_to_hugging_face_alone(web: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert request("https://huggingface.co/x/resolve/main/a", {}).get_header("Authorization") == "Bearer secret"
    for url in (
        "http://huggingface.co/a",
        "https://huggingface.co.example.org/a",
        "https://example.org/huggingface.co",
    ):
        assert not request(url, {}).has_header("Authorization"), url
    # A redirect copies the plain headers; the token must not be one of them.
    assert "Authorization" not in request("https://huggingface.co/a", {}).headers
    get(web.put("/a", Page(BYTES)), tmp_path)
    assert "authorization" not in web.asked[0][1]


def test_a_disk_without_room_is_told_before_the_first_byte(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_space(tmp_path / "not" / "there", free // 2, "this")
    with pytest.raises(DataError, match=r"this needs .* GB on the disk of .* GB left; make room"):
        check_space(tmp_path, free + 10**12, "this")


def test_a_folder_that_cannot_be_made(web: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        get(web.put("/a", Page(BYTES)), tmp_path / "file" / "folder")

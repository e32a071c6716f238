"""Archives of the published data sets' form, and hostile ones, unpacked below one folder."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featcache.datasets.archives import unpack
from featcache.errors import DataError

FILES = {"dtd/images/banded/b_1.jpg": b"one", "dtd/images/lined/l_1.jpg": b"two" * 5000, "dtd/labels/test1.txt": b"l"}
SUFFIXES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip")


def make(file: Path, members: Mapping[str, bytes]) -> Path:
    """An archive of the kind that its name says, of these members; folders where the name ends in /."""
    file.write_bytes(packed(file.name, members))
    return file


def packed(name: str, members: Mapping[str, bytes]) -> bytes:
    whole = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in members.items():
                archive.writestr(path, content)
        return whole.getvalue()
    kind = name.rpartition(".")[2]
    with tarfile.open(fileobj=whole, mode="w" if kind == "tar" else f"w:{kind}") as tar:  # type: ignore[call-overload]
        for path, content in members.items():
            info = tarfile.TarInfo(path)
            info.type = tarfile.DIRTYPE if path.endswith("/") else tarfile.REGTYPE
            info.size = len(content)
            info.mode = 0o6777 if not path.endswith("/") else 0o000
            tar.addfile(info, io.BytesIO(content))
    return whole.getvalue()


def odd_tar(file: Path, name: str, kind: bytes, link: str = "") -> Path:
    with tarfile.open(file, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("good.txt"), io.BytesIO())
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        tar.addfile(info)
    return file


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_packed_comes_out(tmp_path: Path, suffix: str) -> None:
    archive = make(tmp_path / f"dtd{suffix}", {"dtd/": b"", "dtd/images/": b"", **FILES})
    assert unpack(archive, tmp_path / "out") == 3
    assert tree(tmp_path / "out") == FILES


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("strip", ["dtd/images", "dtd/images/", "./dtd/images"])
def test_strip_cuts_whole_folders_and_leaves_the_rest_out(tmp_path: Path, suffix: str, strip: str) -> None:
    archive = make(tmp_path / f"dtd{suffix}", {**FILES, "dtd/images2/x.jpg": b"not below images"})
    assert unpack(archive, tmp_path / "out", strip=strip) == 2
    assert tree(tmp_path / "out") == {"banded/b_1.jpg": b"one", "lined/l_1.jpg": b"two" * 5000}


def test_the_kind_is_told_by_the_bytes_not_the_name(tmp_path: Path) -> None:
    archive = make(tmp_path / "2750.zip", {"2750/River/River_1.jpg": b"river"}).rename(tmp_path / "EuroSAT.tar.gz")
    assert unpack(archive, tmp_path / "out", strip="2750") == 1
    assert tree(tmp_path / "out") == {"River/River_1.jpg": b"river"}


@pytest.mark.parametrize("outer", [".zip", ".tar"])
@pytest.mark.parametrize("inner", [".tar.gz", ".zip"])
def test_strip_leads_into_an_archive_within_the_archive(tmp_path: Path, outer: str, inner: str) -> None:
    images = packed(inner, {"101_ObjectCategories/accordion/image_0001.jpg": b"a", "other/x": b"x"})
    archive = make(
        tmp_path / f"caltech-101{outer}",
        {"caltech-101/Annotations.tar": b"never opened", f"caltech-101/101_ObjectCategories{inner}": images},
    )
    strip = f"caltech-101/101_ObjectCategories{inner}/101_ObjectCategories"
    assert unpack(archive, tmp_path / "out", strip=strip) == 1
    assert tree(tmp_path / "out") == {"accordion/image_0001.jpg": b"a"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [archive.name, "out"]


def test_owner_and_mode_are_not_taken(tmp_path: Path) -> None:
    unpack(make(tmp_path / "a.tar", {"in/": b"", "in/file": b"x"}), tmp_path / "out")
    assert (tmp_path / "out" / "in" / "file").stat().st_mode & 0o7000 == 0
    assert (tmp_path / "out" / "in").stat().st_mode & 0o700 == 0o700


HOSTILE_PATHS = ["../evil", "a/../../evil", "/tmp/evil", "C:\\evil", "..\\evil", "\\\\host\\share\\evil", "C:evil"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("path", HOSTILE_PATHS)
@pytest.mark.parametrize("strip", ["", "a"])
def test_a_path_that_leaves_ends_the_unpacking(tmp_path: Path, suffix: str, path: str, strip: str) -> None:
    inner = tmp_path / "deep" / "down"
    inner.mkdir(parents=True)
    with pytest.raises(DataError, match="a path that leaves its folder; it was not unpacked"):
        unpack(make(inner / f"a{suffix}", {path: b"evil", "a/good": b"x"}), inner / "out", strip=strip)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device or pipe"),
        (tarfile.BLKTYPE, "a device or pipe"),
        (tarfile.FIFOTYPE, "a device or pipe"),
    ],
)
def test_links_and_devices_in_a_tar_end_the_unpacking(tmp_path: Path, kind: bytes, words: str) -> None:
    archive = odd_tar(tmp_path / "a.tar.gz", "images", kind, link="/etc")
    with pytest.raises(DataError, match=f"holds images, which is {words}; only files and folders are unpacked"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out" / "images").exists()


@pytest.mark.parametrize(("mode", "words"), [(0o120777, "a link"), (0o010644, "a device or pipe")])
def test_links_and_pipes_in_a_zip_end_the_unpacking(tmp_path: Path, mode: int, words: str) -> None:
    info = zipfile.ZipInfo("images")
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc")
    with pytest.raises(DataError, match=f"holds images, which is {words}"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
@pytest.mark.parametrize("strip", ["", "elsewhere"])
def test_a_bomb_stops_at_the_limit(tmp_path: Path, suffix: str, strip: str) -> None:
    archive = make(tmp_path / f"bomb{suffix}", {"zeros": bytes(3_000_000), "elsewhere/x": b"x"})
    assert archive.stat().st_size < 10_000
    if suffix == ".zip" and strip:
        pytest.skip("what is left out of a zip is never decompressed")
    with pytest.raises(DataError, match="unpacks to more than 2,000,000 bytes"):
        unpack(archive, tmp_path / "out", strip=strip, limit_bytes=2_000_000)
    assert sum(map(len, tree(tmp_path / "out").values())) <= 2_000_000
    unpack(archive, tmp_path / "again", strip=strip, limit_bytes=6_000_000)


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_a_flood_of_empty_files_stops_at_the_limit(tmp_path: Path, suffix: str) -> None:
    archive = make(tmp_path / f"flood{suffix}", {f"{number}": b"x" for number in range(300)})
    with pytest.raises(DataError, match="unpacks to more than 1,000,000 bytes"):
        unpack(archive, tmp_path / "out", limit_bytes=1_000_000)
    assert len(tree(tmp_path / "out")) < 250


def test_a_bomb_in_a_header_stops_at_the_limit(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x")
        info.pax_headers = {"comment": "0" * 5_000_000}
        tar.addfile(info)
    with pytest.raises(DataError, match="unpacks to more than 2,000,000 bytes"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out", limit_bytes=2_000_000)


def test_the_limit_holds_within_an_inner_archive(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.tar.gz", {"in.tar.gz": packed(".tar.gz", {"zeros": bytes(3_000_000)})})
    with pytest.raises(DataError, match="unpacks to more than 2,000,000 bytes"):
        unpack(archive, tmp_path / "out", strip="in.tar.gz", limit_bytes=2_000_000)


def test_a_zip_that_lies_about_a_size_writes_no_more_than_it_says(tmp_path: Path) -> None:
    content = packed(".zip", {"zeros": bytes(1_000_000)})
    (tmp_path / "a.zip").write_bytes(content.replace(struct.pack("<I", 1_000_000), struct.pack("<I", 1000)))
    with pytest.raises(DataError, match="cut or damaged"):
        unpack(tmp_path / "a.zip", tmp_path / "out", limit_bytes=10_000)


def test_an_encrypted_zip_says_so(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"x": b"secret"})
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"is encrypted \(x\); unpack it by hand"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_cut_archive_says_so(tmp_path: Path, suffix: str, share: float) -> None:
    noise = bytes((number * number) % 251 for number in range(40_000))
    archive = make(tmp_path / f"a{suffix}", {f"{n}.jpg": noise[n:] for n in range(3)})
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="cannot be unpacked, it is cut or damaged"):
        unpack(archive, tmp_path / "out")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(suffix=st.sampled_from(SUFFIXES), place=st.floats(0, 0.999), byte=st.integers(1, 255))
def test_a_damaged_archive_ends_in_one_kind_of_error_or_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, place: float, byte: int
) -> None:
    root = tmp_path_factory.mktemp("damaged")
    archive = make(root / f"a{suffix}", FILES)
    content = bytearray(archive.read_bytes())
    content[int(place * len(content))] ^= byte
    archive.write_bytes(content)
    with suppress(DataError):
        unpack(archive, root / "in" / "out")
    assert {entry.name for entry in root.iterdir()} <= {archive.name, "in"}
    assert not (root / "in").exists() or [entry.name for entry in (root / "in").iterdir()] == ["out"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".tar", ".zip"]),
    parts=st.lists(st.sampled_from(["..", ".", "", "a", "~", "C:", "\\..", "a\\b", "..."]), min_size=1, max_size=5),
)
def test_no_path_whatever_leaves_the_folder(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, parts: list[str]
) -> None:
    root = tmp_path_factory.mktemp("paths")
    archive = make(root / f"a{suffix}", {"/".join(parts) or "a": b"x"})
    with suppress(DataError):
        unpack(archive, root / "in" / "out")
    assert {entry.name for entry in root.iterdir()} <= {archive.name, "in"}
    assert not (root / "in").exists() or [entry.name for entry in (root / "in").iterdir()] == ["out"]


def test_what_is_no_archive_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"Rar!\x1a\x07\x00")
    with pytest.raises(DataError, match=r"no tar or zip archive: it begins with b'Rar!"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_without_what_was_looked_for_says_what_it_has(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(DataError, match="holds no file below images; it begins with dtd"):
        unpack(make(tmp_path / f"a{suffix}", FILES), tmp_path / "out", strip="images")


def test_a_path_that_is_a_file_and_a_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="as a file and as a folder"):
        unpack(make(tmp_path / "a.tar", {"a": b"x", "a/b": b"y"}), tmp_path / "out")

"""Files from strangers: a store made elsewhere is first read apart, sizes are bounded, nothing leaves its place."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from featcache import bounded, confined, console, views
from featcache.backbones.files import check_loads_safely
from featcache.confined import ConfinedError
from featcache.errors import ConfigError, DataError, StoreError
from featcache.importing import import_npz, tensors
from featcache.store import Store, gate, trial
from featcache.store.sealing import SEAL, seal_of
from tests import damage_sweep, synthetic
from tests.commandline import Run

# --- a process apart


def test_a_process_apart_answers_in_json() -> None:
    assert confined.call("tests.apart:devour", "17") == 17


def test_our_own_errors_come_out_of_a_process_apart() -> None:
    with pytest.raises(ConfigError, match="no such thing"):
        confined.call("tests.apart:refuse", "no such thing")


@pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")
def test_a_crash_a_hang_and_gluttony_end_only_the_process_apart() -> None:
    with pytest.raises(ConfinedError, match=r"crashed \(signal 6\)"):
        confined.call("tests.apart:crash")
    with pytest.raises(ConfinedError, match="more than 3 s"):
        confined.call("tests.apart:hang", seconds=3)
    with pytest.raises(ConfinedError, match="2 GiB of memory"):
        confined.call("tests.apart:devour", str(3 << 30), memory_bytes=2 << 30)


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_process_apart_writes_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfinedError, match="File too large"):
        confined.call("tests.apart:write", str(tmp_path / "x"))


# --- stores made elsewhere


@pytest.fixture
def own(home: Path) -> Path:
    """A store that this installation wrote."""
    return damage_sweep.make("store", home)


@pytest.fixture
def foreign(own: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same file, as it comes from somewhere else."""
    copy = own.with_name("foreign.h5")
    shutil.copy(own, copy)
    monkeypatch.setattr(gate, "_admitted", set())
    monkeypatch.setattr(gate, "_refused", {})
    return copy


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that children have read, from here on."""
    read: list[str] = []
    plain = confined.call

    def call(function: str, place: str, **options: Any) -> Any:
        read.append(Path(place).name)
        return plain(function, place, **options)

    monkeypatch.setattr(gate.confined, "call", call)
    return read


def test_a_store_made_here_is_opened_straight_away(own: Path, foreign: Path, calls: list[str]) -> None:
    Store(own).close()
    assert calls == []


def test_a_store_made_elsewhere_is_read_apart_once(
    foreign: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(foreign).close()
    Store(foreign).close()
    monkeypatch.setattr(gate, "_admitted", set())  # as in another process
    Store(foreign).close()
    assert calls == ["foreign.h5"]


def test_one_that_changed_is_read_apart_again(foreign: Path, calls: list[str]) -> None:
    Store(foreign).close()
    before = foreign.stat()
    data = bytearray(foreign.read_bytes())
    data[-1] ^= 1
    foreign.write_bytes(data)
    os.utime(foreign, ns=(before.st_atime_ns, before.st_mtime_ns))  # which hides the change from size and time
    with pytest.raises(StoreError):
        Store(foreign).close()
    assert calls == ["foreign.h5"] * 2
    assert len(list(foreign.parents[1].glob("known/*"))) == 2, "one note a store"


@pytest.mark.parametrize("ends", ["crash", "hang"])
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_store_that_crashes_or_hangs_its_reader_is_refused(
    foreign: Path, run: Run, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    plain = confined.call
    monkeypatch.setattr(gate.confined, "call", lambda *_, **__: plain(f"tests.apart:{ends}", seconds=3))
    for _ in range(2):  # and again, without another trial
        with pytest.raises(StoreError, match=r"a process apart read it first, and that (crashed|took more than 3 s)"):
            Store(foreign)
    said = run("fit", str(foreign))
    assert said.code == 2
    assert "is not opened" in said.err
    assert "Traceback" not in said.err
    assert run("cache", "ls").out.count("unreadable") == 1


def test_a_trial_reads_all_and_passes_over_damage(own: Path) -> None:
    assert trial.read_all(str(own)) > 20
    own.write_bytes(own.read_bytes()[:5000])
    assert trial.read_all(str(own)) == 0


def test_a_store_without_a_writable_cache_folder_is_still_read(
    foreign: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "file"))
    Store(foreign).close()


# --- what a store may claim


def forge(path: Path, change: Any) -> None:
    """Change a store, and make its seal good again: a checksum tells damage, not forgery."""
    with h5py.File(path, "r+", libver="latest") as file:
        change(file)
        seal = seal_of(file.attrs).encode()
        file.attrs.create(SEAL, np.array(seal, dtype=h5py.string_dtype("utf-8", len(seal))))
    gate.vouch(path)


def swap(name: str, **made: Any) -> Any:
    """Another array in place of one."""

    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **made)

    return change


def external(file: h5py.File) -> None:
    file.create_group("elsewhere")
    del file["classes"]
    file["classes"] = h5py.ExternalLink("other.h5", "/classes")


def attribute(name: str, value: Any) -> Any:
    def change(file: h5py.File) -> None:
        text = isinstance(value, bytes)
        file.attrs.create(name, value, dtype=h5py.string_dtype("utf-8", len(value)) if text else None)

    return change


HUGE = (1 << 40, 1, 8)
FORGED = {
    "terabytes": (swap("test/image", shape=HUGE, dtype="f2", chunks=(1, 1, 8)), "claims 17,592,186,044,416 bytes"),
    "a huge chunk": (swap("test/image", shape=(6, 1, 8), maxshape=HUGE, dtype="f2", chunks=(1 << 26, 1, 8)), "claims"),
    "another file": (external, "classes is a link"),
    "raw bytes outside": (swap("test/row", shape=(6,), dtype="i8", external=[("/etc/hostname", 0, 48)]), "other files"),
    "any length": (swap("classes/name", data=["a", "b", "c"], dtype=h5py.string_dtype()), "a fixed length"),
    "another filter": (swap("test/row", data=np.arange(6), scaleoffset=0), "packed in a way"),
    "rows beyond": (swap("test/row", data=np.arange(6) + 1), "must lie in 0 to 5"),
    "rows twice": (swap("test/row", data=np.zeros(6, dtype=int)), "do not ascend"),
    "labels beyond": (swap("manifest/test/label", data=np.full(6, 3)), "must lie in 0 to 2"),
    "labels too few": (swap("manifest/test/label", data=np.zeros(1, dtype=int)), "1 labels for 6 images"),
    "flat embeddings": (swap("test/image", data=np.zeros((6, 8), dtype="f2")), "(rows, views, width)"),
    "a narrow text": (swap("text/default/embedding", data=np.zeros((3, 4), dtype="f4")), "the text set default holds"),
    "text of other classes": (swap("text/default/class", data=np.arange(3) + 1), "must lie in 0 to 2"),
    "draws of words": (attribute("provenance", b'{"draws": [["a", 1]]}'), "one of its draws"),
    "no mapping": (attribute("versions", b"[1]"), "no mapping"),
    "deep JSON": (attribute("provenance", b"[" * 60000), "recursion"),
    "no number": (attribute("logit_scale", float("nan")), "logit_scale is nan"),
}


@pytest.mark.parametrize("fault", FORGED)
def test_a_forged_store_is_refused_before_it_does_harm(run: Run, own: Path, fault: str) -> None:
    change, message = FORGED[fault]
    forge(own, change)
    with pytest.raises(StoreError) as refused:
        damage_sweep.told("store", own)
    assert message in str(refused.value)
    for command in (("fit", "small", "--epochs", "1"), ("cache", "verify", "small"), ("cache", "info", "small")):
        said = run(*command)
        assert "Traceback" not in said.err
        assert said.code in (0, 2)
    assert trial.read_all(str(own)) >= 0


def test_an_array_that_unpacks_to_gigabytes_is_too_much_for_its_trial(foreign: Path) -> None:
    def bomb(file: h5py.File) -> None:
        del file["manifest/test/path"]
        stored = file.create_dataset("manifest/test/path", shape=(6,), dtype="S8", chunks=(6,), compression="gzip")
        pump = zlib.compressobj(9)
        first, again = (pump.compress(bytes(1 << 24)) + pump.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
        stored.id.write_direct_chunk((0,), first + 320 * again)

    forge(foreign, bomb)
    gate._admitted.clear()
    shutil.rmtree(foreign.parents[1] / "known")
    with pytest.raises(StoreError, match="more than its 4 GiB of memory"):
        Store(foreign)


def test_the_key_of_a_hostile_file_is_asked_through_the_gate(run: Run, foreign: Path, calls: list[str]) -> None:
    run("cache", "ls")
    assert calls.count("foreign.h5") == 1


# --- names


NASTY = [
    "\x1b[2J\x1b]0;owned\x07",
    "[bold red]x[/]",
    "a\rb",
    "'); DROP TABLE search; --",
    "gro\u202egnp.exe",
    "\x9b31m",
]


def test_names_cannot_steer_a_terminal() -> None:
    for name in NASTY:
        assert not set(console.harmless(name)) & {"\x1b", "\x07", "\r", "\u202e", "\x9b"}
    assert console.harmless("caña\n\tügly 猫 🐈") == "caña\n\tügly 猫 🐈"


def test_class_names_are_told_as_they_are_and_do_nothing(run: Run, home: Path, tmp_path: Path) -> None:
    names = ["\\", "plain", *NASTY]
    arrays = synthetic.arrays(classes=len(names))
    file = synthetic.save(tmp_path / "nasty.npz", arrays | {"class_names": np.array(names)})
    assert run("import", file, "--name", "nasty", "--dataset", NASTY[0] + NASTY[3]).code == 0
    fitted = run("fit", "nasty", "--alpha-grid", "0.5", "--epochs", "1", "--shots", "1")
    assert fitted.code == 0, fitted.err
    asked = (("results",), ("results", "1", "--per-class"), ("cache", "info"), ("cache", "ls"))
    told = [fitted, *(run(*words) for words in asked)]
    for said in told:
        assert said.code == 0, said.err
        assert not set(said.out + said.err) & {"\x1b", "\x07", "\r", "\u202e", "\x9b"}
    assert "[bold red]x[/]" in told[2].out, "markup is printed, not obeyed"
    listed = json.loads(run("results", "--json").out)
    assert [row["dataset"] for row in listed] == [NASTY[0] + NASTY[3]], "kept as it is, and no word of SQL"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "..", ".hidden", "a\\b", "", "x\0y", "con\n", "a" * 130])
def test_no_name_leaves_the_cache_folder(run: Run, home: Path, tmp_path: Path, name: str) -> None:
    file = synthetic.save(tmp_path / "toy.npz", synthetic.arrays())
    said = run("import", file, "--name", name)
    assert said.code == 2
    assert "cannot name a store" in said.err
    assert not list(tmp_path.rglob("*.h5"))


# --- other files


def npz(path: Path, member: bytes) -> Path:
    """An .npz whose train_features are these bytes, the rest sound."""
    synthetic.save(path, synthetic.arrays())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (members | {"train_features.npy": member}).items():
            archive.writestr(name, data)
    return path


def header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (header("(1000000000000, 512)"), "claims 2,048,000,000,000,000 bytes"),
        (header("(3, 4)", "|O"), "holds objects"),
        (header("(" * 300 + ")" * 300), "cannot be read"),
        (header("(-1, 4)"), "negative dimensions"),
        (bytes((1 << 30) + 1), "unpacks to 1,073"),
    ],
    ids=["terabytes", "objects", "brackets", "negative", "bomb"],
)
def test_an_npz_cannot_take_more_than_is_in_it(home: Path, tmp_path: Path, member: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_npz(npz(tmp_path / "bad.npz", member), name="bad")


def test_text_of_no_characters_is_refused(home: Path, tmp_path: Path) -> None:
    file = synthetic.save(tmp_path / "bad.npz", synthetic.arrays())
    beyond = np.frombuffer((0x7FFFFFFF).to_bytes(4, "little") * 6, dtype="<U1")
    np.savez(file, **{**dict(np.load(file)), "class_names": beyond})
    with pytest.raises(DataError, match="class_names holds text that is not valid Unicode"):
        import_npz(file, name="bad")


def test_a_zip_that_does_not_list_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save({"weight": torch.zeros(2)}, file)
    sound = file.read_bytes()
    check_loads_safely(file, "tiny")
    at = sound.rindex(b"PK\x01\x02")  # the last member's entry in the list: its version, flags and name
    spoilt = {
        "version": sound[: at + 6] + b"\xff\xff" + sound[at + 8 :],
        "name": sound[: at + 8] + b"\x00\x08" + sound[at + 10 : at + 46] + b"\xff" + sound[at + 47 :],
    }
    for data in spoilt.values():
        file.write_bytes(data)
        with pytest.raises((NotImplementedError, UnicodeError)), zipfile.ZipFile(file):
            pass
        with pytest.raises(DataError, match="do not load into tiny"):
            check_loads_safely(file, "tiny")


def test_rows_that_an_array_lacks_are_not_made_up(own: Path) -> None:
    forge(own, swap("test/crop", data=np.zeros((2, 1, 5), dtype=np.int32)))
    with Store(own) as store, pytest.raises(StoreError, match="test/crop has 2 rows, and row 5 is asked for"):
        store.gather("test", "crop", np.array([0, 5]))


def test_a_packed_tensor_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save(torch.zeros(1 << 20, 4), plain)
    with zipfile.ZipFile(plain) as a, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as b:
        for name in a.namelist():
            b.writestr(name, a.read(name))
    assert tensors.load_matrix(plain).shape == (1 << 20, 4)
    with pytest.raises(DataError, match=r"is packed, which torch\.save never does"):
        tensors.load_matrix(packed)


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="no regular file"):
        bounded.read_text(tmp_path / "pipe")


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(bounded.TEXT_BYTES + 1)
    with pytest.raises(DataError, match="are not read"):
        bounded.read_text(tmp_path / "large.json")


def test_brackets_without_end_are_no_json() -> None:
    with pytest.raises(ValueError, match="too deep"):
        bounded.parse_json("[" * 200_000)


def test_an_image_of_too_many_pixels_is_refused_by_its_header() -> None:
    width = height = 60_000  # 3.6 thousand million pixels in some hundred bytes
    chunks = [b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])]
    chunks += [b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    parts = [(len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") for chunk in chunks]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    with pytest.raises(DataError, match="too large to decode safely"):
        views.decode(data)

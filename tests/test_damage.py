"""Damage: whatever byte of a store or a part is spoilt, it is refused or reads as before; `repair` makes it good."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import h5py
import pytest

from featcache.engines import sharing
from featcache.extraction.parts import PartContents, write_part
from featcache.store import Store, writing
from featcache.store.checking import verify
from featcache.store.places import resolve
from tests import damage_sweep, synthetic
from tests.commandline import Run, Said

WHOLE = bool(os.environ.get("FEATCACHE_WHOLE_SWEEP"))
"""Every case there is, which takes tens of minutes."""


@pytest.mark.parametrize("kind", damage_sweep.KINDS)
def test_no_damaged_byte_and_no_cut_is_read_wrong(kind: str) -> None:
    size = damage_sweep.sizes()[kind]
    cases = list(range(3 * size))
    if not WHOLE:
        cases = sorted(random.Random(0).sample(cases, 150))
    counts = damage_sweep.sweep(kind, cases, jobs=1)
    assert set(counts) <= {"refused", "equal"}, counts
    assert sum(counts.values()) == len(cases)
    assert counts["refused"] > 0.5 * len(cases)


# --- repair


EXTRACT = ["--backbone", "tiny", "--weights", "random:0", "--shots", "1,4", "--seeds", "1,2", "--views", "2"]
EXTRACT += ["--workers", "0", "--prompts", "paper-7"]


@pytest.fixture
def own(pictures: Path, tmp_path: Path) -> Path:
    """The pictures once more, to be changed, older than any store."""
    folder = Path(shutil.copytree(pictures, tmp_path / "own" / "pictures"))
    for file in folder.rglob("*.bmp"):
        os.utime(file, (1, 1))
    return folder


@pytest.fixture
def store(run: Run, own: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the pictures whose arrays lie in many chunks."""
    monkeypatch.setattr(writing, "_CHUNK_BYTES", 5000)
    said = run("extract", "--dataset", f"folder:{own}", *EXTRACT, "--name", "mine")
    assert said.code == 0, said.err
    return resolve("mine")


def content(path: Path) -> str:
    with Store(path) as store:
        assert verify(store) == []
        return store.content


def spoil(path: Path, name: str, chunk: int = 0) -> int:
    """Flip one byte of one chunk of an array; returns how many rows the chunk holds."""
    with h5py.File(path) as file:
        stored = file[name]
        info = stored.id.get_chunk_info(min(chunk, stored.id.get_num_chunks() - 1))
        rows = min(stored.chunks[0], stored.shape[0] - info.chunk_offset[0])
    data = bytearray(path.read_bytes())
    data[info.byte_offset + info.size // 2] ^= 1
    path.write_bytes(data)
    return int(rows)


def words(said: Said) -> str:
    return " ".join((said.out + said.err).split())


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("train/image", "train rows"),
        ("train/crop", "train rows"),
        ("test/source", "test rows"),
        ("val/digest", "val rows"),
        ("manifest/train/label", "the image list of train"),
        ("manifest/test/path", "the image list of test"),
        ("text/default/embedding", "the text set default"),
        ("text/paper-7/sentence", "the text set paper-7"),
    ],
)
def test_repair_makes_what_is_damaged_anew(run: Run, store: Path, name: str, made: str) -> None:
    before = content(store)
    rows = spoil(store, name, chunk=1)
    said = run("cache", "verify", "mine")
    assert said.code == 2
    assert "`featcache cache repair mine` makes just that anew" in words(said)
    assert name.removeprefix("manifest/").split("/")[made.startswith("the text")] in words(said)
    said = run("cache", "repair", "mine", "--workers", "0")
    assert said.code == 0, said.err
    assert f"made anew {rows} {made};" in words(said) or f"made anew {made};" in words(said)
    assert "the content is what it was" in words(said)
    assert content(store) == before
    assert not list(store.parents[1].rglob("*.part"))
    assert "nothing to do" in words(run("cache", "repair", "mine"))


def test_repair_encodes_no_other_row(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = spoil(store, "train/image", chunk=2)
    encoded: list[int] = []

    def counting(key: str, name: str, contents: PartContents) -> None:
        encoded.extend(set(contents.row.tolist()))
        write_part(key, name, contents)

    monkeypatch.setattr(sharing, "write_part", counting)
    assert run("cache", "repair", "mine").code == 0
    assert len(encoded) == rows
    with Store(store) as opened:
        assert rows < opened.num_rows("train")


def test_row_numbers_are_beyond_repair_and_the_command_is_named(run: Run, store: Path, own: Path) -> None:
    before = store.read_bytes()
    spoil(store, "test/row")
    damaged = store.read_bytes()
    assert damaged != before
    for command in ("verify", "repair"):
        said = run("cache", command, "mine")
        assert said.code == 2
        assert f"`featcache cache rm mine`, then `featcache extract --dataset folder:{own}" in words(said)
        assert "--name mine --shots 1,4 --seeds 1,2`" in words(said)
        assert store.read_bytes() == damaged


@pytest.mark.parametrize("keep", [0.5, 0.001])
def test_a_store_that_does_not_open_says_what_is_left_to_do(run: Run, store: Path, keep: float) -> None:
    store.write_bytes(store.read_bytes()[: int(keep * store.stat().st_size)])
    for command in ("verify", "repair"):
        said = run("cache", command, "mine")
        assert said.code == 2
        assert "`featcache cache rm mine`, then repeat the extract or import that made it" in words(said)


def test_attributes_that_hdf5_does_not_check_are_checked(run: Run, store: Path) -> None:
    with h5py.File(store, "r+") as file:
        file.attrs["logit_scale"] = 3.0
    said = run("cache", "repair", "mine")
    assert (said.code, "its attributes differ from their checksum" in words(said)) == (2, True)
    assert "then `featcache extract --dataset" in words(said)


def test_images_that_changed_or_went_are_named_and_repaired(run: Run, store: Path, own: Path) -> None:
    """Bytes that change behind an unchanged size and time: only reading them tells."""
    before = content(store)
    assert "its 47 images are those that were encoded" in words(run("cache", "verify", "mine", "--images"))
    file = sorted((own / "test").rglob("*.bmp"))[3]
    data = bytearray(file.read_bytes())
    data[-90:] = bytes(90)
    file.write_bytes(data)
    os.utime(file, (1, 1))
    assert run("cache", "verify", "mine").code == 0
    said = run("cache", "verify", "mine", "--images")
    assert said.code == 2
    assert f"test {file.relative_to(own)}: changed since it was encoded (other bytes)" in words(said)
    assert "1 of 47 images of mine are not those that were encoded" in words(said)
    said = run("cache", "repair", "mine", "--workers", "0")
    assert (said.code, "made anew 1 test rows" in words(said)) == (0, True), said.err
    after = content(store)
    assert after != before
    assert run("cache", "verify", "mine", "--images").code == 0
    store.unlink()
    run("extract", "--dataset", f"folder:{own}", *EXTRACT, "--name", "mine")
    assert content(store) == after
    file.unlink()
    said = run("cache", "verify", "mine", "--images")
    assert (said.code, f"test {file.relative_to(own)}: gone" in words(said)) == (2, True)
    assert "1 are gone, 0 new" in words(said)
    assert run("cache", "repair", "mine").code == 2
    assert content(store) == after


def test_images_in_another_place_are_found_with_dataset(run: Run, store: Path, own: Path, tmp_path: Path) -> None:
    moved = own.rename(tmp_path / "pictures")
    assert run("cache", "verify", "mine", "--images").code == 2
    assert run("cache", "verify", "mine", "--images", "--dataset", f"folder:{moved}").code == 0
    spoil(store, "test/image")
    assert run("cache", "repair", "mine", "--dataset", f"folder:{moved}").code == 0
    assert run("cache", "verify", "mine", "--dataset", f"folder:{moved}").code == 2  # without effect
    (sorted(moved.rglob("*.bmp"))[0]).rename(moved / "train" / "ant" / "new.bmp")
    said = run("cache", "verify", "mine", "--images", "--dataset", f"folder:{moved}")
    assert (said.code, "mine was made of (1 are gone, 1 new)" in words(said)) == (2, True)


def test_an_import_has_no_images(run: Run, tmp_path: Path) -> None:
    file = synthetic.save(tmp_path / "toy.npz", synthetic.arrays())
    run("import", file, "--name", "toy")
    assert "no images to compare with" in words(run("cache", "verify", "toy", "--images"))
    assert "toy is sound" in words(run("cache", "repair", "toy"))
    spoil(resolve("toy"), "test/image")
    said = run("cache", "repair", "toy")
    assert (said.code, "then import toy.npz again with --name toy" in words(said)) == (2, True)

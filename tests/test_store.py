"""The store: what goes in comes out bit for bit, and no damage goes unnoticed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from featcache.errors import ConfigError, DataError, InputError, StoreError, UnknownNameError
from featcache.prompts import TextSet
from featcache.store import Block, Contents, Spec, SplitContents, Store, Tower, write_store
from featcache.store import places as store_places
from featcache.store.checking import diff, verify
from featcache.store.gate import vouch
from featcache.store.places import check_name, list_stores, resolve, store_path
from featcache.store.replacing import replacing
from featcache.store.writing import check_resolution, to_stored

CLASSES = ("stone", "日本語の紙", "naïve café", "🐈 cat")
TOWER = Tower(architecture="RN50-quickgelu", activation="quickgelu", checkpoint="ab" * 32, precision="fp32")
SPEC = Spec(tower=TOWER, transform={"style": "coop", "size": 64}, view_seed=0, dtype="float16", manifest="cd" * 32)
SHAPES = {"train": (9, 3), "val": (5, 1), "test": (6, 1)}
DIM = 16

Arrays = dict[str, tuple[NDArray[np.generic], NDArray[np.int32], NDArray[np.uint64]]]


def arrays(dtype: str, seed: int = 0) -> Arrays:
    """Image, crop and source of each split."""
    generator = np.random.default_rng(seed)
    return {
        split: (
            generator.normal(size=(rows, views, DIM)).astype(dtype),
            generator.integers(-5, 900, size=(rows, views, 5)).astype(np.int32),
            generator.integers(0, 2**64, size=(rows, 2), dtype=np.uint64),
        )
        for split, (rows, views) in SHAPES.items()
    }


def in_blocks(values: tuple[NDArray[np.generic], NDArray[np.int32], NDArray[np.uint64]], size: int) -> Iterator[Block]:
    for start in range(0, len(values[0]), size):
        yield Block(*(array[start : start + size] for array in values))


def text_set() -> TextSet:
    return TextSet(
        embedding=np.random.default_rng(9).normal(size=(len(CLASSES), DIM)).astype(np.float32),
        label=np.arange(len(CLASSES), dtype=np.int32),
        template=np.zeros(len(CLASSES), dtype=np.int32),
        templates=("ein Foto: {}.",),
        origin="ef" * 32,
    )


def contents(values: Arrays, *, spec: Spec = SPEC, block: int = 4, seed: int = 0) -> Contents:
    """A whole store; train holds every second row of its manifest and lacks row 1, which could not be read."""
    splits = {}
    for split, (image, _, _) in values.items():
        step = 2 if split == "train" else 1
        num_images = step * len(image)
        splits[split] = SplitContents(
            path=tuple(f"{split}/Ordner ü/{row:03d} 画像.jpg" for row in range(num_images)),
            label=np.arange(num_images) % len(CLASSES),
            row=np.arange(0, num_images, step),
            num_views=image.shape[1],
            blocks=in_blocks(values[split], block),
            missing={1: "abgeschnitten — 切れた"} if split == "train" else {},
        )
    return Contents(
        spec=spec,
        classes=CLASSES,
        dim=DIM,
        logit_scale=98.7654321,
        logit_bias=-1.5,
        norm="raw",
        provenance={"dataset": "made up", "draws": [[4, 1]], "seed": seed},
        splits=splits,
        text={"default": text_set()},
    )


@pytest.fixture
def path(home: Path) -> Path:
    """Where the tests put one store."""
    return home / "stores" / "small.h5"


@pytest.fixture
def written(path: Path) -> Path:
    write_store(path, contents(arrays("float16")))
    return path


def temporaries(folder: Path) -> list[str]:
    return [name.name for name in folder.rglob("*") if ".tmp" in name.name]


# --- round trip


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_round_trip_is_bit_for_bit(path: Path, dtype: str) -> None:
    values = arrays(dtype)
    write_store(path, contents(values, spec=replace(SPEC, dtype=dtype)))
    with Store(path) as store:
        assert store.classes == CLASSES
        assert (store.logit_scale, store.logit_bias, store.norm) == (98.7654321, -1.5, "raw")
        assert store.spec == replace(SPEC, dtype=dtype)
        assert store.key == store.spec.key
        assert store.splits == ("train", "val", "test")
        assert (store.dim, store.num_rows("train"), store.num_views("train")) == (DIM, 9, 3)
        assert store.provenance["draws"] == [[4, 1]]
        assert store.missing("train") == {1: "abgeschnitten — 切れた"}
        assert store.missing("test") == {}
        assert store.paths("train")[2] == "train/Ordner ü/002 画像.jpg"
        assert len(store.paths("train")) == len(store.label("train")) == 18
        assert store.rows("train").tolist() == list(range(0, 18, 2))
        for split, expected in values.items():
            for name, array in zip(("image", "crop", "source"), expected, strict=True):
                found = store.array(split, name, slice(None))
                assert (found.dtype, found.shape) == (array.dtype, array.shape)
                assert found.tobytes() == array.tobytes()
        text = store.text("default")
        assert text.digest == text_set().digest
        assert text.templates == ("ein Foto: {}.",)
        assert verify(store) == []


def test_gather_takes_positions_in_any_order(written: Path) -> None:
    image = arrays("float16")["train"][0]
    with Store(written) as store:
        positions = np.array([8, 0, 3, 3, 1])
        np.testing.assert_array_equal(store.gather("train", "image", positions), image[positions])
        assert store.gather("train", "image", np.zeros(0, dtype=np.int64)).shape == (0, 3, DIM)


def test_a_split_may_hold_no_row(path: Path) -> None:
    values = arrays("float16")
    values["val"] = tuple(array[:0] for array in values["val"])  # type: ignore[assignment]
    write_store(path, contents(values))
    with Store(path) as store:
        assert store.num_rows("val") == 0
        assert store.paths("val") == []
        assert verify(store) == []


# --- key and content digest


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, tower=replace(TOWER, activation="gelu")),
        replace(SPEC, tower=replace(TOWER, checkpoint="ab" * 31 + "ac")),
        replace(SPEC, tower=replace(TOWER, precision="bf16")),
        replace(SPEC, tower=replace(TOWER, architecture="RN50")),
        replace(SPEC, transform={"style": "clip", "size": 64}),
        replace(SPEC, transform={"style": "coop", "size": 65}),
        replace(SPEC, view_seed=1),
        replace(SPEC, dtype="float32"),
        replace(SPEC, manifest="ce" * 32),
    ],
)
def test_any_change_of_the_spec_changes_the_key(other: Spec) -> None:
    assert other.key != SPEC.key


def test_the_key_is_a_function_of_the_spec_alone() -> None:
    reordered = replace(SPEC, transform={"size": 64, "style": "coop"})
    assert reordered.key == SPEC.key
    assert Spec.from_json(SPEC.to_json()).key == SPEC.key
    # Written out: a version that makes other keys would orphan every store there is.
    assert SPEC.key == "95ca5d4678212f30a25993864fb4e3bf8975c0a6b3f5b3934774e8d5729fd6ba"


def test_content_digest_is_equal_for_equal_content(home: Path) -> None:
    """Whatever the blocks, the time and the provenance."""
    digests = []
    for index, block in enumerate((1, 4, 100)):
        path = home / f"{index}.h5"
        write_store(path, contents(arrays("float16"), block=block, seed=index))
        with Store(path) as store:
            digests.append(store.content)
    assert len(set(digests)) == 1


def test_content_digest_differs_for_different_content(home: Path) -> None:
    base = contents(arrays("float16"))
    changes: list[Callable[[], Contents]] = [
        lambda: base,
        lambda: contents(arrays("float16", seed=1)),
        lambda: replace(contents(arrays("float16")), logit_scale=98.7),
        lambda: replace(contents(arrays("float16")), classes=(*CLASSES[:3], "dog")),
        lambda: replace(contents(arrays("float16")), text={}),
        lambda: replace(contents(arrays("float16")), norm="unit"),
    ]
    digests = []
    for index, change in enumerate(changes):
        path = home / f"{index}.h5"
        write_store(path, change())
        with Store(path) as store:
            digests.append(store.content)
    assert len(set(digests)) == len(changes)


# --- damage


def everything(path: Path) -> str:
    """All that a store tells a reader."""
    with Store(path) as store:
        told: list[object] = [store.classes, store.spec, store.logit_scale, store.logit_bias, store.norm, store.content]
        told += [store.created, store.versions, store.provenance, [store.text(name).digest for name in store.text_sets]]
        for split in store.splits:
            told += [store.label(split).tolist(), store.paths(split), store.rows(split).tolist(), store.missing(split)]
            told += [store.array(split, name, slice(None)).tobytes() for name in ("image", "crop", "source", "digest")]
    return repr(told)


def test_a_flipped_byte_is_found_or_changes_nothing(written: Path, tmp_path: Path) -> None:
    """At seeded places all over the file: refused on opening, named by `verify`, or without effect (unused bytes)."""
    good, expected = written.read_bytes(), everything(written)
    generator, damaged = random.Random(0), tmp_path / "damaged.h5"
    outcomes = []
    for position in generator.sample(range(len(good)), 40):
        data = bytearray(good)
        data[position] ^= generator.randrange(1, 256)
        damaged.write_bytes(data)
        vouch(damaged)
        try:
            with Store(damaged) as store:
                found = bool(verify(store))
        except StoreError:
            found = True
        outcomes.append(found)
        assert found or everything(damaged) == expected, f"byte {position} changed what is read, unseen"
    assert sum(outcomes) > 20


@pytest.mark.parametrize(
    "name", ["train/image", "test/image", "manifest/train/label", "manifest/test/path", "train/row"]
)
def test_a_flipped_byte_of_an_array_is_found(written: Path, name: str) -> None:
    with h5py.File(written) as file:
        chunk = file[name].id.get_chunk_info(0)
    data = bytearray(written.read_bytes())
    for offset in (0, chunk.size // 2, chunk.size - 5):
        data[chunk.byte_offset + offset] ^= 1
        written.write_bytes(data)
        try:
            with Store(written) as store:
                assert verify(store)
        except StoreError:
            pass
        data[chunk.byte_offset + offset] ^= 1


def test_changed_rows_with_sound_checksums_are_found(written: Path) -> None:
    """Another program rewrote an array through HDF5: its own checksums are sound, ours tell."""
    with h5py.File(written, "r+") as file:
        file["train/image"][3, 1, 0] += 1
    with Store(written) as store:
        assert any("rows differ from their checksum, first train/Ordner ü/006" in problem for problem in verify(store))


def test_a_changed_label_with_sound_checksums_is_found(written: Path) -> None:
    with h5py.File(written, "r+") as file:
        file["manifest/val/label"][0] = 3
    with Store(written) as store:
        assert verify(store) == ["the content digest does not fit the content"]


@pytest.mark.parametrize("keep", [0, 1, 8, 100, 0.3, 0.7, 0.99, -1])
def test_a_truncated_store_is_refused(written: Path, keep: float) -> None:
    data = written.read_bytes()
    length = int(keep * len(data)) if 0 < keep < 1 else int(keep)
    written.write_bytes(data[:length])
    with pytest.raises(StoreError, match=r"small\.h5"), Store(written) as store:
        verify(store)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    text, hdf5, other = tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "c.h5"
    text.write_text("not HDF5")
    with h5py.File(hdf5, "w") as file:
        file["x"] = [1, 2]
    with h5py.File(other, "w") as file:
        file.attrs["format"] = "featcache/99"
    for path in (text, hdf5, other, tmp_path):
        with pytest.raises(StoreError, match=str(path)):
            Store(path)
    with pytest.raises(StoreError, match="there is no store at"):
        Store(tmp_path / "none.h5")


def test_a_store_that_lost_an_array_is_refused(written: Path) -> None:
    with h5py.File(written, "r+") as file:
        del file["test/image"]
    with Store(written) as store, pytest.raises(StoreError, match="damaged or incomplete"):
        store.num_rows("test")


# --- writing


def test_an_interrupted_write_leaves_the_old_store(written: Path) -> None:
    before = written.read_bytes()

    def failing() -> Iterator[Block]:
        yield from list(in_blocks(arrays("float16", seed=1)["train"], 4))[:1]
        raise KeyboardInterrupt

    new = contents(arrays("float16", seed=1))
    new = replace(new, splits={**new.splits, "train": replace(new.splits["train"], blocks=failing())})
    with pytest.raises(KeyboardInterrupt):
        write_store(written, new)
    assert written.read_bytes() == before
    assert temporaries(written.parent) == []


def test_a_reader_keeps_its_snapshot_while_the_store_is_replaced(written: Path) -> None:
    with Store(written) as store:
        write_store(written, contents(arrays("float16", seed=1)))
        np.testing.assert_array_equal(store.array("train", "image", slice(None)), arrays("float16")["train"][0])
    with Store(written) as store:
        np.testing.assert_array_equal(store.array("train", "image", slice(None)), arrays("float16", 1)["train"][0])


def test_what_a_killed_process_left_is_removed(written: Path) -> None:
    """At once where it ran here, after a day where it ran elsewhere; a process that lives keeps its file."""
    with replacing(written) as mine:
        machine, process, started = mine.name.split(".")[-3].split("-")
        mine.write_bytes(written.read_bytes())
        dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
        reused = f"{machine}-{process}-{int(started) - 1}"
        gone = [f"{machine}-{dead.stdout.strip()}-{started}", reused]
        elsewhere = [f"{'0' * 8}-{dead.stdout.strip()}-{started}", f"{'1' * 8}-{process}-{started}"]
        files = [written.with_name(f".other.h5.{writer}.00000000.tmp") for writer in gone + elsewhere]
        for path in files:
            path.write_text("")
        os.utime(files[-1], (0, 0))
        write_store(written.with_name("another.h5"), contents(arrays("float16")))
        assert sorted(temporaries(written.parent)) == sorted([mine.name, files[2].name])


def test_a_folder_that_vanishes_under_a_write_is_one_error(tmp_path: Path) -> None:
    folder = tmp_path / "stores"

    def write() -> None:
        with replacing(folder / "a.h5"):
            folder.rmdir()
            folder.write_bytes(b"in the way")

    with pytest.raises(InputError, match="cannot write"):
        write()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="FEATCACHE_HOME"):
        write_store(store_path("x", SPEC.key), contents(arrays("float16")))


def test_what_float16_cannot_hold_is_refused() -> None:
    for bad in (7e4, 1e-9):
        with pytest.raises(DataError, match="--dtype float32"):
            to_stored(np.full((2, 3), bad, dtype=np.float32), "float16")
        np.testing.assert_array_equal(to_stored(np.full((2, 3), bad, np.float32), "float32"), np.float32(bad))
    for bad in (np.nan, np.inf):
        for dtype in ("float16", "float32"):
            with pytest.raises(DataError, match="not finite"):
                to_stored(np.array([[0, bad]], dtype=np.float32), dtype)
    with pytest.raises(ConfigError, match="float16, float32"):
        to_stored(np.zeros((1, 1), dtype=np.float32), "int8")


def test_embeddings_that_float16_would_blur_are_refused() -> None:
    close = (3 + 1e-3 * np.random.default_rng(0).normal(size=(32, 8))).astype(np.float32)
    with pytest.raises(DataError, match="--dtype float32"):
        check_resolution(close, to_stored(close, "float16"))
    check_resolution(close, to_stored(close, "float32"))
    one_image = np.repeat(close[:2], 16, axis=0)  # the views of two blank images
    check_resolution(one_image, to_stored(one_image, "float16"))


# --- names


@pytest.fixture
def three(home: Path) -> list[Path]:
    """Stores a, b and c with different keys, c the newest."""
    paths = []
    for index, name in enumerate("abc"):
        spec = replace(SPEC, view_seed=index)
        path = store_path(name, spec.key)
        write_store(path, contents(arrays("float16"), spec=spec))
        os.utime(path, ns=(0, 10**9 * (index + 1)))
        paths.append(path)
    return paths


def test_resolve_by_name_prefix_path_and_newest(three: list[Path]) -> None:
    assert list_stores() == three[::-1]
    assert resolve(None) == three[2]
    assert resolve("a") == three[0]
    assert resolve(str(three[1])) == three[1]
    assert resolve(replace(SPEC, view_seed=1).key[:8]) == three[1]
    with pytest.raises(UnknownNameError, match="known: a, b, c"):
        resolve("nope")
    with pytest.raises(StoreError, match="there is no file"):
        resolve("nope.h5")


def test_an_ambiguous_prefix_is_refused(three: list[Path]) -> None:
    copy = three[0].with_name("copy.h5")
    copy.write_bytes(three[0].read_bytes())
    with pytest.raises(InputError, match="fits 2 stores"):
        resolve(SPEC.key[:8])


def test_no_store_at_all_says_how_to_make_one(home: Path) -> None:
    with pytest.raises(InputError, match="featcache extract"):
        resolve(None)


def test_what_is_no_store_file_is_passed_over(three: list[Path]) -> None:
    folder = three[0].parent
    (folder / "link.h5").symlink_to(folder / "gone")
    (folder / "folder.h5").mkdir()
    (folder / ".hidden.h5").write_text("")
    assert list_stores() == three[::-1]


def test_a_name_clash_makes_another_file(three: list[Path]) -> None:
    other = replace(SPEC, view_seed=77)
    assert store_path("a", SPEC.key) == three[0]
    assert store_path("a", other.key).name == f"a-{other.key[:8]}.h5"


def test_a_file_that_does_not_read_is_never_overwritten(three: list[Path]) -> None:
    three[0].write_bytes(three[0].read_bytes()[:2000])
    with pytest.raises(StoreError, match="featcache cache rm a"):
        store_path("a", SPEC.key)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".a", "a.h5", "a b", "ä", "a" * 200, "a\n", "-a"])
def test_names_that_cannot_be_files_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a store"):
        check_name(name)


def test_home_defaults_to_the_platforms_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEATCACHE_HOME", raising=False)
    assert store_places.home().name == "featcache"


# --- diff


def test_diff_of_equal_stores_is_empty(home: Path) -> None:
    for name in "ab":
        write_store(home / f"{name}.h5", contents(arrays("float16")))
    with Store(home / "a.h5") as a, Store(home / "b.h5") as b:
        assert diff(a, b) == []


def test_diff_names_what_differs(home: Path) -> None:
    write_store(home / "a.h5", contents(arrays("float16")))
    values = arrays("float16")
    values["test"][0][2] += 1  # type: ignore[misc]
    other = contents(values, spec=replace(SPEC, tower=replace(TOWER, activation="gelu")))
    write_store(home / "b.h5", replace(other, text={}, logit_scale=50.0))
    with Store(home / "a.h5") as a, Store(home / "b.h5") as b:
        found = {what: (first, second) for what, first, second in diff(a, b)}
    assert found["tower.activation"] == ("quickgelu", "gelu")
    assert found["logit_scale"] == ("98.7654", "50")
    assert found["text set default"][1] == "absent"
    assert found["test view 0"][0] == "1 of 6 common rows differ"
    assert "train view 0" not in found


def test_diff_sees_a_change_in_an_augmented_view(home: Path) -> None:
    write_store(home / "a.h5", contents(arrays("float16")))
    values = arrays("float16")
    values["train"][0][2, 1] += 1  # type: ignore[misc]
    write_store(home / "b.h5", contents(values))
    with Store(home / "a.h5") as a, Store(home / "b.h5") as b:
        assert [what for what, _, _ in diff(a, b)] == ["content digest"]

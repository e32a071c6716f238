"""Stores whose embeddings stay in the files of parts: the same content, the same promises."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache.errors import ConfigError, StoreError
from featcache.extraction import assemble, shards
from featcache.store import Store, virtual
from featcache.store.checking import verify
from featcache.store.places import resolve
from featcache.store.virtual import Run, merged, parts_beside
from tests.commandline import Run as RunCommand
from tests.test_extraction import FULL, Done, content, extract, parts_of

VIRTUAL = replace(FULL, layout="virtual")


@pytest.fixture(scope="module")
def made(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, Path]]:
    """A cache folder with a virtual store called `pictures`, the content of the whole one, and the images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_VIEWS", 20)
        folder = tmp_path_factory.mktemp("virtual")
        patch.setenv("FEATCACHE_HOME", str(folder / "whole"))
        whole = content(extract(pictures))
        patch.setenv("FEATCACHE_HOME", str(folder / "home"))
        extract(pictures, replace(VIRTUAL, name="pictures"))
        yield folder / "home", whole, pictures


@pytest.fixture
def store(made: tuple[Path, str, Path], home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That store once more, to be changed; shards stay small."""
    monkeypatch.setattr(shards, "SHARD_VIEWS", 20)
    shutil.copytree(made[0], home)
    return resolve("pictures")


def again(pictures: Path, **changed: object) -> Done:
    return extract(pictures, replace(FULL, name="pictures", **changed))  # type: ignore[arg-type]


def everything(store: Store) -> dict[str, NDArray[np.generic]]:
    return {split: store.array(split, "image", slice(None)) for split in store.splits}


def test_it_holds_what_a_store_in_one_file_holds(store: Path, made: tuple[Path, str, Path]) -> None:
    with Store(store) as opened, h5py.File(store, locking=False) as file:
        assert opened.content == made[1]
        assert verify(opened) == []
        assert opened.layout == "virtual"
        assert all(file[split]["image"].is_virtual for split in opened.splits)
        assert len(opened.files) >= 5
    assert {path.name for path in parts_beside(store).iterdir()} == {Path(name).name for name in opened.files}
    assert not (store.parents[1] / "parts").exists() or not list((store.parents[1] / "parts").iterdir())


def test_what_is_read_of_it_is_what_is_read_of_one_file(
    store: Path, made: tuple[Path, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = next((made[0].parent / "whole" / "stores").glob("*.h5"))
    monkeypatch.chdir("/")
    with Store(store) as ours, Store(whole) as theirs:
        for split in ours.splits:
            positions = np.random.default_rng(0).permutation(ours.num_rows(split))
            for name in ("image", "crop", "source", "digest"):
                np.testing.assert_array_equal(
                    ours.gather(split, name, positions), theirs.gather(split, name, positions)
                )
                np.testing.assert_array_equal(
                    ours.array(split, name, slice(2, 5)), theirs.array(split, name, slice(2, 5))
                )


def test_a_second_extract_finds_it_complete(store: Path, pictures: Path) -> None:
    assert again(pictures).plan.complete
    assert again(pictures, layout="virtual").plan.complete


def test_it_grows_and_stays_as_it_is(store: Path, pictures: Path, home: Path) -> None:
    with Store(store) as snapshot:
        before = everything(snapshot)
        more = again(pictures, shots=(8,), num_views=3)
        assert more.plan.layout == "virtual"
        assert more.encoded > 0
        after = everything(snapshot)  # a reader keeps what it opened
    assert all((after[split] == values).all() for split, values in before.items())
    grown = content(more)
    with Store(store) as opened:
        assert opened.layout == "virtual"
        assert opened.num_views("train") == 4
    shutil.rmtree(home)
    again(pictures, num_views=3)
    assert content(again(pictures, shots=(8,), num_views=3)) == grown  # what one file comes to


def test_a_split_in_too_many_pieces_is_written_whole(
    store: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "MOST_RUNS", 12)
    more = again(pictures, shots=(8,), num_views=3)
    with Store(more.plan.store) as opened, h5py.File(more.plan.store, locking=False) as file:
        assert verify(opened) == []
        assert not file["train/image"].is_virtual
        assert file["test/image"].is_virtual
    later = again(pictures, all_train=True)  # rows that lie in the store itself stay there
    assert content(later)


def test_it_can_be_made_one_file_but_not_the_other_way(store: Path, made: tuple[Path, str, Path]) -> None:
    one = again(made[2], layout="whole")
    assert one.encoded == 0
    assert content(one) == made[1]
    with Store(store) as opened:
        assert opened.layout == "whole"
    again(made[2])
    with pytest.raises(ConfigError, match="one file already"):
        again(made[2], layout="virtual")


def test_a_killed_conversion_or_extension_leaves_it_sound(
    store: Path, made: tuple[Path, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(assemble, "write_store", fail)
    with pytest.raises(KeyboardInterrupt):
        again(made[2], shots=(8,))
    with Store(store) as opened:
        assert (opened.content, verify(opened)) == (made[1], [])
    monkeypatch.undo()


def test_prompts_are_added_without_touching_it(store: Path, run: RunCommand) -> None:
    before = {path.name: path.stat().st_ino for path in parts_beside(store).iterdir()}
    said = run("prompts", "add", "pictures", "paper-7")
    assert said.code == 0, said.err
    assert {path.name: path.stat().st_ino for path in parts_beside(store).iterdir()} == before
    with Store(store) as opened:
        assert opened.layout == "virtual"
        assert verify(opened) == []
        assert "paper-7" in opened.text_sets


def test_a_file_that_is_gone_is_named_and_mended(
    run: RunCommand, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_VIEWS", 20)
    options = "--backbone tiny --weights random:0 --shots 1,4 --seeds 1,2 --views 2 --workers 0 --name pictures"
    said = run("extract", "--dataset", f"folder:{pictures}", *options.split(), "--layout", "virtual")
    assert said.code == 0, said.err
    store = resolve("pictures")
    with Store(store) as opened:
        before = opened.content
    victim = sorted(parts_beside(store).iterdir())[3]
    victim.unlink()
    with Store(store) as opened:
        assert verify(opened)
        with pytest.raises(StoreError, match="is gone or does not open"):
            everything(opened)
    assert run("cache", "verify", "pictures").code == 2
    said = run("cache", "repair", "pictures", "--workers", "0")
    assert said.code == 0, said.err
    with Store(store) as opened:
        assert (opened.content, verify(opened), opened.layout) == (before, [], "virtual")


def test_no_flipped_byte_of_its_files_is_read_as_a_number(store: Path, made: tuple[Path, str, Path]) -> None:
    generator = random.Random(0)
    victim = sorted(parts_beside(store).iterdir())[1]
    sound = victim.read_bytes()
    with Store(store) as opened:
        right = everything(opened)
    refused = 0
    for position in generator.sample(range(len(sound)), 150):
        broken = bytearray(sound)
        broken[position] ^= generator.randrange(1, 256)
        victim.write_bytes(broken)
        with Store(store) as opened:
            try:
                found = everything(opened)
                assert all((found[split] == values).all() for split, values in right.items())
            except StoreError:
                refused += 1
    assert refused > 30
    for length in generator.sample(range(len(sound) - 32), 20):  # the last 32 bytes are the part's own checksum
        victim.write_bytes(sound[:length])
        with Store(store) as opened, pytest.raises(StoreError):
            everything(opened)


def test_files_elsewhere_on_the_machine_are_refused(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "secret.h5"
    with h5py.File(other, "w") as file:
        file["image"] = np.ones((10, 3), np.float16)
    with h5py.File(store, "r+") as file:
        shape, dtype = file["val/image"].shape, file["val/image"].dtype
        del file["val/image"]
        layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
        layout[0, 0, :3] = h5py.VirtualSource(str(other), "image", shape=(10, 3), dtype=dtype)[0]
        file["val"].create_virtual_dataset("image", layout)
    with pytest.raises(StoreError), Store(store) as opened:
        opened.array("val", "image", slice(None))


def test_it_is_pushed_as_one_file_and_removed_whole(store: Path, run: RunCommand, made: tuple[Path, str, Path]) -> None:
    pytest.importorskip("fsspec")
    said = run("cache", "push", "pictures", "memory://sent")
    assert said.code == 0, said.err
    assert run("cache", "pull", "memory://sent/pictures.h5", "--name", "one").code == 0
    with Store(resolve("one")) as opened:
        assert (opened.content, opened.layout) == (made[1], "whole")
    assert run("cache", "rm", "pictures", "--yes").code == 0
    assert not parts_beside(store).exists()
    assert [path.name for path in store.parent.iterdir()] == ["one.h5"]


def test_a_disk_without_hard_links_gets_copies(
    home: Path, pictures: Path, made: tuple[Path, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "not here")

    monkeypatch.setattr(virtual.os, "link", refuse)
    done = extract(pictures, VIRTUAL)
    assert content(done) == made[1]
    assert parts_of(done.plan) == []


@given(
    num_views=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    joined=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_runs_come_back_as_they_were_written(num_views: int, sizes: list[int], joined: list[bool]) -> None:
    total = -(-sum(sizes) // num_views) * num_views
    runs, at = [], 0
    for index, size in enumerate([*sizes, total - sum(sizes)]):
        if size:
            name = "x" if index and index < 8 and joined[index] else f"{index}"
            runs.append(Run(f"s.parts/{ord(name[0]):x}{index}.part", 3 * index, at, size))
            at += size
    with h5py.File("runs.h5", "w", driver="core", backing_store=False) as file:
        virtual.create(file.create_group("g"), (total // num_views, num_views, 5), "float16", runs)
        assert list(merged(virtual.runs_of(file["g/image"]))) == list(merged(runs))


def test_runs_that_continue_one_another_are_one() -> None:
    pieces = [Run("a", 0, 0, 2), Run("a", 2, 2, 1), Run("b", 3, 3, 1), Run("a", 4, 4, 1)]
    assert list(merged(pieces)) == [Run("a", 0, 0, 3), Run("b", 3, 3, 1), Run("a", 4, 4, 1)]

"""Lists kept out of memory: what a tuple gives, in constant memory, and a disk that has no room for them."""

from __future__ import annotations

import copy
import json
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from featcache import spilled
from featcache.datasets import FileReader, Manifest
from featcache.datasets.manifest import Split, split_of
from featcache.errors import DataError
from featcache.extraction.held import Held, Missing
from featcache.extraction.shards import Shards
from featcache.spilled import BLOCK, Paths, Spill

SIZES = (0, 1, 7, BLOCK, BLOCK + 1, 3 * BLOCK)


def texts(count: int) -> list[str]:
    return [f"Klasse é{index % 7}/{'x' * (index % 5)}{index}.jpg" for index in range(count)]


@pytest.mark.parametrize("count", SIZES)
def test_paths_are_what_a_tuple_of_them_is(count: int) -> None:
    expected = tuple(texts(count))
    paths = Paths(iter(expected))
    assert (len(paths), tuple(paths)) == (count, expected)
    assert paths == expected
    assert expected == paths
    assert paths[1:-1:2] == expected[1:-1:2]
    for index in (0, count // 2, -1) if count else ():
        assert paths[index] == expected[index]
    for beyond in (count, -count - 1):
        with pytest.raises(IndexError):
            paths[beyond]
    assert paths != (*expected, "one more")
    assert paths != "text"


def test_paths_go_to_another_process_as_texts() -> None:
    paths = Paths(texts(10))
    assert copy.copy(paths) == paths  # by way of what a spawned process is sent


@pytest.mark.parametrize("count", SIZES)
def test_numbers_come_back_as_they_went(count: int) -> None:
    numbers = spilled.spilled((np.full(3, index) for index in range(count // 3)), np.int32)
    np.testing.assert_array_equal(numbers, np.repeat(np.arange(count // 3), 3))
    assert numbers.dtype == np.int32
    np.testing.assert_array_equal(spilled.ascending(count), np.arange(count))


@pytest.mark.parametrize("count", [10, 10 * BLOCK])
def test_only_what_is_made_to_be_written_to_can_be(count: int) -> None:
    counts = spilled.zeros(count, np.int32)
    counts[[0, count - 1]] = 5
    assert (counts.sum(), counts[-1]) == (10, 5)
    with pytest.raises(ValueError, match="read-only"):
        spilled.ascending(count)[0] = 1


@pytest.mark.parametrize("count", [0, 3, BLOCK, 2 * BLOCK + 1])
def test_a_manifests_digest_is_that_of_its_json(count: int) -> None:
    splits = {
        "train": split_of((f'a "{path}"', 1) for path in texts(5)),
        "test": split_of((p, 7) for p in texts(count)),
    }
    content = ["own", *([name, list(split.path), split.label.tolist()] for name, split in sorted(splits.items()))]
    expected = sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
    assert manifest(splits).digest == expected


def test_an_images_views_stay_together_where_a_block_ends() -> None:
    views = 3  # which do not fill a block evenly
    missing = Missing(np.repeat(np.arange(BLOCK), views), np.tile(np.arange(views), BLOCK))
    np.testing.assert_array_equal(np.concatenate(list(missing.begins())), views * np.arange(BLOCK))


def test_a_disk_without_room_is_named() -> None:
    with files_of_at_most(BLOCK), pytest.raises(DataError, match=r"the list of images does not go into .*TMPDIR"):
        Paths(texts(10 * BLOCK))
    with files_of_at_most(BLOCK), Spill(np.int64) as spill, pytest.raises(DataError, match="make room there"):
        spill.add(np.arange(10 * BLOCK))


def test_the_memory_of_a_list_does_not_grow_with_it() -> None:
    small, large = (traced_peak(count) for count in (20_000, 200_000))
    assert large < small + 500_000  # bytes: the 180,000 further paths alone would take over 12,000,000


def traced_peak(count: int) -> int:
    """The most bytes that Python and numpy hold while a data set's list is read, planned and cut into shards."""
    tracemalloc.start()
    try:
        listed = manifest({"test": split_of((f"{index:09d}.png", index % 10) for index in range(count))})
        missing = {"test": Held(listed, "test").missing(spilled.ascending(count), 1)}
        shards = Shards(missing, listed)
        assert (len(shards), shards[count - 1].path) == (count, f"{count - 1:09d}.png")
        assert listed.digest
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def manifest(splits: dict[str, Split]) -> Manifest:
    reader = FileReader(Path())
    return Manifest(name="own", classes=("a", "b"), template="{}", splits=splits, source="here", reader=reader)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to let a file of this process grow further, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

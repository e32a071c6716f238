"""The draws are CoOp's, in content and order, and a pure function of labels, shots and seed."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import ConfigError, DataError
from featcache.fewshot import draw
from featcache.spilled import BLOCK

SPLIT_FILES = {
    "caltech101": ("caltech-101", "Caltech101"),
    "dtd": ("dtd", "DescribableTextures"),
    "eurosat": ("eurosat", "EuroSAT"),
}

labels = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array)
shots_of = st.integers(1, 9)
seeds = st.integers(0, 1000)


@pytest.mark.parametrize("dataset", SPLIT_FILES)
def test_draws_are_those_of_coop(real_data: Path, dataset: str) -> None:
    folder, name = SPLIT_FILES[dataset]
    splits = json.loads((real_data / "images" / folder / f"split_zhou_{name}.full.json").read_text())
    label = {split: np.array([item[1] for item in items]) for split, items in splits.items()}
    references = sorted((real_data / "splits" / "coop_fewshot" / dataset).glob("*.json"))
    assert len(references) == 15
    for file in references:
        shots, seed = (int(part.split("_")[1]) for part in file.stem.split("-"))
        ours = draw(label["train"], label["val"], shots=shots, shot_seed=seed)
        reference = json.loads(file.read_text())
        for split, rows in (("train", ours.train), ("val", ours.val)):
            drawn = [splits[split][row] for row in rows]
            listed = reference[split]["data"]
            assert [item[1] for item in drawn] == [item["label"] for item in listed], file
            # A reference path goes on below the data set's image folder.
            pairs = zip(drawn, listed, strict=True)
            assert all(item["impath"].endswith("/" + path) for (path, _, _), item in pairs), file


def test_classes_come_in_order_of_first_appearance_and_small_ones_whole() -> None:
    label = np.array([2, 2, 0, 2, 1, 1, 2, 1])
    ours = draw(label, None, shots=3, shot_seed=1)
    assert label[ours.train].tolist() == [2, 2, 2, 0, 1, 1, 1]
    assert ours.short_classes == ((0, 1),)
    assert ours.val_split == "train"
    assert label[ours.val].tolist() == [2]  # what is left, though min(shots, 4) were asked


def test_exactly_enough_images_are_still_sampled() -> None:
    label = np.zeros(16, dtype=np.int64)
    ours = draw(label, None, shots=16, shot_seed=1)
    assert ours.train.tolist() == random.Random(1).sample(range(16), 16)
    assert (ours.val_split, ours.val.size, ours.short_classes) == ("", 0, ())


def test_holdout_goes_on_with_the_generator() -> None:
    ours = draw(np.zeros(10, dtype=np.int64), None, shots=2, shot_seed=5)
    generator = random.Random(5)
    train = generator.sample(range(10), 2)
    val = generator.sample([row for row in range(10) if row not in train], 2)
    assert (ours.train.tolist(), ours.val.tolist()) == (train, val)


def test_empty_val_counts_as_absent() -> None:
    label = np.arange(12) % 3
    with_none = draw(label, None, shots=2, shot_seed=1)
    assert draw(label, np.array([], dtype=np.int64), shots=2, shot_seed=1).digest == with_none.digest


@given(train=labels, val=labels, shots=shots_of, seed=seeds)
def test_properties_with_val(train: np.ndarray, val: np.ndarray, shots: int, seed: int) -> None:
    ours = draw(train, val, shots=shots, shot_seed=seed)
    assert ours.val_split == "val"
    _check_sample(train, ours.train, shots)
    _check_sample(val, ours.val, min(shots, 4))


@given(train=labels, shots=shots_of, seed=seeds)
def test_properties_without_val(train: np.ndarray, shots: int, seed: int) -> None:
    ours = draw(train, None, shots=shots, shot_seed=seed)
    assert not set(ours.train) & set(ours.val)
    _check_sample(train, ours.train, shots)
    left = np.setdiff1d(np.arange(len(train)), ours.train)
    assert set(ours.val) <= set(left)
    _check_sample(train[left], np.searchsorted(left, ours.val), min(shots, 4))


@given(train=labels, shots=shots_of, seed=seeds)
def test_pure_function(train: np.ndarray, shots: int, seed: int) -> None:
    before, state = train.copy(), random.getstate()
    first = draw(train, None, shots=shots, shot_seed=seed)
    assert random.getstate() == state
    random.seed(seed + 1)
    second = draw(train, None, shots=shots, shot_seed=seed)
    assert first.digest == second.digest
    assert first.digest != draw(train, None, shots=shots, shot_seed=seed + 1).digest
    np.testing.assert_array_equal(train, before)


@pytest.mark.parametrize("with_val", [True, False])
def test_labels_of_many_blocks_give_what_plain_lists_give(with_val: bool) -> None:
    generator = np.random.default_rng(0)
    train = generator.choice([7, -2, 300, 5], p=[0.5, 0.4, 0.0999, 0.0001], size=3 * BLOCK + 5)
    val = generator.integers(0, 9, BLOCK + 1)
    rows = _rows_by_class(train)
    coop = random.Random(3)
    drawn = {index: coop.sample(of, 16) if len(of) >= 16 else of for index, of in rows.items()}
    pool = _rows_by_class(val) if with_val else {c: [row for row in rows[c] if row not in drawn[c]] for c in rows}
    held_out = [row for of in pool.values() for row in (coop.sample(of, 4) if len(of) >= 4 else of)]
    ours = draw(train, val if with_val else None, shots=16, shot_seed=3)
    assert ours.train.tolist() == [row for of in drawn.values() for row in of]
    assert ours.val.tolist() == held_out
    assert ours.short_classes == tuple((index, len(of)) for index, of in sorted(rows.items()) if len(of) < 16)
    assert ours.short_classes  # one class is rare


def test_memory_of_a_draw_does_not_grow_with_the_images() -> None:
    def peak(blocks: int) -> int:
        label = np.arange(blocks * BLOCK) % 10
        tracemalloc.start()
        try:
            draw(label, None, shots=16, shot_seed=1)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # what is imported and cached the first time
    assert peak(40) < 1.1 * peak(4)


@pytest.mark.parametrize("dtype", ["int8", "uint8", ">i4", "uint64"])
def test_labels_of_any_integer_type(dtype: str) -> None:
    """uint64 holds numbers that float64, NumPy's common type of it and int64, runs together."""
    label = np.arange(40) % 3
    large = label.astype(dtype) + np.array(2**63 if dtype == "uint64" else 100, dtype=dtype)
    assert (
        draw(large, None, shots=4, shot_seed=1).train.tolist() == draw(label, None, shots=4, shot_seed=1).train.tolist()
    )


def test_digest_is_golden() -> None:
    ours = draw(np.arange(40) % 4, np.arange(20) % 4, shots=4, shot_seed=2)
    assert ours.digest == "08525436b6b09f77e7dc8d479f3acb3e5a79bca2252d824793928b84a6d706d7"


def test_faults() -> None:
    label = np.zeros(3, dtype=np.int64)
    with pytest.raises(ConfigError, match="shots = 0"):
        draw(label, None, shots=0, shot_seed=1)
    with pytest.raises(ConfigError, match="seed = -1"):
        draw(label, None, shots=1, shot_seed=-1)
    with pytest.raises(DataError, match="float64"):
        draw(np.zeros(3), None, shots=1, shot_seed=1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="val labels"):
        draw(label, np.zeros((3, 1), dtype=np.int64), shots=1, shot_seed=1)


def _check_sample(label: np.ndarray, rows: np.ndarray, shots: int) -> None:
    """No row twice, and of every class min(shots, what it has)."""
    assert len(set(rows.tolist())) == len(rows)
    expected = {index: min(shots, count) for index, count in Counter(label.tolist()).items()}
    assert Counter(label[rows].tolist()) == expected


def _rows_by_class(label: np.ndarray) -> dict[int, list[int]]:
    """Rows of each class, classes in order of first appearance: as CoOp groups them."""
    rows: dict[int, list[int]] = {}
    for row, index in enumerate(label.tolist()):
        rows.setdefault(index, []).append(row)
    return rows

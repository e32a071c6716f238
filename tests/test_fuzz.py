"""The short form of tests/fuzz.py: some seeded inputs of each reader, in this process."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from pathlib import Path

import pytest

from featcache.errors import DataError
from tests import fuzz, fuzz_readers
from tests.fuzz_inputs import mutated

INPUTS = 40
NEEDS = {"mat": "scipy", "parquet": "pyarrow"}


@pytest.mark.parametrize("name", fuzz_readers.READERS)
def test_a_hostile_file_is_refused_or_read(home: Path, tmp_path: Path, name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    folder = tmp_path / "inputs"
    folder.mkdir()
    reader = fuzz_readers.READERS[name](folder)
    for seed in reader.seeds[:1]:
        reader.file.write_bytes(seed)
        reader.read()  # what is not spoilt reads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about what is not as it should be
        ended = [fuzz.outcome_of(reader, random.Random(f"0 {name} {number}")) for number in range(INPUTS)]
    wrong = [f"input {number}: {outcome}" for number, outcome in enumerate(ended) if outcome not in ("refused", "read")]
    assert not wrong, "\n".join(wrong)
    assert Counter(ended)["refused"] >= INPUTS // 5, "the inputs are hostile indeed"


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    def read() -> None:
        raise {b"own": DataError("refused"), b"not": KeyError("x")}[file.read_bytes()]

    file = tmp_path / "x"
    ended = {
        seed: fuzz.outcome_of(
            fuzz_readers.Reader(file, read, seeds=[seed], spoil=lambda data, _: data), random.Random(0)
        )
        for seed in (b"own", b"not")
    }
    assert ended[b"own"] == "refused"
    assert ended[b"not"].startswith("RAISES: KeyError 'x' at ")


def test_inputs_are_a_function_of_their_seed() -> None:
    data = bytes(range(256)) * 4
    made = [[mutated(data, random.Random(seed)) for seed in range(50)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 45

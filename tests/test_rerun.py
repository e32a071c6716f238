"""A result made again from its row alone."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from featcache import results
from featcache.errors import InputError
from featcache.rerunning import rerun
from featcache.store.places import list_stores, results_path
from tests import synthetic
from tests.commandline import Run
from tests.test_shift import make

QUICK = ("--shots", "4", "--seeds", "1,2", "--epochs", "3", "--lr", "0.02")
MANY = (
    ("clip_adapter", "--grid", "alpha=0.2,0.8", "--grid", "reduction=2,4", *QUICK),
    ("clip_adapter", "--post-hoc-alpha", "0,0.5", "--init-seeds", "3,4", *QUICK),
    ("clip_adapter", "--alpha-grid", "0.3", "--select", "fixed", "--classes", "base", *QUICK),
    ("tip_adapter", "--grid", "alpha=1,2", "--grid", "beta=1,5", "--choose", "pooled", *QUICK[:4]),
    ("linear_probe", "--grid", "c=0.1,1", "--select", "cross-validation", *QUICK[:4]),
    ("taskres", "--grid", "lr=0.01,0.1", *QUICK[:6]),
)


@pytest.fixture
def toy(run: Run, tmp_path: Path) -> Run:
    file = synthetic.save(tmp_path / "toy.npz", synthetic.arrays())
    assert run("import", file, "--name", "toy").code == 0
    return run


def change(statement: str) -> None:
    with sqlite3.connect(results_path()) as database:
        database.execute(statement)


@pytest.mark.parametrize("arguments", MANY, ids=lambda arguments: " ".join(arguments[:3]))
def test_on_the_same_machine_every_bit_is_the_same(toy: Run, arguments: tuple[str, ...]) -> None:
    made = toy("fit", "--adapter", *arguments)
    assert made.code == 0, made.err
    again = toy("rerun", "1")
    assert again.code == 0, again.err
    assert "result 1 again: bit-equal" in again.out
    assert len(results.summaries(results_path())) == 1


def test_neither_the_store_s_name_nor_defaults_are_asked(toy: Run) -> None:
    toy("fit", *QUICK)
    toy("import", results_path().parent.parent / "toy.npz", "--name", "newer")
    change("UPDATE search SET command = '[]', store = 'renamed'")
    assert "bit-equal" in toy("rerun", "1").out


def test_what_differs_is_counted_and_named(toy: Run) -> None:
    toy("fit", *QUICK, "--alpha-grid", "0,1")
    change("UPDATE run SET test_loss = test_loss + 1e-9 WHERE id = 1")
    said = toy("rerun", "1")
    assert said.code == 0
    assert "within one item; 1 of 4 runs are not bit-equal" in said.out
    change("UPDATE run SET test_accuracy = test_accuracy - 3.0 / test_rows WHERE id = 2")
    change("""UPDATE search SET versions = '{"torch": "1.0"}', machine = '{"threads": 99}', device = 'cpu'""")
    said = toy("rerun", "1", "--json")
    told = json.loads(said.out)
    assert said.code == 1
    assert (told["verdict"], told["unequal_runs"], told["most_items"]) == ("different", 2, 3)
    assert any(change.startswith("torch 1.0 then") for change in told["changes"])
    assert any(change.startswith("threads 99 then") for change in told["changes"])


def test_another_prediction_is_seen_though_accuracies_agree(toy: Run) -> None:
    toy("fit", *QUICK, "--alpha-grid", "0,1")
    change(
        "UPDATE prediction SET confidence = zeroblob(length(confidence)) WHERE run IN (SELECT min(run) FROM prediction)"
    )
    assert "1 of 4 runs are not bit-equal" in toy("rerun", "1").out


def test_the_stores_that_it_was_also_tested_on_are_compared(run: Run, home: Path) -> None:
    other = make(home, "other").path
    make(home, "toy")
    made = run("fit", "toy", *QUICK, "--alpha-grid", "0.6", "--select", "fixed", "--also", "other,new")
    assert made.code == 0, made.err
    assert "result 1 again: bit-equal" in run("rerun", "1").out
    change("UPDATE shifted SET test_loss = test_loss + 1e-9 WHERE store = 'other' AND run = 1")
    assert "within one item; 1 of 2 runs are not bit-equal" in run("rerun", "1").out
    change("UPDATE shifted SET test_accuracy = test_accuracy - 2.0 / test_rows WHERE classes = 'new' AND run = 2")
    told = json.loads(run("rerun", "1", "--json").out)
    assert (told["unequal_runs"], told["most_items"]) == (2, 2)
    other.unlink()
    said = run("rerun", "1", "--json")
    assert json.loads(said.out)["changes"] == ["other, which it was also tested on, is gone and left out"]
    assert json.loads(said.out)["unequal_runs"] == 1


def test_what_cannot_be_made_again_says_why(toy: Run) -> None:
    toy("fit", *QUICK, "--alpha-grid", "0,1")
    list_stores()[0].unlink()
    said = toy("rerun", "1")
    assert said.code == 2
    assert "the store of result 1, toy (key " in said.err
    change("UPDATE search SET settings = '{}'")
    assert "before settings were kept" in toy("rerun", "1").err
    assert toy("rerun", "7").code == 2
    with pytest.raises(InputError, match="before settings"):
        rerun(results_path(), 1)

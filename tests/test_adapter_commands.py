"""`featcache adapters`, and methods in a folder of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from featcache import registry
from tests import synthetic, test_methods
from tests.commandline import Run

QUICK = ("--epochs", "2", "--shots", "2", "--seeds", "1", "--json")


@pytest.fixture
def toy(run: Run, tmp_path: Path) -> str:
    assert run("import", synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), "--name", "toy").code == 0
    return "toy"


def test_every_method_is_listed_with_its_paper(run: Run) -> None:
    said = run("adapters", "ls")
    assert said.code == 0, said.err
    assert all(name in said.out for name in registry.known())


@pytest.mark.parametrize("name", sorted(registry.known()))
def test_a_methods_fields_are_explained(run: Run, name: str) -> None:
    said = run("adapters", "info", name)
    assert said.code == 0, said.err
    assert "arXiv" in said.out
    assert "views" in said.out


def test_a_new_file_passes_the_contract_suite_and_fits(run: Run, toy: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert "wrote" in run("adapters", "new", "my_map", "--adapters-dir", folder).out
    registry.add_folder(folder)
    task = synthetic.task()
    test_methods.test_a_method_says_what_it_is("my_map")
    for check in (
        test_methods.test_logits_have_a_score_for_each_class_and_are_finite_on_a_row_of_zeros,
        test_methods.test_what_a_method_is_given_stays_as_it_is,
        test_methods.test_the_engines_own_look_finds_nothing,
        test_methods.test_stacked_equals_one_by_one,
        test_methods.test_alpha_zero_is_zero_shot_where_a_method_says_so,
        test_methods.test_what_transfers_classifies_other_classes_by_their_text,
        test_methods.test_permuting_the_classes_permutes_the_logits,
        test_methods.test_blocks_do_not_change_a_prediction,
    ):
        check("my_map", task)
    for value in (float("nan"), float("inf"), float("-inf")):
        test_methods.test_no_float_field_takes_what_is_no_number("my_map", "alpha", value)
    said = run("fit", toy, "--adapter", "my_map,zero_shot", "--adapters-dir", folder, *QUICK)
    assert said.code == 0, said.err
    first, second = json.loads(said.out)
    assert (first["adapter"], len(first["runs"]), second["adapter"]) == ("my_map", 11, "zero_shot")
    assert first["runs"][0]["test"] == second["runs"][0]["test"]  # alpha 0 is zero-shot
    assert "is there already" in run("adapters", "new", "my_map", "--adapters-dir", folder).err


def test_a_users_method_wins_over_ours_of_the_same_name(tmp_path: Path, run: Run) -> None:
    assert run("adapters", "new", "zero_shot", "--adapters-dir", tmp_path / "mine").code == 0
    registry.add_folder(tmp_path / "mine")
    assert registry.load("zero_shot").__name__ == "ZeroShot"
    assert registry.known()["zero_shot"].parent == tmp_path / "mine"
    assert hasattr(registry.load("zero_shot"), "init")


@pytest.mark.parametrize("name", ["", "Upper", "a b", "../a", "1a", "a" * 80])
def test_names_that_cannot_be_files_are_refused(run: Run, tmp_path: Path, name: str) -> None:
    said = run("adapters", "new", name, "--adapters-dir", tmp_path / "mine")
    assert (said.code, "cannot name a method" in said.err) == (2, True)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('no')\n", "cannot be loaded (RuntimeError: no)"),
        ("def (\n", "cannot be loaded (SyntaxError"),
        ("x = 1\n", "holds 0 methods"),
        (
            "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass A:\n    needs = frozenset()\n"
            "    def solve(self, task, hyper): return {}\n    def logits(self, *a): return None\n",
            "does not state transfers, views, post_hoc, grid",
        ),
    ],
)
def test_faulty_files_end_in_one_message(run: Run, toy: str, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "bad.py").write_text(text)
    said = run("fit", toy, "--adapter", "bad", "--adapters-dir", tmp_path / "mine", *QUICK)
    assert said.code == 2
    assert says in " ".join(said.err.split())
    assert "Traceback" not in said.err


def test_an_absent_folder_is_named(run: Run, toy: str, tmp_path: Path) -> None:
    assert "no folder" in run("fit", toy, "--adapters-dir", tmp_path / "none", *QUICK).err

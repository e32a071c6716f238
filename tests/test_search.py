"""Grids, protocols, honest selection, results: from a store to a recorded choice."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache import grids, recipes, reporting, results
from featcache.errors import ConfigError, MissingRowsError, UnknownNameError
from featcache.importing import import_npz
from featcache.loading import data_set
from featcache.recipes import Recipe
from featcache.results.recording import Recorder
from featcache.search import Outcome, Settings, search
from featcache.selection import Score, choose
from featcache.store import Store
from tests import synthetic


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATCACHE_HOME", str(tmp_path / "home"))
    return tmp_path


def _recipe(shots: int) -> Recipe:
    return replace(recipes.make("coop", shots=shots, dataset="any"), epochs=5, lr=0.02)


def _store(home: Path, name: str = "toy", **counts: int) -> Store:
    file = synthetic.save(home / f"{name}.npz", synthetic.arrays(**counts))
    return Store(import_npz(file, name=name))


def _search(store: Store, grid: str = "0:1:0.25", **settings: object) -> Outcome:
    chosen = Settings(adapter="clip_adapter", grid={"alpha": grids.parse(grid)}, **settings)  # type: ignore[arg-type]
    return search(store, chosen, _recipe)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0:1:0.1", tuple(index / 10 for index in range(11))),
        ("0:1:0.3", (0.0, 0.3, 0.6, 0.9)),
        ("0.5", (0.5,)),
        ("0.2, 0.6", (0.2, 0.6)),
        ("0.5:0.5:0.1", (0.5,)),
    ],
)
def test_grids_are_the_decimals_as_typed(text: str, values: tuple[float, ...]) -> None:
    assert grids.parse(text) == values


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "1:0:0.1", "0:1:0", "0:1:-0.1", "0:1", "a", "0:x:1", "nan", "0:inf:1", "0.1,0.10", "0:1:0.00001"],
)
def test_unusable_grids_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="grid"):
        grids.parse(text)


def test_alpha_zero_row_equals_zero_shot_exactly(home: Path) -> None:
    with _store(home) as store:
        outcome = _search(store, shots=4)
    assert {run.test for run in outcome.runs if run.alpha == 0} == {outcome.zero_shot}


def test_adapting_helps_and_one_run_is_chosen_a_draw(home: Path) -> None:
    with _store(home) as store:
        outcome = _search(store, shots=8, shot_seeds=(1, 2, 3))
    assert [run.shot_seed for run in outcome.chosen] == [1, 2, 3]
    assert outcome.test_accuracy[0] > outcome.zero_shot.accuracy
    assert outcome.protocol == "fewshot-val"
    assert all(run.selection is not None and run.selection.num_rows == 4 * 6 for run in outcome.runs)


def test_training_and_choice_are_blind_to_test(home: Path) -> None:
    """Shuffled labels and noise in test change no selection score and no choice."""
    values = synthetic.arrays()
    spoilt = dict(values)
    generator = np.random.default_rng(1)
    spoilt["test_features"] = generator.normal(size=values["test_features"].shape).astype(np.float32)
    spoilt["test_labels"] = generator.permutation(values["test_labels"])
    outcomes = []
    for name, content in (("clean", values), ("spoilt", spoilt)):
        with Store(import_npz(synthetic.save(home / f"{name}.npz", content), name=name)) as store:
            outcomes.append(_search(store, shots=8))
    clean, dirty = outcomes
    assert [(run.selection, run.chosen, run.config) for run in clean.runs] == [
        (run.selection, run.chosen, run.config) for run in dirty.runs
    ]
    assert clean.test_accuracy != dirty.test_accuracy


def test_the_choice_is_recorded_before_test_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = home / "results.sqlite"
    recorder = Recorder(file, ["fit"])
    with _store(home) as store:
        gathered: list[str] = []
        plain = Store.gather

        def spy(self: Store, split: str, name: str, positions: object) -> object:
            gathered.append(split)
            if split == "test":
                assert recorder.search_id is not None, "test rows were read before the choice was recorded"
            return plain(self, split, name, positions)  # type: ignore[arg-type]

        monkeypatch.setattr(Store, "gather", spy)
        search(store, Settings(adapter="clip_adapter", grid={"alpha": (0.0, 0.5)}, shots=4), _recipe, record=recorder)
    assert gathered[-1] == "test"
    assert "train" in gathered


def test_without_val_a_holdout_of_train_is_the_default(home: Path) -> None:
    with _store(home, val=0) as store:
        outcome = _search(store, shots=4)
        assert outcome.protocol == "train-holdout"
        with pytest.raises(ConfigError, match="what remains: train-holdout"):
            _search(store, shots=4, protocol="fewshot-val")


def test_without_any_image_left_the_error_says_what_remains(home: Path) -> None:
    with _store(home, val=0, train=4) as store, pytest.raises(ConfigError, match="fewer --shots"):
        _search(store, shots=4)


@pytest.mark.parametrize(("protocol", "rows"), [("full-val", 36), ("train-holdout", 24), ("test-oracle", 90)])
def test_protocols_choose_on_their_rows(home: Path, protocol: str, rows: int) -> None:
    with _store(home) as store:
        outcome = _search(store, shots=4, protocol=protocol)
    assert {run.selection.num_rows for run in outcome.runs if run.selection} == {rows}
    assert outcome.protocol == protocol


def test_fixed_takes_one_configuration(home: Path) -> None:
    with _store(home) as store:
        outcome = _search(store, "0.5", shots=4, protocol="fixed")
        assert [run.chosen for run in outcome.runs] == [True] * 3
        assert all(run.selection is None for run in outcome.runs)
        with pytest.raises(ConfigError, match="chooses nothing"):
            _search(store, shots=4, protocol="fixed")
        with pytest.raises(UnknownNameError, match="fewshot-val"):
            _search(store, shots=4, protocol="oracle")


def test_the_default_draws_of_an_import_without_val_leave_rows_to_choose_on(home: Path) -> None:
    for rows, shots in ((4, 2), (16, 8), (20, 16)):
        with _store(home, f"bare{rows}", val=0, train=rows) as store:
            outcome = _search(store)
        assert (outcome.runs[0].shots, outcome.protocol) == (shots, "train-holdout")


def test_runs_that_diverge_are_named(home: Path) -> None:
    with _store(home) as store:
        settings = Settings(adapter="clip_adapter", grid={"alpha": (0.0, 0.5)}, shots=4, shot_seeds=(1,))
        wild = search(store, settings, lambda shots: replace(_recipe(shots), lr=1e38))
    assert any("1 of 2 runs diverged" in note and "alpha 0.5 seed 1" in note for note in wild.notes)
    assert wild.chosen[0].alpha == 0


def test_ties_go_to_the_lower_loss_then_the_smaller_alpha() -> None:
    scores = [
        Score(accuracy=accuracy, loss=loss, num_rows=9)
        for accuracy, loss in ((0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.7, 0.8))
    ]
    assert choose(scores, [0.0, 0.1, 0.3, 0.2]) == 3


def test_an_import_with_no_more_than_k_rows_a_class_has_one_draw(home: Path) -> None:
    with _store(home, train=8) as store:
        assert [run.shot_seed for run in _search(store, shots=16).chosen] == [1]
        assert [run.shot_seed for run in _search(store, shots=8, shot_seeds=(1, 2, 3)).chosen] == [1]
        assert len(_search(store, shots=4).chosen) == 3
        notes = _search(store, shots=16).notes
    assert any("6 classes have fewer than 16" in note for note in notes)


def test_method_that_has_nothing_to_sweep_and_unknown_fields(home: Path) -> None:
    with _store(home) as store:
        outcome = search(store, Settings(adapter="zero_shot", grid={}, shots=4), _recipe)
        assert outcome.test_accuracy[0] == outcome.zero_shot.accuracy
        with pytest.raises(ConfigError, match="no field 'alpha'"):
            search(store, Settings(adapter="zero_shot", grid={"alpha": (0.5,)}), _recipe)


def test_a_store_without_text_is_refused_by_methods_that_need_it(home: Path) -> None:
    values = synthetic.arrays()
    del values["text_features"]
    with (
        Store(import_npz(synthetic.save(home / "bare.npz", values), name="bare")) as store,
        pytest.raises(ConfigError, match="needs text"),
    ):
        _search(store)


def test_a_draw_whose_rows_are_not_stored_names_the_command(home: Path) -> None:
    with _store(home) as store:
        command = "featcache extract --dataset d --backbone b"
        store.provenance = {"kind": "extract", "command": command, "draws": [[4, 1]]}
        rows = store.rows("train")
        store.rows = lambda split: rows[:10] if split == "train" else Store.rows(store, split)  # type: ignore[method-assign]
        with pytest.raises(MissingRowsError, match=command):
            _search(store)


def test_imagenet_is_known_by_its_ids_whatever_it_was_extracted_from(home: Path) -> None:
    with _store(home) as store:
        assert data_set(store) == "toy"
        wordnet = tuple(f"n{number:08d}" for number in range(1000))
        for ids, found in ((wordnet, recipes.IMAGENET), (wordnet[:999], "toy"), ((*wordnet[:999], "tench"), "toy")):
            store.class_ids = ids
            assert data_set(store) == found
        store.provenance = {"dataset": "imagenet"}  # a subset in the same layout
        assert data_set(store) == recipes.IMAGENET


def test_results_round_trip(home: Path) -> None:
    file = home / "results.sqlite"
    with _store(home) as store:
        outcome = search(
            store,
            Settings(adapter="clip_adapter", grid={"alpha": (0.0, 0.5)}, shots=4),
            _recipe,
            record=Recorder(file, ["fit", "toy"]),
        )
    (row,) = results.summaries(file)
    assert (row.store, row.shots, row.num_draws, row.protocol) == ("toy", 4, 3, "fewshot-val")
    assert row.test_accuracy == pytest.approx(outcome.test_accuracy[0])
    whole = results.fetch(file, row.id)
    assert whole["command"] == ["fit", "toy"]
    assert whole["recipe"]["lr"] == 0.02
    assert [run["test_accuracy"] for run in whole["runs"]] == [run.test.accuracy for run in outcome.runs if run.test]
    assert whole["versions"]["torch"]
    with pytest.raises(UnknownNameError, match="known: 1"):
        results.fetch(file, 7)


def test_plot_and_curve(home: Path) -> None:
    with _store(home) as store:
        outcome = _search(store, shots=4)
    for ending in (".png", ".svg"):
        file = reporting.check_plot_file(home / f"alpha{ending}")
        reporting.plot(outcome, file)
        assert file.stat().st_size > 5000
    drawn = reporting.curve(reporting.grid_rows(outcome.runs), outcome.zero_shot.accuracy)
    assert sum(drawn.count(mark) for mark in "●○▼") == 5 + 2  # the legend shows two
    assert drawn.count("●") > 1
    with pytest.raises(ConfigError, match=r"\.png"):
        reporting.check_plot_file(home / "alpha.gif")


def test_json_holds_every_run_and_no_nan(home: Path) -> None:
    import json

    with _store(home) as store:
        outcome = _search(store, shots=16)
    loaded = json.loads(reporting.as_json(outcome))
    assert len(loaded["runs"]) == 5 * len(outcome.chosen)
    assert loaded["protocol"] == "fewshot-val"
    assert "NaN" not in reporting.as_json(outcome)
    assert math.isnan(reporting.grid_rows(outcome.runs)[0].test[1]) == (len(outcome.chosen) == 1)


def test_a_plot_of_the_oracle_does_not_call_test_unused(home: Path, tmp_path: Path) -> None:
    with _store(home) as store:
        for protocol, words in (("test-oracle", "chosen on it"), ("fewshot-val", "not used to choose")):
            reporting.plot(_search(store, shots=2, protocol=protocol), tmp_path / f"{protocol}.svg")
            assert f"test ({words})" in (tmp_path / f"{protocol}.svg").read_text()


def test_a_store_without_a_readable_test_image_is_refused_before_training(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _store(home) as store:
        unreadable = dict.fromkeys(store.rows("test").tolist(), "does not decode")
        monkeypatch.setattr(Store, "missing", lambda _, split: unreadable if split == "test" else {})
        with pytest.raises(MissingRowsError, match="no readable test image"):
            _search(store, shots=2)

"""Cross-validation on a draw's own shots: how folds are dealt, what is scored, and that nothing else is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from featcache import recipes, registry
from featcache.fewshot import draw
from featcache.folds import deal, folds_of, over_all
from featcache.importing import import_npz
from featcache.loading import load_frozen, load_rows, load_task, present
from featcache.outcome import Outcome
from featcache.preparing import Settings, prepare
from featcache.search import search
from featcache.selection import Score, score
from featcache.store import Store
from featcache.text_sources import nothing_learnt
from featcache.training import Run, predict, train
from tests import synthetic
from tests.commandline import Run as Command

CPU = torch.device("cpu")


def recipe(shots: int) -> recipes.Recipe:
    return replace(recipes.make("coop", shots=shots, dataset="any"), epochs=3, lr=0.02)


def settings(adapter: str = "clip_adapter", **more: object) -> Settings:
    grid = {"alpha": (0.0, 0.3, 0.8)} if adapter == "clip_adapter" else {}
    usual = {"grid": grid, "shots": 4, "shot_seeds": (1, 2), "protocol": "cross-validation"}
    return Settings(adapter=adapter, **{**usual, **more})  # type: ignore[arg-type]


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    home.mkdir()
    with Store(import_npz(synthetic.save(home / "toy.npz", synthetic.arrays()), name="toy")) as opened:
        yield opened


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(2, 4))
def test_folds_share_every_class_out_and_leave_none_without_an_image(counts: list[int], num_folds: int) -> None:
    label = np.repeat(np.arange(len(counts)), counts)
    fold = deal(label, num_folds)
    sizes = [int((fold == number).sum()) for number in range(num_folds)]
    assert max(sizes) - min(sizes) <= 1
    for index, count in enumerate(counts):
        own = fold[label == index]
        if count == 1:
            assert own.tolist() == [-1]
            continue
        assert own.min() >= 0
        assert [(number - own[0]) % num_folds for number in own] == [place % num_folds for place in range(count)]
        assert all((own != number).any() for number in range(num_folds)), "a fold trains on no image of the class"


@pytest.mark.parametrize(("shots", "num_folds"), [(2, 2), (4, 4), (8, 4), (16, 4), (5, 4)])
def test_the_folds_of_a_draw_hold_each_of_its_images_out_once(store: Store, shots: int, num_folds: int) -> None:
    label = store.label("train")
    drawn = draw(label, store.label("val"), shots=shots, shot_seed=3)
    folds = folds_of(store, drawn)
    assert len(folds) == num_folds
    assert sorted(np.concatenate([fold.held_out for fold in folds])) == sorted(drawn.train)
    for fold in folds:
        assert not set(drawn.train[fold.train]) & set(fold.held_out)
        assert len(fold.train) + len(fold.held_out) == len(drawn.train)
    if shots != 5:
        assert {len(fold.train) for fold in folds} == {6 * shots - 6 * shots // num_folds}


def test_an_unreadable_image_is_in_no_fold(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw(store.label("train"), None, shots=4, shot_seed=1)
    lost = int(drawn.train[5])
    monkeypatch.setattr(Store, "missing", lambda _, split: {lost: "does not decode"} if split == "train" else {})
    folds = folds_of(store, drawn)
    held = np.concatenate([fold.held_out for fold in folds])
    assert lost not in held
    assert len(held) == 23
    ready = prepare(store, settings(shot_seeds=(1,)), recipe, nothing_learnt)
    readable = drawn.train[drawn.train != lost]
    for judged, fold in zip(ready.judged[0], folds, strict=True):
        assert torch.equal(ready.tasks[judged.task].label, torch.from_numpy(store.label("train")[readable[fold.train]]))


def test_a_score_is_of_all_held_out_rows_each_predicted_by_the_fold_that_never_saw_it(store: Store) -> None:
    """Against folds trained one by one, each on its own."""
    outcome = search(store, settings(), recipe)
    frozen = load_frozen(store, "default", CPU)
    for drawn in (draw(store.label("train"), store.label("val"), shots=4, shot_seed=seed) for seed in (1, 2)):
        for alpha in (0.3, 0.8):
            logits, labels = [], []
            for fold in folds_of(store, drawn):
                own = replace(drawn, train=drawn.train[fold.train])
                task = present(load_task(store, own, frozen), "turn")
                run = Run(method=registry.load("clip_adapter")(alpha=alpha), lr=0.02, draw=0, init_seed=drawn.shot_seed)
                (params,) = train([run], [task], recipe(4))
                rows = load_rows(store, "train", CPU, rows=fold.held_out)
                logits.append(predict(run.method, params, rows.image, frozen))
                labels.append(rows.label)
            alone = score(torch.cat(logits), torch.cat(labels))
            (found,) = (run.selection for run in outcome.runs if (run.alpha, run.shot_seed) == (alpha, drawn.shot_seed))
            assert found is not None
            assert (found.accuracy, found.num_rows) == (alone.accuracy, 24)
            assert found.loss == pytest.approx(alone.loss, rel=1e-4)


def test_what_is_tested_was_fitted_on_the_whole_draw(store: Store) -> None:
    folded = search(store, settings(), recipe)
    plain = search(store, settings(protocol="fewshot-val"), recipe)
    for one, other in zip(folded.runs, plain.runs, strict=True):
        assert one.test is not None
        assert other.test is not None
        assert one.test.accuracy == other.test.accuracy
        assert one.test.loss == pytest.approx(other.test.loss, rel=1e-5)
    assert [run.selection for run in folded.runs] != [run.selection for run in plain.runs]


@pytest.mark.parametrize(
    "more",
    [
        {"choose": "pooled"},
        {"classes": "base"},
        {"init_seeds": (1, 5)},
        {"post_hoc_alpha": (0.1, 0.5), "grid": {"alpha": (0.4,)}},
        {"adapter": "zero_shot"},
        {"adapter": "gda"},
        {"adapter": "tip_adapter", "grid": {"alpha": (0.5, 1.0), "beta": (1.0, 3.0)}},
        {"adapter": "tip_adapter_f", "grid": {"alpha": (0.5, 1.0), "beta": (1.0, 3.0)}},
        {"adapter": "linear_probe", "grid": {"c": (0.1, 1.0)}},
    ],
)
def test_it_goes_with_everything_else(store: Store, more: dict[str, object]) -> None:
    outcome = search(store, settings(**more), recipe)  # type: ignore[arg-type]
    held = 12 if more.get("classes") == "base" else 24
    assert {run.selection.num_rows for run in outcome.runs if run.selection} == {held}
    assert len(outcome.chosen) == (4 if "init_seeds" in more else 2)
    assert outcome.protocol == "cross-validation"
    assert all(run.test is not None for run in outcome.runs)


def _chosen_with(home: Path, name: str, values: dict[str, NDArray[np.generic]]) -> Outcome:
    with Store(import_npz(synthetic.save(home / f"{name}.npz", values), name=name)) as opened:
        return search(opened, settings(), recipe)


def test_val_and_test_decide_nothing(home: Path) -> None:
    home.mkdir()
    values = synthetic.arrays()
    clean = _chosen_with(home, "clean", values)
    generator = np.random.default_rng(0)
    for split in ("val", "test"):
        values[f"{split}_features"] = generator.normal(size=values[f"{split}_features"].shape).astype(np.float32)
        values[f"{split}_labels"] = generator.permutation(values[f"{split}_labels"])
    spoilt = _chosen_with(home, "spoilt", values)
    assert [(run.config, run.selection, run.chosen) for run in clean.runs] == [
        (run.config, run.selection, run.chosen) for run in spoilt.runs
    ]
    assert clean.test_accuracy != spoilt.test_accuracy


def test_a_store_without_val_and_a_class_with_one_image(home: Path) -> None:
    home.mkdir()
    values = synthetic.arrays(val=0, train=4)
    label = values["train_labels"]
    kept = np.flatnonzero((label != 2) | (np.arange(len(label)) < 6))  # class 2 keeps its first image
    values |= {name: values[name][kept] for name in ("train_features", "train_labels")}
    with Store(import_npz(synthetic.save(home / "short.npz", values), name="short")) as opened:
        outcome = search(opened, settings(), recipe)
        assert outcome.chosen[0].selection is not None
        assert outcome.chosen[0].selection.num_rows == 20
        ready = prepare(opened, settings(shot_seeds=(1,)), recipe, nothing_learnt)
    assert all((task.label == 2).sum() == 1 for task in ready.tasks)
    assert not any((judged.rows.label == 2).any() for judged in ready.judged[0])


def test_one_shot_is_refused_and_the_message_says_what_remains(run: Command, home: Path, tmp_path: Path) -> None:
    import_npz(synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), name="toy")
    import_npz(synthetic.save(tmp_path / "bare.npz", synthetic.arrays(val=0)), name="bare")
    said = run("fit", "toy", "--shots", "1", "--select", "cross-validation")
    assert said.code == 2
    assert "in the draw of 1 shot, seed 1, no class has two; what remains: more --shots, fewshot-val," in said.err
    said = run("fit", "bare", "--shots", "1", "--select", "cross-validation")
    assert "what remains: more --shots, train-holdout, fixed (one alpha), test-oracle" in said.err
    assert "train-holdout, cross-validation (from 2 shots)" in run("fit", "bare", "--select", "full-val").err
    said = run("fit", "toy", "--shots", "2", "--select", "cross-validation", "--epochs", "1")
    assert said.code == 0, said.err
    assert "chosen on cross-validation (12 images a draw)" in said.out


@given(st.lists(st.integers(0, 7), min_size=2, max_size=4), st.integers(7, 50))
@example([29, 29, 29, 30], 35)  # in fractions their sum is not 117 / 140
def test_equally_many_right_tie_however_they_fall(right: list[int], num_rows: int) -> None:
    one = over_all([Score(accuracy=count / num_rows, loss=1.0, num_rows=num_rows) for count in right])
    other = over_all([Score(accuracy=count / num_rows, loss=1.0, num_rows=num_rows) for count in reversed(right)])
    assert one.accuracy == other.accuracy == sum(right) / (num_rows * len(right))

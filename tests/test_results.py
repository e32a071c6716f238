"""Results: what is kept of each test image, and what is told of it."""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache import assessment, measures, recipes, results
from featcache.comparison import compare
from featcache.errors import ConfigError, UnknownNameError
from featcache.importing import import_npz
from featcache.outcome import Outcome
from featcache.predictions import Answers, Items, Predictions, items_of
from featcache.preparing import Settings
from featcache.results.recording import Recorder
from featcache.results.schema import class_dtype
from featcache.search import search
from featcache.store import Store, write_store
from featcache.store.copying import contents_of
from tests import synthetic
from tests.commandline import Run

DRAWS = ("--shots", "4", "--seeds", "1,2")
QUICK = ("--epochs", "3", "--lr", "0.02", *DRAWS)


def uneven(**counts: int) -> dict[str, np.ndarray]:
    """The synthetic arrays with a test set that is harder and of unequal classes: class 0 keeps 3 of its 15 rows."""
    values = synthetic.arrays(**counts)
    label, image = values["test_labels"], values["test_features"]
    kept = (label != 0) | (np.cumsum(label == 0) <= 3)
    noise = 0.25 * np.random.default_rng(1).normal(size=image.shape).astype(np.float32)
    return {**values, "test_features": (image + noise)[kept], "test_labels": label[kept]}


def store_of(folder: Path, name: str = "toy", dataset: str | None = None, **changes: np.ndarray) -> Path:
    return import_npz(synthetic.save(folder / f"{name}.npz", {**uneven(), **changes}), name=name, dataset=dataset)


def fitted(path: Path, file: Path, adapter: str, **settings: object) -> Outcome:
    given = {"grid": {}, "shots": 4, "shot_seeds": (1, 2), **settings}
    with Store(path) as store:
        return search(
            store,
            Settings(adapter=adapter, **given),  # type: ignore[arg-type]
            lambda shots: recipes.make("adamw", shots=shots, dataset="any"),
            record=Recorder(file, ["fit", "toy", "--adapter", adapter]),
        )


@pytest.mark.parametrize(
    ("adapter", "grid"),
    [
        ("zero_shot", {}),
        ("clip_adapter", {"alpha": (0.0, 0.4, 0.8)}),
        ("tip_adapter", {"alpha": (0.5, 1.0, 3.0), "beta": (1.0, 5.5)}),
        ("linear_probe", {"c": (0.1, 10.0)}),
    ],
)
def test_what_is_kept_has_the_accuracy_that_was_told(home: Path, tmp_path: Path, adapter: str, grid: dict) -> None:
    file = tmp_path / "results.sqlite"
    outcome = fitted(store_of(tmp_path), file, adapter, grid=grid)
    kept = results.answered(file, 1)
    assert kept is not None
    told = [run["test_accuracy"] for run in results.fetch(file, 1)["runs"] if run["chosen"]]
    assert [answer.right(kept.items).mean() for answer in kept.answers] == told
    assert [(answer.draw, answer.shot_seed) for answer in kept.answers] == [
        (run.draw, run.shot_seed) for run in outcome.chosen
    ]
    for answer, made in zip(kept.answers, outcome.predictions, strict=True):
        assert np.array_equal(answer.predictions.predicted, made.predicted)
        assert np.array_equal(answer.predictions.confidence, made.confidence)


def test_confidence_is_the_softmax_of_the_predicted_class(home: Path, tmp_path: Path) -> None:
    values = uneven()
    file = tmp_path / "results.sqlite"
    fitted(store_of(tmp_path), file, "zero_shot")
    kept = results.answered(file, 1)
    assert kept is not None
    image, text = (torch.from_numpy(values[name]) for name in ("test_features", "text_features"))
    logits = 40 * torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(text).T
    assert np.array_equal(kept.items.label, values["test_labels"])
    assert np.array_equal(kept.answers[0].predictions.predicted, logits.argmax(dim=1).numpy())
    assert kept.answers[0].predictions.confidence == pytest.approx(logits.softmax(dim=1).amax(dim=1).numpy(), abs=1e-5)


def test_images_are_kept_once_and_two_bytes_a_class(home: Path, tmp_path: Path) -> None:
    file, store = tmp_path / "results.sqlite", store_of(tmp_path)
    fitted(store, file, "zero_shot")
    fitted(store, file, "gda")
    with sqlite3.connect(file) as database:
        sizes = (
            "SELECT length(label), length(row) FROM items",
            "SELECT length(predicted), length(confidence) FROM prediction",
        )
        assert database.execute(sizes[0]).fetchall() == [(78 * 2, 78 * 4)]
        assert database.execute(sizes[1]).fetchall() == [(78 * 2, 78 * 4)] * 4
    assert (class_dtype(2**16), class_dtype(2**16 + 1)) == ("<u2", "<u4")


def test_the_digest_tells_data_sets_labels_order_and_classes_apart(home: Path, tmp_path: Path) -> None:
    values = uneven()
    label = values["test_labels"].copy()
    label[:2] = label[1::-1]

    def digest(name: str, dataset: str, classes: range = range(6), **changes: np.ndarray) -> str:
        with Store(store_of(tmp_path, name, dataset, **changes)) as store:
            return items_of(store, classes).digest

    whole = digest("a", "one")
    # Other features of the same images: another backbone's.
    assert digest("b", "one", test_features=2 * values["test_features"]) == whole
    others = [digest("c", "two"), digest("d", "one", test_labels=label), digest("e", "one", range(3))]
    assert len({whole, *others}) == 4
    # Without images of class 5 the same images are told apart from 5 classes or from 6.
    kept = {name: values[name][values["test_labels"] < 5] for name in ("test_features", "test_labels")}
    assert digest("f", "one", **kept) != digest("g", "one", range(5), **kept)


def test_the_digest_tells_images_apart_by_their_bytes(home: Path, tmp_path: Path) -> None:
    digests = set()
    with Store(store_of(tmp_path)) as store:
        whole = contents_of(store)
        test = whole.splits["test"]
        (block,) = test.blocks
        for number, first in enumerate((0, 0, 1)):
            source = block.source.copy()
            source[7] = first
            splits = {**whole.splits, "test": replace(test, blocks=[block._replace(source=source)])}
            path = tmp_path / f"{number}.h5"
            write_store(path, replace(whole, splits=splits))
            with Store(path) as made:
                digests.add(items_of(made, range(6)).digest)
    assert len(digests) == 2


def test_a_half_of_the_classes_has_labels_of_its_own(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.sqlite"
    outcome = fitted(store_of(tmp_path), file, "zero_shot", classes="new")
    kept = results.answered(file, 1)
    assert kept is not None
    assert kept.items.classes == ("class 3", "class 4", "class 5")
    assert set(kept.items.label.tolist()) == {0, 1, 2}
    assert kept.answers[0].right(kept.items).mean() == outcome.test_accuracy[0]


def test_learnt_numbers_are_counted_for_trained_methods_alone(home: Path, tmp_path: Path) -> None:
    store, file = store_of(tmp_path), tmp_path / "results.sqlite"
    counts = {name: fitted(store, file, name).runs[0].num_params for name in ("clip_adapter", "gda", "taskres")}
    assert counts == {"clip_adapter": 2 * 24 * 6, "gda": None, "taskres": 6 * 24}
    assert [row.num_params for row in results.summaries(file)] == [6 * 24, None, 2 * 24 * 6]


def test_a_constant_parameter_is_not_learnt(home: Path, tmp_path: Path) -> None:
    """Tip-Adapter-F learns its keys and leaves their labels: 4 shots of 6 classes, 24 wide."""
    outcome = fitted(store_of(tmp_path), tmp_path / "results.sqlite", "tip_adapter_f")
    assert outcome.runs[0].num_params == 4 * 6 * 24


# --- measures of a search


def by_hand(
    accuracies: list[list[bool]], draws: list[str] | None = None, seeds: list[int] | None = None
) -> list[Answers]:
    """Runs on images that are all of class 0: right is class 0, wrong class 1."""
    return [
        Answers(
            draws[index] if draws else f"draw {index}",
            index,
            seeds[index] if seeds else index,
            Predictions(predicted=np.array([0 if right else 1 for right in run]), confidence=np.ones(len(run), "f4")),
        )
        for index, run in enumerate(accuracies)
    ]


def images(count: int) -> Items:
    zeros = np.zeros(count, dtype=np.int64)
    return Items(row=np.arange(count), label=zeros, classes=("yes", "no"), digest="x")


def test_runs_of_one_draw_are_averaged_before_draws_are() -> None:
    runs = by_hand([[True] * 4, [False] * 4, [True] * 4], draws=["a", "a", "b"])
    found = assessment.assess(images(4), runs)
    assert found.accuracy == pytest.approx((0.5 + 1) / 2)
    assert found.interval == pytest.approx(measures.confidence_interval([0.5, 1.0]))
    assert found.confusions == (("yes", "no", 4),)
    assert [row.predicted for row in found.classes] == pytest.approx([8 / 3, 4 / 3])
    assert found.runs[1].calibration_error == 1


def test_assessing_agrees_with_the_recorded_accuracy(home: Path, tmp_path: Path) -> None:
    outcome = fitted(store_of(tmp_path), tmp_path / "results.sqlite", "gda")
    found = assessment.assess(outcome.items, outcome.answers)  # type: ignore[arg-type]
    assert found.accuracy == pytest.approx(outcome.test_accuracy[0])
    row = results.summaries(tmp_path / "results.sqlite")[0]
    assert row.test_interval == pytest.approx(found.interval)
    assert sum(row.images for row in found.classes) == 78
    total = sum(cell.images for cell in found.confusions)
    assert total == round((1 - found.accuracy) * 78 * 2)


# --- two searches


def test_a_comparison_by_hand() -> None:
    first = by_hand([[True, True, False, False], [True, False, False, False]])
    second = by_hand([[True, True, True, True], [True, False, True, False]])
    found = compare(images(4), first, list(reversed(second)))
    assert [(pair.shot_seed, pair.difference) for pair in found.pairs] == [(0, 0.5), (1, 0.25)]
    assert [pair.mcnemar for pair in found.pairs] == [(0, 2, 0.5), (0, 1, 1.0)]
    assert (found.first, found.second, found.difference) == (0.375, 0.75, 0.375)
    assert found.over_items[0] <= 0.375 <= found.over_items[1]
    assert found.over_items_and_draws is not None
    assert found.classes == (("yes", 4, 0.375, 0.75, 0.375),)
    swapped = compare(images(4), second, first)
    assert swapped.difference == -0.375


def test_starting_points_are_paired_where_they_can_be_and_averaged_where_not() -> None:
    three = by_hand([[True, False]] * 3, draws=["a"] * 3, seeds=[1, 2, 3])
    other = by_hand([[True, True]] * 3, draws=["a"] * 3, seeds=[3, 1, 2])
    assert [pair.init_seeds for pair in compare(images(2), three, other).pairs] == [(1, 1), (2, 2), (3, 3)]
    (mean,) = compare(images(2), three, other[:1]).pairs
    assert (mean.init_seeds, mean.mcnemar, mean.difference) == (None, None, 0.5)
    (single,) = compare(images(2), three[:1], other[:1]).pairs
    assert single.init_seeds == (1, 3)
    assert single.mcnemar is not None
    assert compare(images(2), three, other).over_items_and_draws is None


def test_what_cannot_be_paired_says_what_differs(home: Path, tmp_path: Path) -> None:
    file, store = tmp_path / "results.sqlite", store_of(tmp_path)
    fitted(store, file, "zero_shot")
    fitted(store, file, "zero_shot", shots=2)
    fitted(store, file, "zero_shot", shot_seeds=(1,))
    fitted(store, file, "zero_shot", protocol="kshot-val", shots=8)
    fitted(store, file, "zero_shot", shots=8)
    fitted(store, file, "zero_shot", classes="base")
    fitted(store_of(tmp_path, "other"), file, "zero_shot")
    cases = {
        (1, 2): "4 shots seed 1; 4 shots seed 2 and 2 shots seed 1; 2 shots seed 2",
        (1, 3): "4 shots seed 1; 4 shots seed 2 and 4 shots seed 1",
        (4, 5): r"hold other images \(chosen on kshot-val and fewshot-val\)",
        (1, 6): "part of the classes: all and base; number of classes: 6 and 3; test images: 78 and 33",
        (1, 7): "data set: toy and other",
        (1, 1): "both are result 1",
    }
    for (first, second), words in cases.items():
        with pytest.raises(ConfigError, match=words):
            results.compare_results(file, first, second)
    with pytest.raises(UnknownNameError, match="known: 1, 2"):
        results.compare_results(file, 1, 99)


def test_stores_of_two_backbones_can_be_compared(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "results.sqlite"
    noise = np.random.default_rng(0).normal(size=uneven()["test_features"].shape).astype(np.float32)
    fitted(store_of(tmp_path, "first", "pets"), file, "zero_shot")
    fitted(store_of(tmp_path, "second", "pets", test_features=noise), file, "zero_shot")
    assert results.compare_results(file, 1, 2).difference < -0.1


# --- the command line


def test_files_made_before_predictions_open_and_say_so(run: Run, home: Path, tmp_path: Path) -> None:
    store_of(tmp_path)
    assert run("fit", "toy", *QUICK, "--adapter", "clip_adapter").code == 0
    with sqlite3.connect(home / "results.sqlite") as database:
        database.execute("DROP TABLE prediction")
        database.execute("DROP TABLE items")
        database.execute("ALTER TABLE run DROP COLUMN num_params")
    assert run("fit", "toy", *DRAWS, "--adapter", "gda").code == 0
    said = run("results", "1")
    assert said.code == 0
    assert "no predictions were kept" in said.err
    assert json.loads(run("results", "1", "--json").out)["measures"] is None
    refused = run("results", "diff", "1", "2")
    assert refused.code == 2
    assert "result 1 was made before predictions were kept; make it again: featcache fit toy" in refused.err
    assert "balanced over classes" in run("results", "2").out


def test_a_result_is_told_with_its_measures(run: Run, tmp_path: Path) -> None:
    store_of(tmp_path)
    fit = run("fit", "toy", *DRAWS, "--adapter", "gda")
    assert re.search(r"of 78 images, balanced over classes \d\d\.\d\d %; zero-shot", fit.out), fit.out
    said = run("results", "1").out
    measured = json.loads(run("results", "1", "--json").out)["measures"]
    assert f"chosen on fewshot-val: test {100 * measured['accuracy']:.2f} % (95 % interval over 2 draws: " in said
    assert f"balanced over classes {100 * measured['balanced_accuracy']:.2f} %" in said
    assert f"expected calibration error {100 * measured['calibration_error']:.2f} %" in said
    assert len(measured["runs"][0]["reliability"]) == 15
    assert sum(row["images"] for row in measured["runs"][0]["reliability"]) == 78
    worst = min(measured["classes"], key=lambda row: row["accuracy"])
    assert f"worst classes: {worst['name']} {100 * worst['accuracy']:.1f} % of {worst['images']}" in said
    top = measured["confusions"][0]
    assert f"of 156 answers: {top['name']} as {top['predicted']} {top['images']}" in said
    assert "mostly taken for" not in said
    assert "mostly taken for" in run("results", "1", "--per-class").out


def test_results_takes_a_number_a_command_or_nothing(run: Run, tmp_path: Path) -> None:
    store_of(tmp_path)
    for adapter in ("gda", "zero_shot"):
        assert run("fit", "toy", *DRAWS, "--adapter", adapter).code == 0
    whole = run("results", "2", "--json").out
    assert json.loads(whole)["adapter"] == "zero_shot"
    for same in (("--json", "2"), ("show", "2", "--json"), ("--json", "show", "2")):
        assert run("results", *same).out == whole
    assert [row["id"] for row in json.loads(run("results", "--limit", "1", "--json").out)] == [2]
    assert "gda" in run("results").out
    for wrong in (("nope",), ("diff", "1"), ("diff", "1", "x"), ("2", "--limit", "1"), ("1", "2")):
        assert run("results", *wrong).code == 2


def test_diff_prints_what_its_json_holds(run: Run, tmp_path: Path) -> None:
    store_of(tmp_path)
    for adapter in ("zero_shot", "gda"):
        assert run("fit", "toy", *DRAWS, "--adapter", adapter).code == 0
    said = run("results", "diff", "1", "2").out
    found = json.loads(run("results", "diff", "1", "2", "--json").out)
    kept = [json.loads(run("results", str(number), "--json").out)["measures"]["accuracy"] for number in (1, 2)]
    assert found["difference"] == pytest.approx(kept[1] - kept[0])
    assert found["difference"] == pytest.approx(np.mean([pair["difference"] for pair in found["pairs"]]))
    low, high = found["over_items"]
    assert low < found["difference"] < high
    assert f"result 2 over result 1: {100 * found['difference']:+.2f} points; 95 % interval {100 * low:+.2f} to" in said
    assert f"{found['pairs'][0]['mcnemar']['p']:.2g}" in said
    best = found["classes"][0]
    assert f"largest gains: {best['name']} {100 * best['difference']:+.1f} ({best['images']} images)" in said
    assert "not pooled" in said
    assert said.count("chosen on fewshot-val") == 2


def test_several_methods_end_in_one_table(run: Run, tmp_path: Path) -> None:
    store_of(tmp_path)
    said = run("fit", "toy", *QUICK, "--adapter", "zero_shot,clip_adapter,gda").out
    table = said[said.index("methods on toy") :]
    assert "methods on toy, 4 shots, prompts default: chosen on fewshot-val" in table
    lines = {
        name: next(line for line in table.splitlines() if f" {name} " in line)
        for name in ("zero_shot", "clip_adapter", "gda")
    }
    assert sum(" best " in line for line in lines.values()) == 1
    assert sum(bool(re.search(r"\([+-]\d+\.\d\d to", line)) for line in lines.values()) == 2
    assert " 288 " in lines["clip_adapter"]
    assert "alpha" in lines["clip_adapter"]
    assert "methods on" not in run("fit", "toy", *DRAWS, "--adapter", "gda").out
    assert table.count("methods on") == 1

"""Fitted methods elsewhere: the right columns of the right classes, on stores of the same backbone only."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featcache import fewshot, grids, recipes, registry
from featcache.errors import ConfigError, UnknownNameError
from featcache.importing import import_npz
from featcache.loading import class_range, load_frozen
from featcache.ops import cosine_logits
from featcache.search import Settings, search
from featcache.shift import Target, find, target
from featcache.store import Store, write_store
from featcache.store.copying import contents_of
from featcache.store.places import resolve, store_path
from featcache.store.writing import Contents
from tests import synthetic
from tests.commandline import Run

CLASSES = 6


def make(home: Path, name: str, **changes: object) -> Store:
    """The store of the one synthetic file, with some of its contents changed."""
    file = home.parent / "all.npz"
    if not file.exists():
        synthetic.save(file, synthetic.arrays(classes=CLASSES))
    with Store(import_npz(file, name=f"{name}-whole")) as whole:
        contents: Contents = replace(contents_of(whole), **changes)
        contents = replace(contents, spec=replace(contents.spec, view_seed=hash(name) % 1000))
        path = store_path(name, contents.spec.key)
        write_store(path, contents)
    resolve(f"{name}-whole").unlink()
    return Store(path)


def recipe(shots: int) -> recipes.Recipe:
    return replace(recipes.make("coop", shots=shots, dataset="any"), epochs=4, lr=0.02)


def fit(store: Store, *targets: Target, classes: str = "all"):  # type: ignore[no-untyped-def]
    settings = Settings(adapter="clip_adapter", grid={"alpha": grids.parse("0,0.6")}, shots=4, classes=classes)
    return search(store, settings, recipe, also=targets)


def to(store: Store, source: Store, part: str = "all", trained: range | None = None, adapter: str = "clip_adapter"):  # type: ignore[no-untyped-def]
    trained = range(len(source.classes)) if trained is None else trained
    method = registry.load(adapter)
    return target(store, part, source=source, trained=trained, method=method, text_set="default")


def test_the_same_store_elsewhere_gives_the_same_numbers(home: Path) -> None:
    with make(home, "a") as store:
        outcome = fit(store, to(store, store))
        assert [score.accuracy for score in outcome.also[0].scores] == [run.test.accuracy for run in outcome.chosen]
        assert outcome.also[0].zero_shot == outcome.zero_shot


def test_a_subset_of_the_classes_in_another_order_keeps_its_columns(home: Path) -> None:
    """Test rows of classes 4, 1 and 3 only, labelled 0, 1, 2: accuracy is over those three classes' columns."""
    order = [4, 1, 3]
    with make(home, "a") as store:
        place = {label: index for index, label in enumerate(order)}
        label = store.label("test")
        kept = np.flatnonzero(np.isin(label, order))
        whole = contents_of(store).splits["test"]
        block = next(iter(whole.blocks))
        part = replace(
            whole,
            path=tuple(whole.path[row] for row in kept),
            label=np.array([place[int(label[row])] for row in kept]),
            row=np.arange(len(kept)),
            blocks=[type(block)(*(array[kept] for array in block))],
        )
        names = tuple(store.classes[label] for label in order)
        with make(home, "few", classes=names, class_ids=names, text={}, splits={"test": part}) as few:
            outcome = fit(store, to(few, store))
            shifted = outcome.also[0]
            assert (shifted.num_classes, shifted.trained_on) == (3, True)
            frozen = load_frozen(store, "default", torch.device("cpu"))
            image = torch.from_numpy(block.image[kept, 0])
            logits = cosine_logits(image, frozen.text, frozen.logit_scale)[:, order]
            expected = (logits.argmax(dim=1).numpy() == part.label).mean()
            assert shifted.zero_shot.accuracy == pytest.approx(float(expected))
            # Over all six columns some rows go to classes that are not there.
            assert shifted.zero_shot.accuracy > outcome.zero_shot.accuracy


def test_halves_are_coops(home: Path) -> None:
    assert (fewshot.base_size(5), fewshot.base_size(6)) == (3, 3)
    with make(home, "a") as store:
        assert (class_range(store, "base"), class_range(store, "new")) == (range(3), range(3, 6))
        with pytest.raises(UnknownNameError, match="part of the classes"):
            class_range(store, "old")


def test_a_half_draws_from_all_classes_and_leaves_the_others_out(home: Path) -> None:
    """CoOp draws few-shot images first and subsamples classes afterwards."""
    generator = np.random.default_rng(0)
    train, val = generator.integers(0, 7, 200), generator.integers(0, 7, 60)
    whole = fewshot.draw(train, val, shots=4, shot_seed=1)
    half = fewshot.within(whole, train, val, range(4, 7))
    assert [row for row in whole.train.tolist() if train[row] >= 4] == half.train.tolist()
    assert [row for row in whole.val.tolist() if val[row] >= 4] == half.val.tolist()
    assert half.digest != whole.digest
    alone = fewshot.draw(train[train >= 4], val[val >= 4], shots=4, shot_seed=1)
    assert np.flatnonzero(train >= 4)[alone.train].tolist() != half.train.tolist()


def test_base_to_new(home: Path) -> None:
    with make(home, "a") as store:
        other, part = find("new", store)
        with other:
            place = to(other, store, part, trained=class_range(store, "base"))
            assert place.columns is None
            outcome = fit(store, place, classes="base")
            shifted = outcome.also[0]
            assert (shifted.num_classes, shifted.trained_on) == (3, False)
            assert outcome.chosen[0].test.num_rows == shifted.scores[0].num_rows == 45
            frozen = load_frozen(store, "default", torch.device("cpu"))
            label = store.label("test")
            image = torch.from_numpy(store.array("test", "image", slice(None))[:, 0][label >= 3])
            right = cosine_logits(image, frozen.text[3:], 1.0).argmax(dim=1).numpy() == label[label >= 3] - 3
            assert shifted.zero_shot.accuracy == pytest.approx(float(right.mean()))


def test_new_classes_need_a_method_that_transfers(home: Path) -> None:
    class Own(registry.load("zero_shot")):  # type: ignore[misc]
        transfers = False

    with make(home, "a") as store, pytest.raises(ConfigError, match="learns something of each class"):
        target(store, "new", source=store, trained=range(3), method=Own, text_set="default")


def test_text_that_will_be_needed_is_missed_before_anything_is_trained(home: Path) -> None:
    with make(home, "a") as store:
        with pytest.raises(UnknownNameError, match="unknown text set of a 'other'"):
            target(
                store,
                "new",
                source=store,
                trained=range(3),
                method=registry.load("clip_adapter"),
                text_set="default+other",
            )
        names = tuple("uvwxyz")
        mute = make(home, "mute", classes=names, class_ids=names, text={})
        with mute, pytest.raises(ConfigError, match="no text, which alone could tell its classes apart"):
            to(mute, store)


def test_a_half_without_test_images_is_refused(home: Path) -> None:
    with make(home, "a") as store:
        whole = contents_of(store).splits["test"]
        kept = np.flatnonzero(whole.label < 3)
        block = next(iter(whole.blocks))
        part = replace(whole, row=kept, blocks=[type(block)(*(array[kept] for array in block))])
        with make(home, "b", splits={"test": part}) as other:
            assert to(other, store, "base").columns == (0, 1, 2)
            with pytest.raises(ConfigError, match="no test images of its new half"):
                to(other, store, "new")


def test_a_stores_own_name_comes_before_a_data_sets(home: Path) -> None:
    with make(home, "a") as store:
        provenance = {"dataset": "a"}
        with make(home, "b", provenance=provenance), find("a", store)[0] as found:
            assert found.name == "a"


def test_another_backbone_is_refused(home: Path) -> None:
    with make(home, "a") as store:
        spec = replace(store.spec, tower=replace(store.spec.tower, checkpoint="file:other"))
        with make(home, "b", spec=spec) as other, pytest.raises(ConfigError, match="another backbone"):
            to(other, store)


def test_names_that_repeat_are_told_apart_by_ids_only(home: Path) -> None:
    names = ("crane", "owl", "crane", "d", "e", "f")
    with make(home, "a", classes=names, class_ids=names) as store, make(home, "b", classes=names[::-1]) as other:
        assert to(store, store).columns == tuple(range(6))
        assert to(other, store).columns is None
    ids = tuple(f"n{index}" for index in range(6))
    backwards = {"classes": names[::-1], "class_ids": ids[::-1]}
    with make(home, "c", classes=names, class_ids=ids) as store, make(home, "d", **backwards) as other:
        assert to(other, store).columns == (5, 4, 3, 2, 1, 0)


def test_also_on_the_command_line(run: Run) -> None:
    """The drawings and their two shifts, through the bundled encoder."""
    shifts = "shapes,shapes-sketch,shapes-noise"
    said = run("extract", "--dataset", shifts, "--backbone", "tiny", "--views", "1", "--shots", "1", "--seeds", "1,2")
    assert said.code == 0, said.err
    quick = ("--alpha-grid", "0,0.5", "--epochs", "2", "--shots", "1")
    said = run("fit", *quick, "--also", "shapes-sketch,shapes-noise,shapes:new", "--json")
    assert said.code == 0, said.err
    outcome = json.loads(said.out)
    assert outcome["dataset"] == "shapes"  # the newest store is a test-only one, which cannot be fitted on
    assert [(place["dataset"], place["num_classes"]) for place in outcome["also"]] == [
        ("shapes-sketch", 24),
        ("shapes-noise", 24),
        ("shapes", 12),
    ]
    assert all(len(place["scores"]) == 2 for place in outcome["also"])
    shown = run("results", "1")
    assert "shapes-sketch-tiny-coop" in shown.out
    assert len(json.loads(run("results", "1", "--json").out)["also"]) == 6
    absent = " ".join(run("fit", *quick, "--also", "imagenetv2").err.split())
    assert "unknown store 'imagenetv2'" in absent
    assert "which `featcache extract --dataset imagenetv2 --backbone tiny --style coop` makes" in absent


def test_a_store_of_another_backbone_in_also_ends_in_one_message(run: Run, home: Path) -> None:
    assert run("extract", "--dataset", "shapes", "--backbone", "tiny", "--shots", "1", "--views", "0").code == 0
    make(home, "other").close()
    said = run("fit", "shapes-tiny-coop", "--shots", "1", "--also", "other")
    assert said.code == 2
    assert "another backbone" in said.err
    assert "Traceback" not in said.err
    assert "no results yet" in run("results").out

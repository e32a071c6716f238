"""featcache from Python: lazy, named apart from its modules, documented by examples that run."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache import api, estimator, fitted, results
from featcache.errors import ConfigError, InputError, UnknownNameError
from featcache.importing import import_npz
from featcache.store.places import results_path
from tests import synthetic

PACKAGE = Path(featcache.__file__).parent


@pytest.fixture
def toy(home: Path, tmp_path: Path) -> featcache.FeatureStore:
    import_npz(synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), name="toy")
    return featcache.open("toy")


def quick(task: featcache.FewShotTask, adapter: str = "clip_adapter", **options) -> featcache.FitResults:
    return featcache.fit(task, adapter, **{"epochs": 4, "preset": "adamw", "lr": 0.02, **options})


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, featcache; featcache.FeatcacheError; dir(featcache)\n"
        "print([name for name in ('torch', 'open_clip', 'numpy', 'h5py', 'pandas', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_public_name_is_a_modules_name_too() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert not modules & set(featcache.__all__)
    assert {"extract", "fit", "grid", "load_head", "open"} <= set(featcache.__all__) <= set(dir(featcache))
    for name in featcache.__all__:
        value = getattr(featcache, name)
        assert name == "__version__" or value.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        featcache.nothing  # noqa: B018


@pytest.mark.parametrize("module", [api, fitted, estimator], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings(
    module, toy: featcache.FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = quick(toy.task(shots=4, seed=1), alpha=featcache.grid(0, 1, 0.5))
    quick(toy.task(shots=4, seed=1), "taskres", alpha=0.5).export("head.safetensors")
    names = {"featcache": featcache, "results": made, "torch": torch, "np": np}
    examples = [test for test in doctest.DocTestFinder().find(module, module.__name__, globs=names) if test.examples]
    assert examples
    runner = doctest.DocTestRunner()
    for test in examples:
        runner.run(test)
    assert runner.summarize().failed == 0


def test_a_fit_from_python_is_the_commands(toy: featcache.FeatureStore) -> None:
    made = quick(toy.task(shots=4, seed=(1, 2)), alpha=featcache.grid(0.2, 0.6, 0.2), record=True)
    assert made.id == 1
    record = results.fetch(results_path(), 1)
    assert [run["test_accuracy"] for run in record["runs"]] == [run.test.accuracy for run in made.runs if run.test]
    assert record["recipe"]["epochs"] == 4
    assert {run.alpha for run in made.runs} == {0.2, 0.4, 0.6}
    assert [run.shot_seed for run in made.chosen] == [1, 2]
    best = max(made.chosen, key=lambda run: (run.selection.accuracy, -run.selection.loss))
    assert made.best is best
    unrecorded = quick(toy.task(shots=4, seed=(1, 2)), alpha=[0.2, 0.4, 0.6])
    assert unrecorded.id is None
    assert unrecorded.runs == made.runs
    assert len(results.summaries(results_path())) == 1
    assert "6 runs, chosen on fewshot-val, test" in repr(made)


def test_the_heads_answer_with_the_accuracy_told(toy: featcache.FeatureStore, tmp_path: Path) -> None:
    made = quick(toy.task(shots=4, seed=(1, 2)), alpha=(0.3, 0.6))
    image, label = toy.arrays("test")
    for run in made.chosen:
        file = made.export(tmp_path / "head.safetensors", seed=run.shot_seed)
        head = featcache.load_head(file)
        for module in (head, made.head(run.shot_seed)):
            said = module(torch.from_numpy(image)).argmax(dim=1).numpy()
            assert np.mean(said == label) == run.test.accuracy
        assert head.provenance["shot_seed"] == run.shot_seed
        assert head.provenance["result"] is None
        assert json.dumps(head.provenance)
    with pytest.raises(ConfigError, match="nothing was fitted on seed 5; there is 1, 2"):
        made.head(5)


def test_methods_fields_and_texts(toy: featcache.FeatureStore) -> None:
    task = toy.task(shots=4, seed=1)
    assert quick(task, where="text", beta=(0.1, 0.5)).best.config["where"] == "text"
    assert len(featcache.fit(task, "tip_adapter", alpha=np.array([0.5, 1.0]), beta=2).runs) == 2
    assert len(featcache.fit(task, "linear_probe").runs) > 1  # the method's own grid
    assert featcache.fit(task, "zero_shot").test_accuracy == pytest.approx(
        featcache.fit(task, "zero_shot").best.test.accuracy
    )
    assert quick(task, "elevater", start="random", projections=1).best.config["projections"] == 1
    with pytest.raises(ConfigError, match="there is no field gamma"):
        featcache.fit(task, "clip_adapter", gamma=0.1)
    with pytest.raises(ConfigError, match="would do nothing"):
        featcache.fit(task, "gda", epochs=4)
    with pytest.raises(UnknownNameError, match="unknown adapter 'clip'"):
        featcache.fit(task, "clip")
    with pytest.raises(UnknownNameError, match="unknown text set"):
        featcache.fit(toy.task(shots=4, prompts="paper-7"), "zero_shot")
    assert len(featcache.fit(toy.task(shots=4, seed=1, classes="base"), "zero_shot").outcome.items.classes) == 3
    swept = quick(task, alpha=0.5, post_hoc_alpha=(0.0, 0.4))
    assert [run.config["post_hoc_alpha"] for run in swept.runs] == [0.0, 0.4]


def test_frame_and_plot(toy: featcache.FeatureStore, tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="needs featcache[pandas]")
    made = quick(toy.task(shots=4, seed=(1, 2)), alpha=(0.3, 0.6))
    frame = made.frame()
    assert frame[frame.chosen].test_accuracy.mean() == pytest.approx(made.test_accuracy)
    assert frame.groupby("alpha").test_accuracy.mean().shape == (2,)
    made.plot(tmp_path / "alpha.svg")
    assert (tmp_path / "alpha.svg").read_text().startswith("<?xml")
    with pytest.raises(ConfigError, match="the ending says the format"):
        made.plot(tmp_path / "alpha.xyz")
    with pytest.raises(ConfigError, match="zero_shot has no alpha"):
        featcache.fit(toy.task(shots=4), "zero_shot").plot()


def test_what_a_store_gives(toy: featcache.FeatureStore) -> None:
    assert isinstance(featcache.open(), featcache.FeatureStore)
    assert toy.text_weights().shape == (6, 24)
    image, label = toy.task(shots=3, seed=2).arrays()
    assert image.shape == (18, 24)
    assert np.bincount(label).tolist() == [3] * 6
    with pytest.raises(UnknownNameError, match="unknown split of toy 'dev'"):
        toy.arrays("dev")
    with pytest.raises(UnknownNameError, match="unknown store 'other'"):
        featcache.open("other")
    with pytest.raises(InputError, match="shots = 0"):
        toy.task(shots=0)
    with featcache.open("toy") as store:
        assert store.name == "toy"


def test_extract_makes_a_store_once(home: Path, pictures: Path) -> None:
    told: list[tuple[int, int]] = []
    options = {"shots": (2,), "seeds": (1,), "views": 1, "workers": 0, "batch_size": 16}
    store = featcache.extract(f"folder:{pictures}", "tiny", progress=lambda *done: told.append(done), **options)
    assert sum(done for done, _ in told) == told[0][1] == 6 * 2 + 12 + 15
    assert store.classes == ("ant", "bee fly", "few")
    assert "--dataset" in store.provenance["command"]
    content, told[:] = store.content, []
    assert (
        featcache.extract(f"folder:{pictures}", "tiny", progress=lambda *done: told.append(done), **options).content
        == content
    )
    assert not told
    made = featcache.fit(store.task(shots=2, seed=1), alpha=0.5, epochs=2)
    assert [best.name for (best,) in made.head().classify(sorted((pictures / "test" / "ant").iterdir())[:2])]
    with pytest.raises(UnknownNameError, match="unknown backbone"):
        featcache.extract(f"folder:{pictures}", "tny")

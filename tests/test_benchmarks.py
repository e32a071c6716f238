"""Every benchmark script runs, and writes what its readers look for; `featcache bench` too. Never a time."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featcache import bench, recipes, registry
from featcache.loading import Rows
from featcache.peer_loop import EpochOrder, begin, cached_rows, fit_one
from featcache.timing import matrix_rate, turns
from featcache.training import Run, train
from tests import synthetic
from tests.commandline import Run as CommandLine

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
MACHINE = {"featcache", "torch", "cpu", "threads", "matrix product, GFLOP/s, before and after", "commit", "short"}
COMPARED = {
    "shape",
    "seconds",
    "ms a step of the whole grid",
    "seconds an epoch of the whole grid",
    "times as fast",
    "share of the matrix rate",
    "rows right",
}


class Script:
    """Runs a script of benchmarks/ in this process, as `python benchmarks/NAME.py` would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.monkeypatch = monkeypatch
        self.file = folder / "figures.json"
        monkeypatch.syspath_prepend(str(FOLDER))
        hasten(monkeypatch)

    def __call__(self, name: str, *options: str) -> dict[str, Any]:
        """What it writes."""
        self.monkeypatch.setattr("sys.argv", [name, *options, "--write", str(self.file)])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        told: dict[str, Any] = json.loads(self.file.read_text())
        assert told.keys() >= MACHINE
        assert str(Path.home()) not in self.file.read_text(), "no path of the machine"
        return told


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is looked at here, so none needs to be worth looking at."""
    monkeypatch.setattr("featcache.timing._PRODUCT", {"cpu": 64})
    monkeypatch.setattr("featcache.bench.ENOUGH_STEPS", 4)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    return Script(monkeypatch, tmp_path)


def test_alpha_search(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    told = script(
        "alpha_search", "--classes", "5", "--widths", "32", "--draws", "1", "2", "--shots", "8", "--repeats", "1"
    )
    assert [cell["shape"]["runs"] for cell in told["sizes"]] == [11, 22]
    assert [cell["shape"]["trained runs"] for cell in told["sizes"]] == [10, 20]
    for cell in told["sizes"]:
        assert cell.keys() >= COMPARED | {"targets"}
        assert cell["seconds"].keys() == {"stacked", "loop", "loop without alpha 0"}
        assert all(part.keys() == {"median", "min", "max"} for part in cell["times as fast"].values())
    assert "times as fast" in capsys.readouterr().out


def test_paper_grid(script: Script) -> None:
    sizes = ("--data-sets", "EuroSAT", "DTD", "--shots", "1", "4", "--width", "16", "--views", "2", "--steps", "2")
    told = script("paper_grid", *sizes, "--repeats", "1", "--how", "sampled")
    assert told["fits"] == 2 * 2 * 3 * 11
    assert [search["data set"] for search in told["searches"]] == ["EuroSAT", "EuroSAT", "DTD", "DTD"]
    # 188 images are five whole batches of 32, for CoOp's 100 epochs at 4 shots.
    assert told["searches"][3]["steps of a run"] == 500
    assert all(search["stacked is"] == "multiplied out" for search in told["searches"])
    assert told["seconds of all"].keys() == {"stacked", "loop"}


def test_paper_grid_in_full(script: Script) -> None:
    sizes = ("--data-sets", "EuroSAT", "--shots", "1", "--width", "16", "--views", "2", "--steps", "2")
    told = script("paper_grid", *sizes, "--repeats", "1", "--how", "full")
    assert [search["stacked is"] for search in told["searches"]] == ["run in full"]


def test_scaling(script: Script, tmp_path: Path) -> None:
    sizes = ("--width", "16", "--fits", "classes=5,10", "--rows", "2000", "--folder", str(tmp_path))
    told = script("scaling", *sizes, "--repeats", "1")
    assert [cell["classes"] for cell in told["fits"]["classes"]] == [5, 10]
    assert told["fits"]["classes"][0].keys() >= {"ms a step", "seconds an epoch", "steps"}
    (store,) = told["stores"]
    for how in ("read from disk", "read from memory"):
        assert store[how].keys() >= {"open and first batch, s", "first batch, MB", "a draw of 16 shots, MB"}
    assert list(tmp_path.iterdir()) == [script.file], "the store is removed"


def test_tip_grid(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.load("tip_adapter"), "grid", {"beta": "1,2,3", "alpha": "1:10:1"})
    told = script("tip_grid", "--short")
    assert told["points"] == 10
    assert told["data"]["drawn"].keys() >= {"times as fast", "points that differ by a tie", "seconds of a part"}


def test_linear_probe(script: Script) -> None:
    sizes = ("--classes", "4", "--width", "16", "--repeats", "1", "--short")
    told = script("linear_probe", *sizes)
    assert told["equal_accuracy"].keys() == {"every_strength", "chosen_strength"}
    assert told["rows"][0].keys() >= {"side", "tolerance", "median_s", "every_strength"}


def test_bench_command(run: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)
    file = synthetic.save(tmp_path / "f.npz", synthetic.arrays())
    assert run("import", file, "--name", "mine").code == 0
    done = run("bench", "mine", "--repeats", "1", "--shots", "4", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told.keys() >= COMPARED | {"store", "seconds of a search's training", "torch", "cpu"}
    assert told["shape"]["runs"] == 33
    done = run("bench", "mine", "--repeats", "1", "--shots", "4")
    assert done.code == 0, done.err
    assert "one alpha after another" in done.out
    assert "stacked" in done.out
    assert "Products" not in done.out


def test_bench_tells_what_other_products_change(
    run: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasten(monkeypatch)
    assert run("import", synthetic.save(tmp_path / "f.npz", synthetic.arrays()), "--name", "mine").code == 0
    asked = ("bench", "mine", "--repeats", "1", "--shots", "4", "--products")
    done = run(*asked, "tf32")
    assert (done.code, "--products tf32 is for cuda" in done.err) == (2, True), done.err
    if not torch.backends.mkldnn.is_available():
        return
    done = run(*asked, "bf16", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)["products"]
    assert told["epochs"] == 100
    assert told["seconds"].keys() == told["mean accuracy"].keys() == {"fp32", "bf16"}
    assert abs(told["points of accuracy gained"]["mean"]) <= abs(told["points of accuracy gained"]["furthest"])
    assert "Products bf16" in run(*asked, "bf16").out


def test_bench_of_a_store_without_text_says_so(run: CommandLine, tmp_path: Path) -> None:
    arrays = synthetic.arrays()
    del arrays["text_features"]
    assert run("import", synthetic.save(tmp_path / "f.npz", arrays), "--name", "bare").code == 0
    done = run("bench", "bare")
    assert done.code == 2
    assert "needs text weights" in done.err


# -- what the scripts stand on ---------------------------------------------------------------------------------------


def _grid(**changes: Any) -> bench.Grid:
    task = synthetic.task()
    made = bench.Grid(
        alphas=(0.0, 0.3, 0.9),
        tasks=(task,),
        init_seeds=(1,),
        rows=(Rows(image=task.image[:, 0], label=task.label),),
        recipe=replace(recipes.make("coop", shots=16, dataset=""), epochs=4, batch_size=16, lr=0.02, warmup_lr=None),
    )
    return replace(made, **changes)


def test_the_loop_ends_where_the_stack_does() -> None:
    grid = _grid()
    found = bench.compare(grid, 1)
    assert found["gap of parameters, of the way trained"]["max"] < 1e-3
    moved = [one["up"] - begin(grid.tasks[0], 1)["up"] for one in bench.stacked(grid)]
    assert min(float(way.abs().max()) for way in moved[1:]) > 1e-3, "ways that went nowhere end alike"
    assert found["shape"]["steps"] == 8


def test_ways_that_end_apart_are_refused() -> None:
    grid = _grid()
    ours, theirs = bench.stacked(grid), bench.one_by_one(grid).params
    bench.check_equal(grid, ours, theirs)
    way = theirs[1]["up"] - begin(grid.tasks[0], 1)["up"]
    ours[1]["up"] += 0.1 * way
    with pytest.raises(bench.UnequalError, match="no speed to tell"):
        bench.check_equal(grid, ours, theirs)


def test_accuracies_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "WITHIN", float("inf"))
    monkeypatch.setattr(bench, "TYPICALLY", float("inf"))
    grid = _grid(alphas=(0.0, 0.9))
    ours, theirs = bench.stacked(grid), bench.one_by_one(grid).params
    bench.check_equal(grid, ours, theirs)
    astray = {name: torch.roll(value, 1, dims=1) for name, value in ours[1].items()}
    with pytest.raises(bench.UnequalError, match="rows right"):
        bench.check_equal(grid, [ours[0], astray], theirs)


def test_every_run_a_little_apart_is_refused() -> None:
    """What no single run would be refused for."""
    grid = _grid()
    ours, theirs = bench.stacked(grid), bench.one_by_one(grid).params
    for own in ours:
        own["up"] += 0.01 * (own["up"] - begin(grid.tasks[0], 1)["up"])
    with pytest.raises(bench.UnequalError):
        bench.check_equal(grid, ours, theirs)


def test_a_long_epoch_is_cut_and_multiplied_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ENOUGH_STEPS", 1)
    grid = _grid()
    small = bench.cut(grid)
    assert len(small.tasks[0].label) == 16
    assert set(small.tasks[0].label.tolist()) == set(range(5)), "images from all over the draw"
    assert small.num_steps == grid.num_steps // 2 == 4
    found = bench.compare(grid, 1)
    assert (found["shape"]["images"], found["shape"]["images a sampled epoch"]) == (40, 16)
    each, step = found["seconds an epoch of the whole grid"]["loop"], found["ms a step of the whole grid"]["loop"]
    assert each == pytest.approx(2 * step / 1e3, rel=0.02), "two steps an epoch of 40 images"


@pytest.mark.parametrize("last_batch", ["drop", "keep"])
def test_the_loop_sees_the_engine_s_batches(last_batch: str) -> None:
    """40 images in batches of 16: dropped or kept, the rest of 8 counts alike for both."""
    recipe = replace(recipes.make("coop", shots=16, dataset=""), epochs=3, batch_size=16, last_batch=last_batch)
    task = synthetic.task()
    (ours,) = train(
        [Run(method=registry.load("clip_adapter")(alpha=0.5), lr=recipe.lr, draw=0, init_seed=2)], [task], recipe
    )
    theirs = fit_one(task, cached_rows(task), 0.5, init_seed=2, recipe=recipe)
    torch.testing.assert_close(ours["up"], theirs["up"], rtol=0, atol=1e-5)
    seen = list(EpochOrder(task, 2, recipe))
    assert (
        len(seen)
        == (32 if last_batch == "drop" else 40)
        == 16 * bench.num_batches(40, recipe) - (0 if last_batch == "drop" else 8)
    )


def test_flops_of_a_step() -> None:
    """ImageNet's, by hand: 6.7 MFLOP a row forward and backward at D 1024, B 256, C 1000."""
    task = synthetic.task(classes=1000, shots=1, views=1, dim=1024)
    assert bench.step_flops(task, 1) == 5 * 2 * 1024 * 256 + 2 * 2 * 1024 * 1000 == 6_717_440


def test_ways_take_turns() -> None:
    seen: list[str] = []
    seconds, given = turns(
        {"a": lambda: seen.append("a"), "b": lambda: seen.append("b") or "told"}, 2, torch.device("cpu")
    )
    assert "".join(seen) == "ababab"
    assert [len(each) for each in seconds.values()] == [2, 2]
    assert given == {"a": None, "b": "told"}


def test_the_matrix_rate_is_a_rate() -> None:
    rate = matrix_rate(torch.device("cpu"), size=128, tries=2)
    assert np.isfinite(rate)
    assert rate > 0

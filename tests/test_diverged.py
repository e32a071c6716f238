"""Runs whose loss is not finite: named, never chosen before a finite one, and no harm to the others."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from featcache import recipes, registry
from featcache.importing import import_npz
from featcache.loading import present
from featcache.outcome import Outcome
from featcache.preparing import Settings
from featcache.search import search
from featcache.selection import FAILED, PROTOCOLS, Score, choose
from featcache.store import Store
from featcache.training import Run, train
from tests import synthetic
from tests.commandline import Run as Command

WILD = 1e38
"""A learning rate that no run survives."""


@pytest.fixture
def store(home: Path, tmp_path: Path) -> Store:
    return Store(import_npz(synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), name="toy"))


def fit(store: Store, grid: dict[str, tuple[Any, ...]], protocol: str, how: str = "per-draw") -> Outcome:
    settings = Settings(adapter="clip_adapter", grid=grid, shots=4, shot_seeds=(1, 2), protocol=protocol, choose=how)
    return search(store, settings, lambda shots: replace(recipes.make("coop", shots=shots, dataset="any"), epochs=3))


@pytest.mark.parametrize("how", ["per-draw", "pooled"])
@pytest.mark.parametrize("protocol", [protocol for protocol in PROTOCOLS if protocol != "fixed"])
def test_a_diverged_run_is_named_and_not_chosen(store: Store, protocol: str, how: str) -> None:
    outcome = fit(store, {"alpha": (0.5,), "lr": (WILD, 0.002)}, protocol, how)
    assert [run.diverged for run in outcome.runs] == [True, False] * 2
    assert [run.chosen for run in outcome.runs] == [False, True] * 2
    (note,) = [note for note in outcome.notes if "diverged" in note]
    assert "2 of 4 runs diverged" in note
    assert "lr 1e+38 seed 1, lr 1e+38 seed 2" in note
    assert "try a lower --lr" in note


def test_under_fixed_it_is_named_too_though_nothing_else_could_be_chosen(store: Store) -> None:
    outcome = fit(store, {"alpha": (0.5,), "lr": (WILD,)}, "fixed")
    assert [(run.chosen, run.diverged, run.selection) for run in outcome.runs] == [(True, True, None)] * 2
    assert any("2 of 2 runs diverged" in note and "seed 1" in note for note in outcome.notes)


def test_no_accuracy_outweighs_a_loss_that_is_not_finite() -> None:
    nan, inf = float("nan"), float("inf")
    scores = [
        FAILED,
        Score(accuracy=0.9, loss=nan, num_rows=9),
        Score(accuracy=0.95, loss=inf, num_rows=9),
        Score(accuracy=0.1, loss=2.0, num_rows=9),
    ]
    for order in (scores, scores[::-1]):
        alphas = [0.0] * 4
        assert order[choose(order, alphas)].loss == 2.0
        lost = [score for score in order if score.loss != 2.0]
        assert lost[choose(lost, alphas)].accuracy == 0.95
    assert choose([FAILED, FAILED], [0.5, 0.2]) == 1


@pytest.mark.parametrize("preset", ["coop", "adamw"])
@pytest.mark.parametrize("name", [name for name in sorted(registry.known()) if hasattr(registry.load(name), "init")])
def test_a_diverged_run_changes_no_bit_of_the_others_in_its_stack(name: str, preset: str) -> None:
    method = registry.load(name)()
    task = present(synthetic.task_with_tower(), method.views)
    recipe = replace(recipes.make(preset, shots=8, dataset="any"), epochs=3, batch_size=16, warmup_lr=None)

    def stack(middle: float) -> list[dict[str, torch.Tensor]]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # one stack
        try:
            return train(
                [Run(method=method, lr=lr, draw=0, init_seed=1) for lr in (0.01, middle, 0.02)], [task], recipe
            )
        finally:
            torch.set_num_threads(threads)

    sound, wild = stack(0.015), stack(WILD)
    assert not all(value.isfinite().all() and value.abs().max() < 1e9 for value in wild[1].values())
    for place in (0, 2):
        assert all(torch.equal(value, wild[place][key]) for key, value in sound[place].items())
        assert all(value.isfinite().all() for value in wild[place].values())


def test_table_plot_json_and_record_survive(run: Command, tmp_path: Path) -> None:
    run("import", synthetic.save(tmp_path / "toy.npz", synthetic.arrays()), "--name", "toy")
    few = ("--shots", "4", "--seeds", "1,2", "--epochs", "3", "--lr", str(WILD))
    for grid in ("0,0.5,1", "0.5,0.7,1"):  # with and without a run that is finite
        said = run("fit", "toy", "--alpha-grid", grid, *few, "--plot", tmp_path / "curve.svg")
        assert said.code == 0, said.err
        assert "runs diverged (their loss is not finite)" in " ".join(said.err.split())
        assert (tmp_path / "curve.svg").stat().st_size > 1000
        text = run("fit", "toy", "--alpha-grid", grid, *few, "--json").out
        assert "NaN" not in text
        made = json.loads(text)
        assert made["runs"][1]["test"]["loss"] is None
        newest = json.loads(run("results", "--json").out)[0]["id"]
        kept = json.loads(run("results", str(newest), "--json").out)
        assert kept["runs"][1]["test_loss"] is None
        assert any("diverged" in note for note in kept["notes"])
        assert run("results", str(newest)).code == 0
    said = run("fit", "toy", "--alpha-grid", "0.5", *few, "--select", "fixed", "--json")
    assert said.code == 0, said.err
    newest = json.loads(run("results", "--json").out)[0]["id"]
    kept = json.loads(run("results", str(newest), "--json").out)
    assert any("2 of 2 runs diverged" in note for note in kept["notes"])  # told after test, and recorded


def test_a_mean_over_what_is_no_number_is_none() -> None:
    from featcache.outcome import mean_spread

    for values in ([float("nan"), 0.5], [float("nan")], []):
        assert all(math.isnan(value) for value in mean_spread(values))

"""Steps that are recorded and replayed, with a recorder that runs on a CPU: replaying does what was recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from featcache import recipes, registry, training
from featcache.captured import Replayed
from featcache.task import Method
from featcache.training import Run, train
from tests import synthetic


@pytest.mark.parametrize("preset", ["coop", "adamw", "taskres", "tip-adapter-f"])
@pytest.mark.parametrize("rates", [(0.02, 0.02), (0.02, 0.005)])
def test_replayed_steps_end_where_plain_ones_do(
    preset: str, rates: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = synthetic.task()
    recipe = replace(recipes.make(preset, shots=16, dataset="any"), epochs=4, batch_size=6, last_batch="keep")
    methods: list[Method] = [registry.load("clip_adapter")(alpha=alpha) for alpha in (0.4, 0.9)]
    runs = [Run(method=method, lr=lr, draw=0, init_seed=1) for method, lr in zip(methods, rates, strict=True)]
    plain = train(runs, [task], recipe)
    recorded = []

    def record(do: Callable[[], None]) -> Callable[[], None]:
        recorded.append(do)
        return do

    monkeypatch.setattr(training, "recorder", lambda _: record)
    for one, other in zip(train(runs, [task], recipe), plain, strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=0, atol=0)
    assert bool(recorded) == (recipe.schedule != "cosine-step"), "a rate that changes at every step is not recorded"


def test_a_recording_is_used_until_it_is_renewed_and_smaller_batches_go_without() -> None:
    done: list[tuple[str, int, float]] = []
    recordings = []

    def step(name: str) -> Callable[[Tensor, Tensor], None]:
        return lambda image, label: done.append((name, image.shape[1], float(image.sum() + label.sum())))

    def record(do: Callable[[], None]) -> Callable[[], None]:
        recordings.append(do)
        return do

    replayed = Replayed(record)

    def batch(rows: int, value: float) -> tuple[Tensor, Tensor]:
        return torch.full((1, rows, 1), value), torch.zeros(1, rows)

    for value in (1.0, 2.0, 3.0):
        replayed(step("first"), *batch(2, value))
    replayed(step("first"), *batch(1, 4.0))
    replayed.renew()
    replayed(step("second"), *batch(2, 5.0))
    assert done == [("first", 2, 2.0), ("first", 2, 4.0), ("first", 2, 6.0), ("first", 1, 4.0), ("second", 2, 10.0)]
    assert len(recordings) == 2, "one for each step that was asked for, after the very first"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_grid_on_a_gpu_ends_where_an_eager_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    task = synthetic.task()
    task = replace(task, text=task.text.cuda(), image=task.image.cuda(), label=task.label.cuda())
    recipe = replace(recipes.make("coop", shots=16, dataset="any"), epochs=4, batch_size=6)
    runs = [
        Run(method=registry.load("clip_adapter")(alpha=alpha), lr=0.02, draw=0, init_seed=1) for alpha in (0.4, 0.9)
    ]
    captured = train(runs, [task], recipe)
    monkeypatch.setattr(training, "recorder", lambda _: None)
    for one, other in zip(captured, train(runs, [task], recipe), strict=True):
        torch.testing.assert_close(one["up"], other["up"], rtol=0, atol=1e-5)

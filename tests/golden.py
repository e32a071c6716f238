"""Golden figures: what every method gives on a small fixed task, so that no number changes unseen.

    python -m tests.golden            what differs from golden.json
    python -m tests.golden --write    writes golden.json anew

A commit that changes golden.json says why each of its numbers moved.

A trained method tells its loss on the training rows after 1, 5 and 20 full-batch steps, a solved one the lengths of
what it solved; both, how many of 48 val and 120 test images they then get right. Data come from NumPy's generator and
starts from torch's uniform one, which are the same on every CPU; sums are not, hence TOLERANCE.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from featcache import recipes, registry
from featcache.loading import present
from featcache.ops import normalise
from featcache.recipes import Recipe
from featcache.selection import score
from featcache.task import Method, Params, Penalised, Task, Trained
from featcache.training import Run, predict, single_hyper, train

FILE = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-4
"""Relative, of losses and lengths. The last bit of every input, or another number of threads, moves them by 2e-6."""
ITEMS = 1
"""How many images a count may be off by."""
STEPS = (1, 5, 20)
CPU = torch.device("cpu")
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "clip_adapter": [{"where": "text"}, {"where": "both"}, {"ratio": "learned"}, {"ratio": "predicted"}],
    "cross_modal": [{"start": "random"}],
    "elevater": [{"start": "random"}, {"projections": 1}],
}
"""Configurations beside the default one whose code is another."""
TIGHT: dict[str, dict[str, Any]] = {"linear_probe": {"tolerance": 1e-6}}
"""In place of a default that stops where rounding may decide between one more step and none."""


def cases() -> dict[str, Method]:
    """The configurations with figures, by name; a method that needs a text tower has none here."""
    kinds = {name: registry.load(name) for name in sorted(registry.known())}
    made = {}
    for name, kind in kinds.items():
        if "tower" not in kind.needs:
            for fields in [TIGHT.get(name, {}), *VARIANTS.get(name, [])]:
                made[" ".join([name, *(f"{key}={value}" for key, value in fields.items())])] = kind(**fields)
    return made


def figures(method: Method) -> dict[str, Any]:
    """What a configuration gives."""
    task, val, test = _data()
    own = present(task, method.views)
    if isinstance(method, Trained):
        fitted = [_trained(method, own, steps) for steps in STEPS]
        told: dict[str, Any] = {"loss": [_loss(method, params, own) for params in fitted]}
        params = fitted[-1]
    else:
        params = method.solve(own, single_hyper(method, CPU))  # type: ignore[attr-defined]
        told = {"length": {name: float(value.double().norm()) for name, value in params.items()}}
    return told | {"val": _right(method, params, val), "test": _right(method, params, test)}


def differences(found: dict[str, Any], golden: dict[str, Any]) -> list[str]:
    """Where figures are not the golden ones, in words."""
    told = []
    for what, slack in (("val", ITEMS), ("test", ITEMS)):
        if abs(found[what] - golden[what]) > slack:
            told.append(f"{what}: {found[what]} images right, {golden[what]} before")
    for what in ("loss", "length"):
        ours, theirs = _flat(found.get(what, {})), _flat(golden.get(what, {}))
        if ours.keys() != theirs.keys():
            told.append(f"{what}: of {', '.join(ours)}; before of {', '.join(theirs)}")
        told += [
            f"{what} {name}: {ours[name]:.8g}, {theirs[name]:.8g} before"
            for name in ours.keys() & theirs.keys()
            if not abs(ours[name] - theirs[name]) <= TOLERANCE * abs(theirs[name])
        ]
    return told


def read() -> dict[str, Any]:
    """The golden figures of each case."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def _data() -> tuple[Task, Task, Task]:
    """Training, val and test rows of 6 classes, 32 wide; training images in 3 views."""
    generator = np.random.default_rng(20240607)
    text = generator.normal(size=(6, 32)) / 32**0.5
    centre = text + 1.0 * generator.normal(size=(6, 32)) / 32**0.5

    def rows(per_class: int, views: int) -> Task:
        label = np.repeat(np.arange(6), per_class)
        noise = 3.5 * generator.normal(size=(len(label), views, 32)) / 32**0.5
        return Task(
            text=normalise(torch.from_numpy(text.astype(np.float32))),
            logit_scale=30.0,
            image=torch.from_numpy((3 * (centre[label][:, None] + noise)).astype(np.float32)),
            label=torch.from_numpy(label),
        )

    return rows(8, 3), rows(8, 1), rows(20, 1)


def _trained(method: Trained, task: Task, steps: int) -> Params:
    (params,) = train(
        [Run(method=method, lr=_recipe(method, steps).lr, draw=0, init_seed=1)], [task], _recipe(method, steps)
    )
    return params


def _recipe(method: Trained, steps: int) -> Recipe:
    """The method's own recipe at ten times its pace: one batch an epoch, so that an epoch is a step."""
    recipe = recipes.make(method.preset, shots=8, dataset="any")
    return replace(recipe, lr=10 * recipe.lr, warmup_lr=None, schedule="constant", batch_size=10**6, epochs=steps)


def _loss(method: Trained, params: Params, task: Task) -> float:
    image, hyper = task.image[:, 0], single_hyper(method, CPU)
    if isinstance(method, Penalised):
        return float(method.loss(params, image, task.label, task, hyper))
    return float(F.cross_entropy(predict(method, params, image, task), task.label))


def _right(method: Method, params: Params, rows: Task) -> int:
    return round(score(predict(method, params, rows.image[:, 0], rows), rows.label).accuracy * len(rows.label))


def _flat(values: dict[str, float] | list[float]) -> dict[str, float]:
    named = (
        values if isinstance(values, dict) else dict(zip((f"after {steps}" for steps in STEPS), values, strict=True))
    )
    return {name: float(value) for name, value in named.items()}


def _main(arguments: list[str]) -> int:
    found = {name: figures(method) for name, method in cases().items()}
    golden = read() if FILE.exists() else {}
    told = [
        f"{name}: {line}"
        for name, each in found.items()
        for line in (differences(each, golden[name]) if name in golden else ["new"])
    ]
    told += [f"{name}: gone" for name in golden.keys() - found.keys()]
    print("\n".join(told) or "all as in golden.json")  # noqa: T201
    if arguments == ["--write"]:
        # What is within tolerance stays as it was, so that a diff shows what moved.
        kept = {
            name: golden[name] if name in golden and not differences(each, golden[name]) else each
            for name, each in found.items()
        }
        FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 1 if told and arguments != ["--write"] else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))

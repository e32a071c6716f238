"""Claim: Tip-Adapter's grid of 200 betas x 20 alphas at least 30 times as fast as the loop the authors published.

    python benchmarks/tip_grid.py [--short] [--write [FILE]]      short: a tenth of the betas on drawn data

The loop makes the affinities, the cache's scores, zero-shot's logits and the top class again at each of the 4000
points, in float32. Against it stand two things: `sweep` and the top class at each point, which is the same work with
what is shared hoisted; and `score_each`, which is what a search runs and takes each point's cross-entropy too, so that
ties can be broken. All see the same keys and the same 1295 rows to choose on (70 classes x 16 shots, D 512, the size of
Caltech101's classes in caltech70), in one process. The grid is cut into ten parts of 20 betas and the ways take turns
at each, so that what else the machine does meets all of them: the median and range are over the parts. Each part
begins anew, affinities included. The number of rows right at each of the 4000 points must be equal in all three but
for ties: where it differs, the row's two top logits are made again in float64 and must lie within 2e-5 of each other,
else the benchmark ends with an error. Such points are named in the result.

Data: drawn here from a seed; and, where FEATCACHE_REAL_DATA names a folder that holds them, the genuine features
features/caltech70_vitb32.npz. The rate of a plain matrix product before and after, and the machine's load, tell
whether the machine was busy with other things: read the ratio then, not the seconds.

What was found: docs/performance.md.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor

from featcache import grids, registry
from featcache.loading import Rows
from featcache.ops import normalise
from featcache.selection import score_each
from featcache.task import Method, Params, Task
from featcache.training import predict_each, single_hyper

PARTS = 10
TIE = 2e-5
"""Logits of about 30 that differ by less are told apart by rounding: some ten units in the last place of float32."""
TipAdapter = registry.load("tip_adapter")
Way = Callable[[Task, Rows, Params, list[Method]], list[int]]


def main() -> None:
    """Times every way on every data set, prints the table and writes the JSON."""
    asked = common.options(common.parser(__doc__ or ""))
    alphas, betas = (grids.parse(TipAdapter.grid[name]) for name in ("alpha", "beta"))
    if asked.short:
        betas = betas[::10]
    points: list[Method] = [TipAdapter(beta=beta, alpha=alpha) for beta, alpha in itertools.product(betas, alphas)]  # type: ignore[call-arg]
    with common.observed(common.CPU) as machine:
        measured = {name: measure(task, rows, points) for name, task, rows in data_sets(asked.short)}
    result = {
        "data": measured,
        "points": len(points),
        "parts": PARTS,
        "note": "other processes may have run on the machine: the ways took turns, so the ratios are comparable",
        **machine,
    }
    tell(result)
    common.judge(verdicts(result))
    common.write(asked, "tip_grid", result)


def published(task: Task, rows: Rows, params: Params, points: list[Method]) -> list[int]:
    """Rows right at each point, everything made again at each, as in the authors' search."""
    keys, values = params["keys"].mT.contiguous(), params["values"]
    unit, right = normalise(rows.image), []
    for point in points:
        alpha, beta = point.alpha, point.beta  # type: ignore[attr-defined]
        affinity = unit @ keys
        votes = ((-1) * (beta - beta * affinity)).exp() @ values
        logits = task.logit_scale * unit @ task.text.mT + votes * alpha
        right.append(int((logits.topk(1, dim=1).indices[:, 0] == rows.label).sum().item()))
    return right


def swept(task: Task, rows: Rows, params: Params, points: list[Method]) -> list[int]:
    """Rows right at each point, what points share made once."""
    each = predict_each(points, params, rows.image, task)
    return [int((logits.argmax(dim=1) == rows.label).sum().item()) for logits in each]


def scored(task: Task, rows: Rows, params: Params, points: list[Method]) -> list[int]:
    """Rows right at each point from what a search does: accuracy and cross-entropy."""
    return [round(score.accuracy * score.num_rows) for score in score_each(points, params, rows, task)]


LOOP, TARGET = "published loop", 30
WAYS: dict[str, Way] = {LOOP: published, "sweep": swept, "sweep and scores": scored}


def measure(task: Task, rows: Rows, points: list[Method]) -> dict[str, Any]:
    """Seconds of each way, their ratios and the best accuracy; raises where two ways disagree at any point."""
    method = TipAdapter()
    params = method.solve(task, single_hyper(method, common.CPU))  # type: ignore[attr-defined]
    for way in WAYS.values():
        way(task, rows, params, points[:40])
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    found: dict[str, list[int]] = {name: [] for name in WAYS}
    size = len(points) // PARTS
    for part in (points[first : first + size] for first in range(0, len(points), size)):
        for name, way in WAYS.items():
            start = time.perf_counter()
            found[name] += way(task, rows, params, part)
            seconds[name].append(time.perf_counter() - start)
    unequal = {name: differing(right, found[LOOP], points) for name, right in found.items()}
    for name, where in unequal.items():
        for point, more in where:
            if abs(more) > num_ties(task, rows, params, point):
                raise SystemExit(f"{name} and the {LOOP} differ by {more} rows at {point}, and no tie explains it")
    best = max(found[LOOP])
    return {
        "shape": {"rows": len(rows.label), "keys": len(task.label), "classes": task.num_classes, "width": task.dim},
        "best accuracy": round(best / len(rows.label), 4),
        "points at the best accuracy": found[LOOP].count(best),
        "points that differ by a tie": {name: [f"{p}: {more:+d}" for p, more in at] for name, at in unequal.items()},
        "seconds of the whole grid": {name: round(sum(values), 2) for name, values in seconds.items()},
        "seconds of a part": {name: common.summary(values) for name, values in seconds.items()},
        "times as fast": {name: common.ratios(seconds[LOOP], values) for name, values in seconds.items()},
    }


def differing(right: list[int], other: list[int], points: list[Method]) -> list[tuple[Method, int]]:
    """The points where the numbers of rows right differ, and by how many."""
    return [(point, a - b) for point, a, b in zip(points, right, other, strict=True) if a != b]


def num_ties(task: Task, rows: Rows, params: Params, point: Method) -> int:
    """How many rows have two top classes closer than float32 can tell, by logits in float64."""
    unit, keys = normalise(rows.image.double()), params["keys"].double()
    votes = (-point.beta * (1 - unit @ keys.mT)).exp() @ params["values"].double()  # type: ignore[attr-defined]
    logits = task.logit_scale * unit @ task.text.double().mT + point.alpha * votes  # type: ignore[attr-defined]
    top, second = logits.topk(2, dim=1).values.unbind(1)
    return int((top - second < TIE).sum().item())


def data_sets(short: bool) -> Iterable[tuple[str, Task, Rows]]:
    """The drawn data set, and, unless the run is short, the genuine one where it is."""
    yield "drawn", *drawn()
    folder = os.environ.get("FEATCACHE_REAL_DATA") if not short else None
    file = Path(folder) / "features" / "caltech70_vitb32.npz" if folder else None
    if file and file.is_file():
        yield "caltech70_vitb32", *genuine(file)


def drawn(*, classes: int = 70, shots: int = 16, dim: int = 512, num_rows: int = 1295) -> tuple[Task, Rows]:
    """Unit embeddings around class centres near the text rows."""
    generator = torch.Generator().manual_seed(0)
    text = normalise(torch.randn(classes, dim, generator=generator))
    centre = text + 1.5 * normalise(torch.randn(classes, dim, generator=generator))

    def around(label: Tensor) -> Tensor:
        return normalise(centre[label] + 4 * normalise(torch.randn(len(label), dim, generator=generator)))

    label = torch.arange(classes).repeat_interleave(shots)
    task = Task(text=text, logit_scale=100.0, image=around(label)[:, None], label=label)
    label = torch.arange(num_rows) % classes
    return task, Rows(image=around(label), label=label)


def genuine(file: Path) -> tuple[Task, Rows]:
    """The file's 16 shots a class and its whole val split."""
    with np.load(file) as arrays:
        rows = {
            name: torch.from_numpy(arrays[f"{name}_features"].astype(np.float32)) for name in ("train", "val", "text")
        }
        label = {name: torch.from_numpy(arrays[f"{name}_labels"].astype(np.int64)) for name in ("train", "val")}
        scale = float(arrays["logit_scale"])
    task = Task(text=normalise(rows["text"]), logit_scale=scale, image=rows["train"][:, None], label=label["train"])
    return task, Rows(image=rows["val"], label=label["val"])


def verdicts(result: dict[str, Any]) -> list[common.Verdict]:
    """Of the same work, top classes alone, and of a search's, cross-entropies too."""
    return [
        common.Verdict(
            f"{name}, {way}: at least {TARGET}x the loop", f"{common.spread(found)}x", found["median"] >= TARGET
        )
        for name, told in result["data"].items()
        for way, found in told["times as fast"].items()
        if way != LOOP
    ]


def tell(result: dict[str, Any]) -> None:
    """The table, and what tells whether the machine was busy."""
    measured = result["data"]
    rows = [
        [
            name,
            way,
            f"{whole:g}",
            common.spread(result["seconds of a part"][way]),
            common.spread(result["times as fast"][way]),
        ]
        for name, result in measured.items()
        for way, whole in result["seconds of the whole grid"].items()
    ]
    title = f"{result['points']} points in {PARTS} parts: median (range) over the parts; target {TARGET} times as fast"
    common.show(["data", "way", "whole grid, s", "a part, s", "times as fast"], rows, title)
    for name in ("matrix product, GFLOP/s, before and after", "load average, before and after"):
        common.say(f"{name}: {result[name]}")


if __name__ == "__main__":
    main()

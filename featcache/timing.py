"""Seconds side by side: ways that take turns, the matrix rate around them, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

from featcache import __version__

_PRODUCT = {"cpu": 1536, "cuda": 8192}
"""Sizes of the square product that tells the matrix rate: large enough to be the product's rate, and no call's."""


def now(device: torch.device) -> float:
    """Seconds of a steady clock, once the device has done all it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def turns(
    ways: Mapping[str, Callable[[], Any]],
    repeats: int,
    device: torch.device,
    *,
    warm_up: int = 1,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each way at each turn, and what each gave last.

    A, B, A, B, ...: what else the machine does meets every way. The first `warm_up` turns are not counted. `progress`
    is told of each turn that is done, and of how many there are.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    given: dict[str, Any] = {}
    for turn in range(warm_up + repeats):
        for name, way in ways.items():
            start = now(device)
            given[name] = way()
            taken = now(device) - start
            if turn >= warm_up:
                seconds[name].append(taken)
        progress(1, warm_up + repeats)
    return seconds, given


def summary(values: list[float]) -> dict[str, float]:
    """Median and range, to three digits."""
    kinds = {"median": median(values), "min": min(values), "max": max(values)}
    return {kind: three_digits(value) for kind, value in kinds.items()}


def three_digits(value: float) -> float:
    """The number to three significant digits."""
    return float(f"{value:.3g}")


def ratios(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times as fast, turn by turn: median and range."""
    return summary([one / other for one, other in zip(slow, fast, strict=True)])


def matrix_rate(device: torch.device, *, size: int | None = None, tries: int = 8) -> float:
    """FLOP/s of a product of two square float32 matrices, the best of some tries: what the machine can do."""
    size = size or _PRODUCT.get(device.type, _PRODUCT["cpu"])
    left, right = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    out = torch.empty(size, size, device=device)
    seconds = []
    for _ in range(tries):
        start = now(device)
        torch.mm(left, right, out=out)
        seconds.append(now(device) - start)
    return 2 * size**3 / min(seconds)


@contextmanager
def observed(device: torch.device) -> Iterator[dict[str, Any]]:
    """Facts of the machine, to be written beside what is measured inside; the matrix rate and the load frame it."""
    facts = machine(device)
    rates, loads = [matrix_rate(device)], [_load()]
    try:
        yield facts
    finally:
        rates.append(matrix_rate(device))
        loads.append(_load())
        facts["matrix product, GFLOP/s, before and after"] = [three_digits(rate / 1e9) for rate in rates]
        facts["load average, before and after"] = loads


def machine(device: torch.device) -> dict[str, Any]:
    """Software, processor and threads. No name and no path of the machine."""
    facts = {
        "featcache": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "float32 products": torch.get_float32_matmul_precision(),
    }
    if device.type == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return facts


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def _load() -> float | None:
    """Processes that ran or waited in the last minute, on average; None on systems that do not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None

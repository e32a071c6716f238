"""Shards as tasks of a Ray cluster: retried where a worker dies, handed to whoever is free.

Only this process writes parts and the store, so the workers need no access to the cache folder: they need featcache,
the backbone's weights, and the images. Ray sends tasks and results between the processes of one user's cluster as
pickles; no file of featcache's is one.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from featcache.engines.sharing import Sharing
from featcache.errors import ConfigError, DataError, FeatcacheError, InputError

if TYPE_CHECKING:
    import torch

    from featcache.backbones import Backbone
    from featcache.extraction.encode import Machine, Progress, Work
    from featcache.extraction.parts import PartContents
    from featcache.extraction.plan import Plan
    from featcache.extraction.shards import Item
    from featcache.store import Tower

_RETRIES = 3
"""How often a task is given to another worker after its own died."""
_GPU_WORKERS = 8
"""Decoding processes beside a GPU unless --workers says otherwise."""


class Encoder(NamedTuple):
    """What a worker builds its encoder from, and what it must then be."""

    name: str
    weights: str | None
    precision: str
    tower: Tower


class OnRay:
    """The cluster that RAY_ADDRESS names, else one running on this machine, else one started for this process."""

    leads = True

    def __init__(self) -> None:
        self._ray = connected()

    def place(self, device: str, workers: int | None) -> tuple[torch.device, int]:
        """A GPU and its decoding processes a task where the cluster has GPUs, else a core a task."""
        import torch

        if device == "auto":
            device = "cuda" if self._ray.cluster_resources().get("GPU") else "cpu"
        on_gpu = device.startswith("cuda")
        return torch.device(device), (_GPU_WORKERS if on_gpu else 0) if workers is None else workers

    def encode(self, plan: Plan, backbone: Backbone, machine: Machine, *, progress: Progress) -> bool:
        """Hand out the shards, so many at a time that each slot of the cluster has its next one waiting."""
        from featcache.extraction.encode import Work

        ray = self._ray
        encoder = Encoder(backbone.name, backbone.weights, backbone.precision, plan.identity.tower)
        asked = resources(machine.device.type, machine.workers)
        task = ray.remote(_encode_shard).options(max_retries=_RETRIES, **asked)
        work = ray.put(Work.of(plan))
        with Sharing(plan) as sharing:

            def do(shards: Iterator[int]) -> None:
                # Tasks that are left when one fails are not cancelled: Ray (2.60) aborts the process where one ends at
                # that moment. They end by themselves, and nobody fetches what they give.
                running: dict[Any, int] = {}
                while True:
                    while len(running) < 2 * slots(asked):
                        shard = next(shards, None)
                        if shard is None:
                            break
                        items = [sharing.shards[index] for index in sharing.shards.images(shard)]
                        running[task.remote(work, items, encoder, machine)] = shard
                    if not running:
                        return
                    done, _ = ray.wait(list(running), num_returns=1)
                    part = _result(ray, done[0])
                    sharing.put(running.pop(done[0]), part)
                    progress(sum(map(len, (part.row, part.unreadable))))

            sharing.divide(do, begin=0.0, wait=True, progress=progress)
            return sharing.shared


def ray_module() -> Any:
    """Ray; raises ConfigError that says how to get it."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"--engine ray needs Ray ({error}): pip install 'featcache[ray]'") from error
    return ray


def connected() -> Any:
    """Ray, connected to a cluster; raises InputError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone unless the user says so
    ray = ray_module()
    if ray.is_initialized():
        return ray
    if os.environ.get("RAY_ADDRESS", "").startswith("ray://"):
        raise ConfigError(
            "RAY_ADDRESS is a Ray client's (ray://), which leaves this process outside of the cluster; run the command "
            "on a machine of the cluster, or send it there with `ray job submit`"
        )
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"--engine ray: no cluster can be reached or started: {error}") from error
    if in_main:
        signal.signal(signal.SIGTERM, before)  # Ray puts its own in place
    return ray


def resources(device: str, workers: int) -> dict[str, int]:
    """What one task takes of a machine."""
    return {"num_cpus": max(1, workers), **({"num_gpus": 1} if device == "cuda" else {})}


def slots(asked: Mapping[str, int]) -> int:
    """How many tasks that ask for so much the cluster can run at once, as it is now: machines come and go."""
    has = ray_module().cluster_resources()
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    return max(1, min(int(has.get(names[key], 0) // number) for key, number in asked.items()))


def _result(ray: Any, reference: Any) -> PartContents:
    """What a task gave; raises DataError as it did, and InputError where the cluster could not carry it out."""
    try:
        part, fault = ray.get(reference)
    except ray.exceptions.RayError as error:
        raise InputError(
            f"a shard failed on the cluster, after {_RETRIES} more tries where its worker died: {last_line(error)}; "
            "shards that are done are kept, and the same command goes on from there"
        ) from error
    if fault:
        raise DataError(fault)
    return part  # type: ignore[no-any-return]


def last_line(error: Exception) -> str:
    """What an error of Ray's says after the traces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _encode_shard(work: Work, items: list[Item], encoder: Encoder, machine: Machine) -> tuple[PartContents | None, str]:
    """On a worker: a shard's part, or why there is none."""
    from featcache.extraction.encode import encode

    try:
        backbone = _backbone(encoder)
        [(_, part)] = encode(work, items, range(len(items)), backbone, machine, progress=lambda _: None)
    except FeatcacheError as error:
        return None, str(error)
    return part, ""


@lru_cache(maxsize=1)  # a worker gets many shards of one extraction
def _backbone(encoder: Encoder) -> Backbone:
    """The encoder; raises ConfigError where the worker's weights are not the driver's."""
    import platform

    from featcache.backbones import Backbone

    backbone = Backbone(encoder.name, encoder.weights, encoder.precision)
    if backbone.identity.tower != encoder.tower:
        raise ConfigError(
            f"{platform.node()} has other weights for {encoder.name} than the machine that plans: "
            f"{backbone.identity.tower.checkpoint[:16]}, not {encoder.tower.checkpoint[:16]}"
        )
    return backbone

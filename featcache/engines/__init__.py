"""Where shards are encoded: in this process, in the processes that torchrun started, or on a Ray cluster.

An engine only hands shards to `extraction.encode.encode` and sees to it that their parts reach the cache folder. What
is in a part does not hang on who made it, so engines can be mixed, and one goes on where another was stopped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from featcache.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    import torch

    from featcache.backbones import Backbone
    from featcache.extraction.encode import Machine, Progress
    from featcache.extraction.plan import Plan

ENGINES: Final = ("here", "torchrun", "ray")


class Engine(Protocol):
    """What encodes a plan's missing rows and views."""

    @property
    def leads(self) -> bool:
        """Whether this process assembles the store and talks to the user."""
        ...

    def place(self, device: str, workers: int | None) -> tuple[torch.device, int]:
        """The device that encodes shards, and the decoding processes beside it, of what was asked; raises ConfigError.

        `device` is a name or `auto`; `workers` None leaves their number to the engine.
        """
        ...

    def encode(self, plan: Plan, backbone: Backbone, machine: Machine, *, progress: Progress) -> bool:
        """Put the parts of what is missing on disk; returns whether other processes had some of it in hand.

        Raises DataError for an unreadable image.
        """
        ...


def engine_named(name: str, environment: Mapping[str, str] = os.environ) -> Engine:
    """The engine; raises UnknownNameError, and ConfigError where what it needs is not there."""
    if name == "here":
        from featcache.engines.here import Here

        return Here()
    if name == "torchrun":
        from featcache.engines.here import Here

        return Here(*_ranks(environment))
    if name == "ray":
        from featcache.engines.on_ray import OnRay

        return OnRay()
    raise UnknownNameError("engine", name, ENGINES)


def _ranks(environment: Mapping[str, str]) -> tuple[int, int, int, int]:
    """What torchrun tells a process: its number, of how many, and the same on its own machine."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    try:
        rank, ranks, local_rank, local_ranks = (int(environment[name]) for name in names)
    except (KeyError, ValueError):
        raise ConfigError(
            f"--engine torchrun is for processes that torchrun starts, and {', '.join(names)} are not set: "
            "torchrun --nproc-per-node 2 -m featcache extract ... --engine torchrun"
        ) from None
    return rank, ranks, local_rank, local_ranks

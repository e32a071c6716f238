"""Shards encoded in this process, beside any others that work on the same store, whoever started them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from featcache.engines.sharing import Sharing

if TYPE_CHECKING:
    import torch

    from featcache.backbones import Backbone
    from featcache.extraction.encode import Machine, Progress
    from featcache.extraction.plan import Plan


class Here:
    """This process, perhaps one of several that torchrun started; the first of them leads."""

    def __init__(self, rank: int = 0, ranks: int = 1, local_rank: int = 0, local_ranks: int = 1) -> None:
        self.leads = rank == 0
        self._begin = rank / ranks
        self._local_rank = local_rank
        self._local_ranks = local_ranks

    def place(self, device: str, workers: int | None) -> tuple[torch.device, int]:
        """Of several processes on one machine each gets a GPU of its own, and its share of the cores."""
        from featcache.devices import pick_device

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        share = max(1, cores // self._local_ranks)
        return pick_device(device, self._local_rank), share if workers is None else workers

    def encode(self, plan: Plan, backbone: Backbone, machine: Machine, *, progress: Progress) -> bool:
        """Encode every shard that nobody else has in hand; where this process leads, wait for the others too."""
        from featcache.extraction.encode import Work, encode

        work = Work.of(plan)
        with Sharing(plan) as sharing:

            def do(taken: Iterable[int]) -> None:
                order = (index for shard in taken for index in sharing.shards.images(shard))
                for shard, part in encode(work, sharing.shards, order, backbone, machine, progress=progress):
                    sharing.put(shard, part)

            sharing.divide(do, begin=self._begin, wait=self.leads, progress=progress)
            return sharing.shared

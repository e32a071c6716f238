"""A plan's shards divided among all processes that work on the same store at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from featcache.extraction.parts import PartContents, part_path, write_part
from featcache.extraction.plan import Plan
from featcache.extraction.shards import Shards, shard_digest
from featcache.store.claims import Claims
from featcache.store.places import parts_folder
from featcache.store.replacing import state_of

_LOOK_S = 0.2
"""How often it is looked whether what others have in hand is done."""


class Sharing:
    """Which of a plan's shards are this process's to do; a context manager that gives up what is not finished."""

    def __init__(self, plan: Plan) -> None:
        self.shards = Shards(plan.missing, plan.manifest)
        self.others: dict[int, None] = {}
        """Shards that other processes have in hand."""
        self.shared = False
        """Whether others did, or will do, some of what was missing."""
        self._key = plan.spec.key
        self._place = plan.manifest.reader.place
        self._store = plan.store
        self._planned = plan.state
        self._seen = plan.seen
        self._claims = Claims(parts_folder(plan.spec.key))

    def divide(
        self, do: Callable[[Iterator[int]], None], *, begin: float, wait: bool, progress: Callable[[int], None]
    ) -> None:
        """Let `do` have every shard that nobody else has in hand, beginning at a fraction of them all.

        `wait`: until what others have in hand is done too; what they give up is this process's then.
        """
        first = int(begin * self.shards.count)
        do(self.take([*range(first, self.shards.count), *range(first)]))
        while wait and self.others:
            time.sleep(_LOOK_S)
            for views in self._done_elsewhere():
                progress(views)
            if free := list(self.take(list(self.others))):
                do(iter(free))

    def take(self, shards: Sequence[int]) -> Iterator[int]:
        """Those of the shards that are this process's to do, each claimed as it is asked for.

        Once another process has replaced the store there are no more: a new plan must be made.
        """
        for shard in shards:
            if state_of(self._store) != self._planned:
                self.shared = True
                self.others.clear()
                return
            name = self.name(shard)
            if not self._claims.take(name):
                self.shared = True
                self.others[shard] = None
                continue
            self.others.pop(shard, None)
            if self._is_done(name):
                self.shared = True
                self._claims.release(name)
            else:
                yield shard

    def put(self, shard: int, contents: PartContents) -> None:
        """Put a shard's part on disk; nobody need do it any more."""
        write_part(self._key, self.name(shard), contents)
        self._claims.release(self.name(shard))

    def _done_elsewhere(self) -> Iterator[int]:
        """How many embeddings each shard has that another process had in hand and has done since."""
        for shard in list(self.others):
            if self._is_done(self.name(shard)):
                del self.others[shard]
                yield len(self.shards.missing(shard)[1].row)

    def _is_done(self, name: str) -> bool:
        """Whether its part has been written since the plan was made."""
        path = part_path(self._key, name)
        try:
            written_ns = path.stat().st_mtime_ns
        except OSError:
            return False
        return written_ns != self._seen.get(path)

    def name(self, shard: int) -> str:
        """What other processes know the shard by."""
        return shard_digest(self._place, *self.shards.missing(shard))

    def __enter__(self) -> Self:
        self._claims.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._claims.__exit__(kind, error, trace)

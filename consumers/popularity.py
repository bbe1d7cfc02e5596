"""Events counted by item and hour, beside what else is done with them: the archive's process reads them anyway."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from store.catalogue import Overwritten
from store.connection import StoreUnavailable
from store.popularity import HOUR_MS, Popularity
from stream.decoding import EventColumns
from stream.events import item_key
from stream.loop import Handler

logger = logging.getLogger(__name__)
FLUSH_EVERY_S = 10.0


class Counting:
    """A handler that hands everything to another, and counts what that one took.

    Redelivery is harmless: the store knows how far each partition is counted. Nobody waits for a store that is away:
    counts wait in memory until it is back, and are lost with the process. log_identity: of the events topic. now:
    seconds, monotonic.
    """

    def __init__(
        self,
        handler: Handler[EventColumns],
        popularity: Popularity,
        log_identity: int,
        now: Callable[[], float],
        *,
        flush_every_s: float = FLUSH_EVERY_S,
    ) -> None:
        self._handler, self._popularity, self._log, self._now = handler, popularity, log_identity, now
        self._flush_every_s, self._flush_at = flush_every_s, now() + flush_every_s
        self._mine: set[int] = set()
        self._stored: dict[int, int | None] = {}  # position in the store; absent where that is not known yet
        self._next: dict[int, int] = {}  # offset behind the last that was counted
        self._counts: dict[int, Counter[tuple[str, int]]] = {}

    def assigned(self, partition: int) -> int | None:
        self._forget(partition)
        self._mine.add(partition)
        self._find(partition)
        return self._handler.assigned(partition)

    def revoked(self, partition: int) -> None:
        self._forget(partition)
        self._mine.discard(partition)
        self._handler.revoked(partition)

    def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
        stored = self._handler.handle(batches)
        for batch in batches:
            self._count(batch)
        if self._now() >= self._flush_at:
            self._flush()
        return stored

    def drain(self) -> Mapping[int, int]:
        stored = self._handler.drain()
        self._flush()
        return stored

    def _count(self, batch: EventColumns) -> None:
        partition = batch.partition
        if partition not in self._stored or not len(batch):
            return
        counted = self._next.get(partition, self._stored[partition] or 0)
        first = int(np.searchsorted(batch.offsets, counted))
        hours = (batch.times_ms[first:] // HOUR_MS).tolist()
        self._counts.setdefault(partition, Counter()).update(zip(batch.items[first:], hours, strict=True))
        self._next[partition] = max(counted, batch.next_offset)

    def _flush(self) -> None:
        self._flush_at = self._now() + self._flush_every_s
        for partition in list(self._counts):
            counts: dict[int, dict[int, int]] = {}
            for (item, hour), events in self._counts[partition].items():
                if item:  # erasures are of none
                    counts.setdefault(item_key(item), {})[hour] = events
            at, to = self._stored[partition], self._next[partition]
            try:
                self._popularity.add(self._source(partition), at, to, counts)
            except StoreUnavailable as error:
                logger.info("counts wait: %s", error)
            except Overwritten as error:
                logger.warning("partition %d is counted by somebody else: %s", partition, error)
                self._forget(partition)
                self._stored[partition] = error.position
            else:
                self._stored[partition] = to
                del self._counts[partition]
        for partition in self._mine - self._stored.keys():
            self._find(partition)

    def _find(self, partition: int) -> None:
        try:
            self._stored[partition] = self._popularity.position(self._source(partition))
        except StoreUnavailable as error:
            logger.info("partition %d is not counted yet: %s", partition, error)

    def _forget(self, partition: int) -> None:
        for known in (self._stored, self._next, self._counts):
            known.pop(partition, None)

    def _source(self, partition: int) -> str:
        return f"{self._log:016x}:{partition}"

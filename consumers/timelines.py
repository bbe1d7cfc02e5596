"""Events to user records: the timeline grows, the vector moves, the log position is stored beside them.

Redelivery is harmless: a record knows the last offset in it, and the store how far it is as a whole. This process
reads on from there, whatever the group had committed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from consumers.fold import Counts
from consumers.work import Overtaken, Target, Work
from store.connection import StoreUnavailable
from store.releases import Release
from store.user_record import source_of
from store.user_state import UserStates
from stream.decoding import EventColumns
from stream.loop import Elsewhere
from stream.stages import Stages

logger = logging.getLogger(__name__)
GROUP = "timelines"
FEW = 500  # events: the store writes them faster than the next ones are read


class TimelineConsumer:
    """Handler of `stream.loop.Loop` for the events topic.

    current: the release to encode under at this moment, None while there is none.
    log_identity: `Log.identity` of the events topic; offsets of another log are not comparable.
    counts: what became of all events handled. damaged: records set aside. refused: writes another process preceded.
    """

    def __init__(
        self, states: UserStates, current: Callable[[], Release | None], log_identity: int, *, max_events: int = 50
    ) -> None:
        self._states, self._current, self._log, self._max_events = states, current, log_identity, max_events
        self._at: dict[int, int | None] = {}
        self._stored: dict[int, int] = {}
        self._work: Work | None = None
        self.counts = Counts()
        self.stages = Stages()
        self.damaged = 0
        self.refused = 0

    def assigned(self, partition: int) -> int | None:
        source = source_of(self._log, partition)
        position = self._states.position(source)
        if position is None:
            self._states.advance(source, None, 0)  # from now on a missing position means a store that was flushed
            position = self._states.position(source)
        self._at[partition] = position
        return position or 0

    def revoked(self, partition: int) -> None:
        self._at.pop(partition, None)
        self._stored.pop(partition, None)
        if self._work is not None and self._work.batch.partition == partition:
            self._work.drop()
            self._work = None

    def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
        """The last batch's answers are waited for at the next call: the store writes while the log is read.

        With little to do they are waited for at once: somebody may wait for the position to move.
        """
        for batch in batches:
            self._finish()
            at = self._at[batch.partition]
            if at is None or batch.next_offset > at:
                release = self._current()
                target = Target(self._states, source_of(self._log, batch.partition), release, self._max_events)
                self._work = Work(batch, target, at, self.stages)
                self._attempt(self._work.begin)
        if sum(map(len, batches)) < FEW:
            self._finish()
        if not batches:
            self._look_after_the_store()
        return dict(self._stored)

    def drain(self) -> Mapping[int, int]:
        try:
            try:
                self._finish()
            except StoreUnavailable:  # a connection that broke; whether the store is away shows on another
                self._finish()
        except Elsewhere as error:
            logger.warning("%s, by whoever comes next", error)
        return dict(self._stored)

    def tallies(self) -> Mapping[str, int]:
        """What became of events and records so far, by name."""
        return asdict(self.counts) | {"damaged": self.damaged, "overtaken": self.refused}

    def _finish(self) -> None:
        work = self._work
        if work is None:
            return
        self._attempt(work.finish)
        self._work = None
        self._at[work.batch.partition] = self._stored[work.batch.partition] = work.batch.next_offset
        self.counts.add(work.counts)

    def _attempt(self, step: Callable[[], None]) -> None:
        assert self._work is not None
        work, partition = self._work, self._work.batch.partition
        try:
            step()
        except Overtaken as error:
            work.drop()
            self._work = None
            before, self._at[partition] = self._at[partition], error.position
            self._stored.pop(partition, None)
            why = f"partition {partition}: this process was at {before}, {error}: reading on from there"
            raise Elsewhere({partition: error.position or 0}, why) from error
        finally:
            self.damaged, self.refused = self.damaged + work.damaged, self.refused + work.refused
            work.damaged = work.refused = 0

    def _look_after_the_store(self) -> None:
        """Notice a store that was flushed or restored even where no events come to show it."""
        positions = self._states.positions([source_of(self._log, partition) for partition in self._at])
        moved = {p: at for p, at in zip(self._at, positions, strict=True) if at != self._at[p]}
        if moved:
            why = f"this process was at {self._at}, the store is at {moved}: reading on from there"
            self._at.update(moved)
            for partition in moved:
                self._stored.pop(partition, None)
            raise Elsewhere({partition: at or 0 for partition, at in moved.items()}, why)

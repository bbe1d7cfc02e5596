"""Events to user records: the timeline grows, the vector moves, the log position is stored beside them.

Redelivery is harmless: a record knows the last offset in it, and the store how far it is as a whole. This process
reads on from there, whatever the group had committed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from consumers.arrivals import Arrivals
from consumers.fold import Counts, fold_batch
from consumers.stored import Stored
from led.encoder import I64
from store.releases import Release
from store.user_record import damaged, source_of
from store.user_state import NOTHING, Update, UserStates
from stream.decoding import EventColumns
from stream.loop import Elsewhere
from stream.stages import Stages

logger = logging.getLogger(__name__)
GROUP = "timelines"
USERS_AT_ONCE = 1500


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
        self._folded: dict[int, tuple[int, dict[int, Counts]]] = {}
        self.counts = Counts()
        self.stages = Stages()
        self.damaged = 0
        self.refused = 0

    def assigned(self, partition: int) -> int | None:
        self._at[partition] = self._states.position(source_of(self._log, partition))
        return self._at[partition] or 0

    def revoked(self, partition: int) -> None:
        self._at.pop(partition, None)
        self._folded.pop(partition, None)

    def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
        if not batches:
            self._look_after_the_store()
        for batch in batches:
            at = self._at[batch.partition]
            if at is not None and batch.next_offset <= at:
                continue  # done in a turn that failed at another partition
            if len(batch):
                self._apply(batch, at)
        return {batch.partition: batch.next_offset for batch in batches}

    def drain(self) -> Mapping[int, int]:
        return {}  # nothing is ever held back

    def _apply(self, batch: EventColumns, at: int | None) -> None:
        source = source_of(self._log, batch.partition)
        with self.stages("group"):
            arrivals = Arrivals.of(batch)
            keys = self._states.keys(arrivals.users)
        while len(arrivals.users):
            overtaken = self._store(batch, arrivals, keys, source)
            self.refused += len(overtaken)
            arrivals, keys = arrivals.only(overtaken), [keys[user] for user in overtaken.tolist()]
        if not self._states.advance(source, at, batch.next_offset):
            self._go_on_from(batch.partition, self._states.position(source))
        self._at[batch.partition] = batch.next_offset
        for counts in self._folded.pop(batch.partition)[1].values():
            self.counts.add(counts)

    def _store(self, batch: EventColumns, arrivals: Arrivals, keys: list[bytes], source: int) -> I64:
        """Fold events into their users' records; returns the places of those whose record moved meanwhile.

        A part of the users at a time: while one part is folded, the store looks up the next and writes the last.
        """
        parts = [slice(start, start + USERS_AT_ONCE) for start in range(0, len(keys), USERS_AT_ONCE)]
        release, overtaken = self._current(), []
        written = np.empty(0, np.int64)
        with self._states.update(source) as update:
            update.ask(keys[parts[0]])
            for number, part in enumerate(parts):
                if number + 1 < len(parts):
                    update.ask(keys[parts[number + 1]])
                with self.stages("read"):
                    old = self._records(update, batch.partition, arrivals.users[part])
                with self.stages("fold"):
                    theirs = arrivals.part(part)
                    changed, new, counts = fold_batch(theirs, Stored.of(old), source, release, self._max_events)
                self._count(batch, part.start, counts)
                with self.stages("write"):
                    places = changed.tolist()
                    update.replace([keys[part.start + place] for place in places], [old[p] for p in places], new)
                    if number:
                        overtaken.append(written[update.refused()])
                    written = changed + part.start
            with self.stages("write"):
                overtaken.append(written[update.refused()])
        return np.concatenate(overtaken)

    def _records(self, update: Update, partition: int, users: Sequence[str]) -> list[bytes]:
        """The next records asked for. A damaged one is set aside and the user begins anew with this batch."""
        records = update.records()
        if update.position != self._at[partition]:
            self._go_on_from(partition, update.position)
        for place in damaged(records):
            logger.error("user %s: damaged record set aside", users[place])
            self._states.set_aside(users[place])
            self.damaged += 1
            records[place] = NOTHING
        return records

    def _count(self, batch: EventColumns, first_user: int, counts: Counts) -> None:
        """Note what became of events: the first time, for what was stored then a later try takes for replays."""
        next_offset, folded = self._folded.get(batch.partition, (None, {}))
        if next_offset != batch.next_offset:
            folded = {}
            self._folded[batch.partition] = (batch.next_offset, folded)
        folded.setdefault(first_user, counts)

    def _look_after_the_store(self) -> None:
        """Notice a store that was flushed or restored even where no events come to show it."""
        positions = self._states.positions([source_of(self._log, partition) for partition in self._at])
        moved = {p: at for p, at in zip(self._at, positions, strict=True) if at != self._at[p]}
        if moved:
            why = f"this process was at {self._at}, the store is at {moved}: reading on from there"
            self._at.update(moved)
            raise Elsewhere({partition: at or 0 for partition, at in moved.items()}, why)

    def _go_on_from(self, partition: int, position: int | None) -> None:
        """Somebody else went on with the partition, or the store is not what it was: read on from where it is."""
        before, self._at[partition] = self._at[partition], position
        why = f"partition {partition}: this process was at {before}, the store is at {position}: reading on from there"
        raise Elsewhere({partition: position or 0}, why)

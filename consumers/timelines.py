"""Events to user records: the timeline grows, the vector moves, the log position is stored beside them.

Redelivery is harmless: a record knows the last offset in it, and the store how far it is as a whole. This process
reads on from there, whatever the group had committed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from consumers.arrivals import Arrivals
from consumers.fold import Counts, fold_batch
from consumers.stored import Stored
from led.encoder import I64
from store.releases import Release
from store.user_record import damaged, source_of
from store.user_state import NOTHING, UserStates
from stream.decoding import EventColumns
from stream.loop import Elsewhere
from stream.stages import Stages

logger = logging.getLogger(__name__)
GROUP = "timelines"


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
        self._first_try: dict[int, tuple[int, Counts]] = {}
        self.counts = Counts()
        self.stages = Stages()
        self.damaged = 0
        self.refused = 0

    def assigned(self, partition: int) -> int | None:
        self._at[partition] = self._states.position(source_of(self._log, partition))
        return self._at[partition] or 0

    def revoked(self, partition: int) -> None:
        self._at.pop(partition, None)
        self._first_try.pop(partition, None)

    def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
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
        self.counts.add(self._first_try.pop(batch.partition)[1])

    def _store(self, batch: EventColumns, arrivals: Arrivals, keys: list[bytes], source: int) -> I64:
        """Fold events into their users' records; returns the places of those whose record moved meanwhile."""
        with self.stages("read"):
            old, position = self._states.read_bytes(keys, source)
            if position != self._at[batch.partition]:
                self._go_on_from(batch.partition, position)
            self._set_aside_damaged(arrivals.users, old)
        with self.stages("fold"):
            changed, new, counts = fold_batch(arrivals, Stored.of(old), source, self._current(), self._max_events)
        # What the first try stored, a later one takes for replays: the first one's counts are the batch's.
        if self._first_try.get(batch.partition, (None,))[0] != batch.next_offset:
            self._first_try[batch.partition] = (batch.next_offset, counts)
        with self.stages("write"):
            users = changed.tolist()
            refused = self._states.replace([keys[user] for user in users], [old[user] for user in users], new)
        return changed[refused]

    def _go_on_from(self, partition: int, position: int | None) -> None:
        """Somebody else went on with the partition, or the store is not what it was: read on from where it is."""
        before, self._at[partition] = self._at[partition], position
        why = f"partition {partition}: this process was at {before}, the store is at {position}: reading on from there"
        raise Elsewhere({partition: position or 0}, why)

    def _set_aside_damaged(self, users: Sequence[str], records: list[bytes]) -> None:
        """A damaged record is set aside and the user begins anew with this batch."""
        for place in damaged(records):
            logger.error("user %s: damaged record set aside", users[place])
            self._states.set_aside(users[place])
            self.damaged += 1
            records[place] = NOTHING

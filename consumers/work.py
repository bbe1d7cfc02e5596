"""One batch of one partition on its way into the store, the store's own work overlapping with ours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from consumers.arrivals import Arrivals, users_of
from consumers.fold import Counts, fold_batch
from led.encoder import I64
from store.releases import Release
from store.stored import Stored
from store.user_record import damaged
from store.user_state import NOTHING, Update, UserStates
from stream.decoding import EventColumns
from stream.stages import Stages

logger = logging.getLogger(__name__)
USERS_AT_ONCE = 2500


class Target(NamedTuple):
    """Where a batch goes. source: its partition of its log. release: to encode under, None while there is none."""

    states: UserStates
    source: int
    release: Release | None
    max_events: int


class Overtaken(Exception):
    """The position of the source is not where this batch begins: another process wrote, or the store is another."""

    def __init__(self, position: int | None) -> None:
        self.position = position
        super().__init__(f"the store is at {position}")


class Work:
    """Fold a batch into user records, and the partition's position after it. at: the position it goes on from.

    `begin` sends all there is to send, `finish` sees it through. Both raise StoreUnavailable, after which `finish`
    begins again, and Overtaken, after which nothing is left to do.
    counts: what became of the events; damaged: records set aside; refused: writes that another process preceded.
    """

    def __init__(self, batch: EventColumns, target: Target, at: int | None, stages: Stages) -> None:
        self.batch, self._target, self._at, self._stages = batch, target, at, stages
        with stages("group"):
            self._keys = target.states.keys(users_of(batch))
        self._arrivals: Arrivals | None = None  # made while the store looks up the first records
        self._folded: dict[int, Counts] = {}
        self._update: Update | None = None
        self._sent: list[I64] = []
        self.damaged = 0
        self.refused = 0

    @property
    def counts(self) -> Counts:
        total = Counts()
        for counts in self._folded.values():
            total.add(counts)
        return total

    def begin(self) -> None:
        """Send all that is to be stored; the answers are not waited for."""
        self.drop()
        self._update = self._target.states.update(self._target.source)
        try:
            asked = _ask(self._update, self._keys)
            if self._arrivals is None:
                with self._stages("group"):
                    self._arrivals = Arrivals.of(self.batch)
            self._sent = self._store(self._update, asked, self._arrivals, self._keys)
        except BaseException:
            self.drop()
            raise

    def finish(self) -> None:
        """Wait until all is stored, and move the position."""
        if self._update is None:
            self.begin()
        assert self._update is not None
        try:
            with self._stages("write"):
                overtaken = _refused(self._update, self._sent)
            self._catch_up(overtaken)
            with self._stages("advance"):
                has_moved = self._update.advance(self._at, self.batch.next_offset)
        finally:
            self.drop()  # should a step fail, all begins again
        if not has_moved:
            raise Overtaken(self._target.states.position(self._target.source))

    def drop(self) -> None:
        """Let go of the connection, which may be in the middle of something."""
        if self._update is not None:
            self._update.close()
        self._update = None

    def _catch_up(self, overtaken: I64) -> None:
        """Fold again for those whose record was written by another process between our reading and our writing."""
        while len(overtaken):
            assert self._arrivals is not None
            self.refused += len(overtaken)
            arrivals, keys = self._arrivals.only(overtaken), [self._keys[user] for user in overtaken.tolist()]
            with self._target.states.update(self._target.source) as update:
                sent = self._store(update, _ask(update, keys), arrivals, keys)
                overtaken = overtaken[_refused(update, sent)]

    def _store(self, update: Update, asked: Sequence[slice], arrivals: Arrivals, keys: list[bytes]) -> list[I64]:
        """Fold the events and send the records, a part of the users at a time; returns the users of every part.

        While one part is folded, the store looks up those that follow and writes those before.
        """
        sent = []
        for part in asked:
            with self._stages("read"):
                stored = self._records(update, arrivals.users[part])
            with self._stages("fold"):
                changed, new, counts = fold_batch(
                    arrivals.part(part),
                    stored,
                    self._target.source,
                    self._target.release,
                    self._target.max_events,
                )
            # What a first try stored, a later one takes for replays: the first one's counts are the batch's.
            self._folded.setdefault(part.start, counts)
            with self._stages("write"):
                places = changed.tolist()
                update.replace(
                    [keys[part.start + place] for place in places], [stored.values[place] for place in places], new
                )
            sent.append(changed + part.start)
        return sent

    def _records(self, update: Update, users: Sequence[str]) -> Stored:
        """The next records asked for. A damaged one is set aside and the user begins anew with this batch."""
        records = update.records()
        if update.position != self._at:
            raise Overtaken(update.position)
        stored = Stored.of(records)
        wrong = damaged(records, stored.heads)
        for place in wrong:
            logger.error("user %s: damaged record set aside", users[place])
            self._target.states.set_aside(users[place])
            self.damaged += 1
            records[place] = NOTHING
        return Stored.of(records) if wrong else stored


def _ask(update: Update, keys: list[bytes]) -> list[slice]:
    """Ask for the records at the keys; returns which users are answered together."""
    parts = [slice(start, start + USERS_AT_ONCE) for start in range(0, len(keys), USERS_AT_ONCE)]
    for part in parts:
        update.ask(keys[part])
    return parts


def _refused(update: Update, sent: Sequence[I64]) -> I64:
    """The users whose new record was refused, of all that were sent and not answered yet."""
    return np.concatenate([np.empty(0, np.int64), *(users[update.refused()] for users in sent)])

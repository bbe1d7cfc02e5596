"""A member of a consumer group on Kafka, whatever the client: where it goes on, and when its client is made anew.

Clients are told to choose no offset by themselves. Where one finds no record at its offset it says so (`OutOfPlace`),
and what that means is decided here: a first read, records deleted unread, a log that went back, another topic.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Protocol, TypeVar

from stream.log import Batch, LogUnavailable, LogWentBack, UnknownTopic

logger = logging.getLogger(__name__)
R = TypeVar("R")
SETTLE_S, JOIN_SLICE_S = 2.0, 0.5
UNSETTLED_AFTER_S = 30.0
LAST_CHANCE_S = 1.0
PLACED_WITHIN_S, AGAIN_AFTER_S = 10.0, 0.1
# Nobody deletes a topic, makes it again and fills it up to where a reader was in less time than this.
IDENTITY_HOLDS_S = 0.05


class Place(NamedTuple):
    """Where a client stood. offset: None if nothing was committed. is_cut: the log has other records before it now."""

    offset: int | None
    is_cut: bool = False


class OutOfPlace(Exception):
    """In these partitions the client has nowhere to go on; it waits for a `seek`."""

    def __init__(self, places: Mapping[int, Place]) -> None:
        self.places = dict(places)
        super().__init__(str(self.places))


class GroupClient(Protocol):
    """One consumer of one client library, in a group. The client's own errors come out as ours."""

    def poll(self, max_records: int, timeout_s: float) -> list[Batch]:
        """As `Reader.poll`. Raises OutOfPlace, with nothing of what was read dropped."""

    def is_joining(self) -> bool:
        """Whether the group has not given this member its share yet."""

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Of assigned partitions."""

    def seek(self, partition: int, offset: int) -> None: ...

    def assignment(self) -> frozenset[int]: ...

    def positions(self) -> dict[int, int]:
        """Raises OutOfPlace; partitions the client has not found its place in yet are absent."""

    def keep_alive(self) -> None: ...

    def close(self) -> None:
        """Returns within a few seconds. Raises LogUnavailable if the group does not know of it."""


class Topics(Protocol):
    """What a reader asks the log, by other connections than its own: there a question waits behind a fetch."""

    def identity(self, topic: str) -> int: ...

    def bounds(self, topic: str, partitions: Collection[int]) -> dict[int, tuple[int, int]]: ...

    def ends(self, topic: str, partitions: Collection[int]) -> dict[int, int]: ...


class KafkaReader:
    """See `stream.log.Reader`. After a rebalance, partitions that stayed go on where they were."""

    def __init__(self, log: Topics, topic: str, make: Callable[[], GroupClient], stalled_after_s: float) -> None:
        self._log, self._topic, self._make, self._stalled_after_s = log, topic, make, stalled_after_s
        self._identity, self._checked_at = log.identity(topic), time.monotonic()
        self._client = make()
        self._quiet_since = time.monotonic()
        self._went_back: dict[int, LogWentBack] = {}
        self._deleted: dict[int, range] = {}
        self._remade = self._lost = 0
        self._closed = False

    def poll(self, *, max_records: int, timeout_s: float) -> list[Batch]:
        """As the contract says, but while the group is shared out anew it may take SETTLE_S.

        Raises UnknownTopic, for good, where another topic was made under the name; LogWentBack where the log ends
        before this reader's offset, until `seek`.
        """
        if self._closed:
            return []
        for error in self._went_back.values():
            raise error
        batches = self._settled(max_records, timeout_s) or self._when_quiet(max_records)
        if batches:
            self._quiet_since = time.monotonic()
            self._check_origin(batches)
        return batches

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        mine = self.assignment()
        offsets = {number: offset for number, offset in next_offsets.items() if number in mine}
        if offsets:
            self._check_identity()
            self._client.commit(offsets)

    def seek(self, partition: int, offset: int) -> None:
        if partition not in self.assignment():
            raise ValueError(f"partition {partition} is not assigned to this reader")
        self._client.seek(partition, offset)
        self._went_back.pop(partition, None)

    def assignment(self) -> frozenset[int]:
        return frozenset() if self._closed else self._client.assignment()

    def positions(self) -> dict[int, int]:
        return {} if self._closed else self._placed(self._client.positions)

    def lag(self) -> dict[int, int]:
        positions = self.positions()
        ends = self._log.ends(self._topic, positions)
        return {number: max(0, ends[number] - offset) for number, offset in positions.items()}

    def remade(self) -> int:
        return self._remade

    def lost(self) -> int:
        return self._lost

    def keep_alive(self) -> None:
        if not self._closed:
            self._quiet_since = time.monotonic()
            self._placed(self._client.keep_alive)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _close(self._client)

    def _settled(self, max_records: int, timeout_s: float) -> list[Batch]:
        """Polls, and goes on while the group is shared out.

        kafka-python drops the outcome of a join that completes between two polls and joins again, which makes
        everybody else join again: a group that polls briefly and works in between may never settle.
        """
        settled_by = time.monotonic() + SETTLE_S
        batches = self._placed(lambda: self._client.poll(max_records, timeout_s))
        while not batches and self._client.is_joining() and time.monotonic() < settled_by:
            batches = self._placed(lambda: self._client.poll(max_records, JOIN_SLICE_S))
        return batches

    def _placed(self, step: Callable[[], R]) -> R:
        """What step returns, once every partition has its place."""
        deadline = time.monotonic() + PLACED_WITHIN_S
        while True:
            try:
                return step()
            except OutOfPlace as error:
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"{self._topic}: no place to go on, last tried {error}") from error
                self._find_place(error.places)

    def _find_place(self, places: Mapping[int, Place]) -> None:
        self._check_identity(holds_s=0.0)
        for number, (oldest, end) in self._log.bounds(self._topic, places).items():
            at, is_cut = places[number]
            if at is None:
                at = oldest
            elif is_cut or at > end:
                self._went_back[number] = LogWentBack(
                    f"{self._topic}, partition {number}: next record is {at}, the log ends at {end}, "
                    "and of those before it some are gone: begin anew"
                )
                continue
            elif at < oldest:
                self._count_lost(number, range(at, oldest))
                at = oldest
            else:
                time.sleep(AGAIN_AFTER_S)  # its new leader did not know of it yet
            self._client.seek(number, at)
        for error in self._went_back.values():
            raise error

    def _count_lost(self, number: int, deleted: range) -> None:
        """Once, though a reader may be sent back to where it was already told that there is nothing any more."""
        known = self._deleted.get(number, deleted[:0])
        lost = len(deleted) - len(range(max(deleted.start, known.start), known.stop))
        self._deleted[number] = range(min(deleted.start, known.start), deleted.stop)
        if lost:
            self._lost += lost
            ends = deleted.start, deleted.stop - 1
            logger.error("%s, partition %d: records %d to %d were deleted unread", self._topic, number, *ends)

    def _check_origin(self, batches: list[Batch]) -> None:
        """Whether these are records of the topic that this reader began with; if nobody can tell, they stay unread.

        Both clients fetch by the topic's name, and one made again may hold records at the very offsets that come next.
        """
        try:
            self._check_identity()
        except LogUnavailable:
            for batch in batches:
                self._client.seek(batch.partition, batch.offsets[0])
            raise

    def _check_identity(self, *, holds_s: float = IDENTITY_HOLDS_S) -> None:
        """A topic's identity never comes back: where it is found now, it was there all the time."""
        asked_at = time.monotonic()
        if asked_at < self._checked_at + holds_s:
            return
        if self._log.identity(self._topic) != self._identity:
            raise UnknownTopic(f"{self._topic} is gone, another one was made in its place: begin anew")
        self._checked_at = asked_at

    def _when_quiet(self, max_records: int) -> list[Batch]:
        """Nothing came: for too long? A client that stalls is given up; one that was only slow has a last chance."""
        is_joining = self._client.is_joining()
        quiet_s = time.monotonic() - self._quiet_since
        if quiet_s < (UNSETTLED_AFTER_S if is_joining else self._stalled_after_s):
            return []
        self._quiet_since = time.monotonic()
        try:
            self._check_identity()
            if not is_joining and not self._is_behind():
                return []
            batches = self._placed(lambda: self._client.poll(max_records, LAST_CHANCE_S))
            if not batches:
                self._remake("the group never settled" if is_joining else "there is more to read", quiet_s)
        except LogUnavailable as error:
            logger.info("%s: quiet for %.0f s, and the brokers do not answer: %s", self._topic, quiet_s, error)
            return []
        return batches

    def _is_behind(self) -> bool:
        ends = self._log.ends(self._topic, self.assignment())
        try:
            positions = self.positions()
        except LogUnavailable:
            return bool(ends)  # the brokers have just answered: it is this client that does not
        return any(positions.get(number, -1) < end for number, end in ends.items())

    def _remake(self, why: str, quiet_s: float) -> None:
        logger.error("%s: nothing read for %.0f s, though %s: the client is made anew", self._topic, quiet_s, why)
        stalled, self._client = self._client, self._make()
        self._remade += 1
        _close(stalled)


def _close(client: GroupClient) -> None:
    try:
        client.close()
    except LogUnavailable as error:
        logger.warning("a reader's partitions stay taken until its session ends: %s", error)

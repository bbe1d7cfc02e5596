"""The one loop that consumes and commits: read, decode, handle, and only then commit the next offset.

Delivery is at least once; a handler makes the effect once. Undecodable records become dead letters before anything
past them is committed. While the store or the log is away the loop waits and tries the same batch again, staying in
its group. Any other error ends the process with nothing committed that was not handled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from store.connection import StoreUnavailable
from stream.dead_letters import DeadLetter, bury
from stream.decoding import Decoder
from stream.log import Batch, Log, LogUnavailable, LogWentBack, Reader
from stream.stages import Stages

logger = logging.getLogger(__name__)
R = TypeVar("R")
Read = TypeVar("Read")
Made_co = TypeVar("Made_co", covariant=True)
Taken_contra = TypeVar("Taken_contra", contravariant=True)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 5.0
FEW = 0.1  # of what a turn may bring
LAG_EVERY_S = 1.0  # under load; it is a question to the log of its own


class Elsewhere(Exception):
    """Raised by a handler: what it was given is not what comes next. It may be given any of it again.

    next_offsets: where to read from instead, by partition; of a partition not among them it is given the same again.
    """

    def __init__(self, next_offsets: Mapping[int, int], why: str) -> None:
        self.next_offsets = dict(next_offsets)
        super().__init__(why)


class Decodes(Protocol[Made_co]):
    """What makes of a batch what a handler takes."""

    def decode(self, batch: Batch) -> tuple[Made_co, Mapping[int, str]]:
        """Of the readable records, and by place in the batch why each of the others is none."""


class Handler(Protocol[Taken_contra]):
    """What a consumer process does with what it reads. Called by one thread."""

    def assigned(self, partition: int) -> int | None:
        """A partition came to this process, or its reader lost its place in it: more than once, maybe.

        Where to read from, if it knows better than the committed offset.
        """

    def revoked(self, partition: int) -> None:
        """A partition went to another process, or is read again: forget what was not stored."""

    def handle(self, batches: Sequence[Taken_contra]) -> Mapping[int, int]:
        """Take the batches (none at an idle tick); returns the next offsets, by partition, of all that is stored.

        Given the same batches again it must change nothing more. Raises StoreUnavailable to be called again with
        them, Elsewhere to be given others.
        """

    def drain(self) -> Mapping[int, int]:
        """The process is about to stop: store what is in hand; returns as `handle` does."""


@dataclass
class Progress:
    """What the loop did so far, for metrics and tests. Written by the loop alone.

    lag: records not yet read, by partition. lag_s: age of the newest record handled, in seconds; 0 without a lag.
    rewinds: times a handler asked for other records. remade: times the reader made its client anew.
    lost: records deleted before they were read.
    stages: seconds in poll, decode, handle and commit.
    """

    consumed: int = 0
    dead_letters: int = 0
    batches: int = 0
    waits: int = 0
    commit_failures: int = 0
    rebalances: int = 0
    rewinds: int = 0
    remade: int = 0
    lost: int = 0
    lag: Mapping[int, int] = field(default_factory=dict)
    lag_s: float = 0.0
    ticked_at: float = 0.0
    waiting_for: str | None = None
    stages: Stages = field(default_factory=Stages)


class Loop(Generic[Read]):
    """Runs one handler over one topic as a member of one group, until `stop` is set.

    decoder: of events, where none is given.
    rest_s: how long to let records gather after a turn that brought few; a turn costs as much as many records in it.
    on_tick: called after every turn, with the progress. commit_every_s: how long a commit may wait while there is more
    to read; a handler whose store knows how far it is loses nothing by it.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        group: str,
        handler: Handler[Read],
        *,
        decoder: Decodes[Read] | None = None,
        max_records: int = 2000,
        poll_timeout_s: float = 0.2,
        commit_every_s: float = 0.0,
        rest_s: float = 0.0,
        on_tick: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._log, self._topic, self._group = log, topic, group
        self._handler, self._on_tick = handler, on_tick
        self._decoder: Decodes[Read] = decoder or _of_events()
        self._max_records, self._poll_timeout_s = max_records, poll_timeout_s
        self._commit_every_s, self._commit_at, self._rest_s = commit_every_s, float("-inf"), rest_s
        self._owned: frozenset[int] = frozenset()
        self._stored: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._handled_ms: dict[int, int] = {}
        self._next: dict[int, int] = {}  # what the handler is to be given next, by partition
        self._out_of_turn: dict[int, int] = {}  # offset that came instead, where reading was sent back for it
        self._lag_known_at = float("-inf")
        self.progress = Progress()

    def run(self, stop: threading.Event) -> None:
        """Returns after stop was set and the batch in hand is handled and committed.

        If the store or the log is away at that moment, their error is raised and nothing of the batch is committed.
        """
        reader = self._log.reader(self._topic, self._group)
        try:
            while not stop.is_set():
                self._turn(reader, stop)
            self._note(self._handler.drain())
            self._commit(reader)
        finally:
            reader.close()

    def _turn(self, reader: Reader, stop: threading.Event) -> None:
        stages = self.progress.stages
        try:
            with stages("poll"):
                batches = reader.poll(max_records=self._max_records, timeout_s=self._poll_timeout_s)
        except LogUnavailable as error:
            self._wait(str(error), FIRST_WAIT_S, reader, stop)
            return
        except LogWentBack:
            # Of what is new here, or went back with the log, the handler knows better where to read.
            if reader.assignment() == self._owned and not self._patiently(partial(self._is_sent, reader), reader, stop):
                raise
            batches = []
        # From here on the batches are in hand: they are handled, or nothing past them is ever committed.
        batches = self._patiently(lambda: self._after_rebalance(reader, batches), reader, stop)
        batches = [batch for batch in batches if self._patiently(partial(self._goes_on, reader, batch), reader, stop)]
        with stages("decode"):
            decoded = self._decoded(reader, batches, stop)
        try:
            with stages("handle"):
                stored = self._patiently(lambda: self._handler.handle(decoded), reader, stop)
        except Elsewhere as error:
            self._go_elsewhere(reader, batches, error)
            return
        self._next.update((batch.partition, batch.next_offset) for batch in batches)
        with stages("commit"):
            self._note(stored)
            if not batches or time.monotonic() >= self._commit_at:
                self._commit(reader)
        self.progress.batches += len(batches)
        self.progress.consumed += sum(map(len, batches))
        self.progress.waiting_for = None
        self._handled_ms.update((batch.partition, batch.times_ms[-1]) for batch in batches)
        self._measure_lag(reader, is_idle=not batches)
        self._tick()
        if self._rest_s and 0 < sum(map(len, batches)) < self._max_records * FEW:
            stop.wait(self._rest_s)

    def _go_elsewhere(self, reader: Reader, batches: Sequence[Batch], error: Elsewhere) -> None:
        """Read what the handler wants instead. Of partitions that are gone by now their new readers take care."""
        logger.warning("%s", error)
        self.progress.rewinds += 1
        again = {batch.partition: batch.offsets[0] for batch in batches}
        for partition, offset in (again | error.next_offsets).items():
            if partition in reader.assignment():
                self._read_from(reader, partition, offset)
                self._stored.pop(partition, None)
                self._committed.pop(partition, None)
        self._measure_lag(reader, is_idle=True)
        self._tick()

    def _measure_lag(self, reader: Reader, *, is_idle: bool) -> None:
        if not is_idle and time.monotonic() < self._lag_known_at + LAG_EVERY_S:
            return
        try:
            self.progress.lag = reader.lag()
        except LogUnavailable as error:
            logger.info("lag unknown: %s", error)
            return
        self._lag_known_at = time.monotonic()
        self.progress.remade, self.progress.lost = reader.remade(), reader.lost()
        behind = [self._handled_ms.get(partition) for partition, lag in self.progress.lag.items() if lag]
        ages = [time.time() - handled_ms / 1000 for handled_ms in behind if handled_ms is not None]
        self.progress.lag_s = max(0.0, *ages) if ages else 0.0

    def _patiently(self, step: Callable[[], R], reader: Reader, stop: threading.Event) -> R:
        """What step returns, tried until the store and the log are there. Once `stop` is set, the error is raised."""
        wait_s = FIRST_WAIT_S
        while True:
            try:
                return step()
            except (StoreUnavailable, LogUnavailable) as error:
                if stop.is_set():
                    raise
                wait_s = self._wait(str(error), wait_s, reader, stop)

    def _after_rebalance(self, reader: Reader, batches: list[Batch]) -> list[Batch]:
        """Tell the handler what came and went; drop batches of partitions gone by now, or to be read from elsewhere."""
        owned = reader.assignment()
        if owned == self._owned:
            return [batch for batch in batches if batch.partition in owned]
        for partition in self._owned - owned:
            self._handler.revoked(partition)
            for known in (self._stored, self._committed, self._handled_ms, self._next, self._out_of_turn):
                known.pop(partition, None)
        self._owned &= owned  # should it come back while the store is waited for, it is new here
        moved: set[int] = set()
        for partition in sorted(owned - self._owned):
            start = self._handler.assigned(partition)
            first = next((b.offsets[0] for b in batches if b.partition == partition), None)
            here = reader.positions().get(partition) if first is None else first  # unknown while a broker is away
            if start is not None and start != here:
                self._read_from(reader, partition, start)
                moved.add(partition)
            elif here is not None:
                self._next[partition] = here
        self._owned = owned
        self.progress.rebalances += 1
        return [batch for batch in batches if batch.partition in owned - moved]

    def _is_sent(self, reader: Reader) -> bool:
        """Whether the handler, without what it has not stored, wants to read from elsewhere than came next."""
        is_sent = False
        for partition in sorted(reader.assignment() & self._owned):
            self._handler.revoked(partition)
            start = self._handler.assigned(partition)
            if start is None:
                return False
            if start != self._next.get(partition):
                self._read_from(reader, partition, start)
                is_sent = True
        return is_sent

    def _goes_on(self, reader: Reader, batch: Batch) -> bool:
        """Whether the batch is what comes next; if not, reading goes to where the handler is, without the batch.

        A reader that lost its place, in an outage of the log, begins where the group committed. That may be behind what
        the handler still misses, or before what it has in hand, which the log may have lost meanwhile. What comes out
        of turn a second time has nothing before it: that was deleted.
        """
        partition, first = batch.partition, batch.offsets[0]
        came_before = self._out_of_turn.pop(partition, None)
        wanted = self._next.get(partition, first)
        if first in (wanted, came_before):
            return True
        if first < wanted:
            self._handler.revoked(partition)
            wanted = first
        start = self._handler.assigned(partition)
        wanted = wanted if start is None else start
        if first == wanted:
            return True
        if partition in reader.assignment():
            self._read_from(reader, partition, wanted)
            self._out_of_turn[partition] = first
        return False

    def _read_from(self, reader: Reader, partition: int, offset: int) -> None:
        reader.seek(partition, offset)
        self._next[partition] = offset

    def _decoded(self, reader: Reader, batches: Sequence[Batch], stop: threading.Event) -> list[Read]:
        decoded, letters = [], []
        for batch in batches:
            columns, refused = self._decoder.decode(batch)
            decoded.append(columns)
            for place, cause in refused.items():
                at = (self._topic, batch.partition, batch.offsets[place])
                letters.append(DeadLetter(*at, cause, batch.keys[place], batch.values[place], batch.times_ms[place]))
        if letters:
            self._patiently(lambda: bury(self._log, letters), reader, stop)
            self.progress.dead_letters += len(letters)
            logger.warning("%d dead letters, the first: %s", len(letters), _described(letters[0]))
        return decoded

    def _note(self, stored: Mapping[int, int]) -> None:
        self._stored.update((partition, offset) for partition, offset in stored.items() if partition in self._owned)

    def _commit(self, reader: Reader) -> None:
        """Commit what is stored and not committed yet, an earlier failure's part included."""
        self._commit_at = time.monotonic() + self._commit_every_s
        new = {partition: at for partition, at in self._stored.items() if self._committed.get(partition) != at}
        if not new:
            return
        try:
            reader.commit(new)
        except LogUnavailable as error:
            # The next turn tries again, with what is stored by then; a replay in between is harmless.
            self.progress.commit_failures += 1
            logger.warning("commit failed, going on: %s", error)
        else:
            self._committed.update(new)

    def _wait(self, cause: str, wait_s: float, reader: Reader, stop: threading.Event) -> float:
        """Wait a little, still a member of the group; returns how long to wait next time."""
        if self.progress.waiting_for != cause:
            logger.warning("waiting: %s", cause)
        self.progress.waiting_for = cause
        self.progress.waits += 1
        self._tick()
        stop.wait(wait_s)
        with suppress(LogUnavailable):  # the log is away too: there is no group to stay in
            reader.keep_alive()
        return min(wait_s * 2, LONGEST_WAIT_S)

    def _tick(self) -> None:
        self.progress.ticked_at = time.time()
        self._on_tick(self.progress)


def _of_events() -> Any:
    return Decoder()


def _described(letter: DeadLetter) -> str:
    return f"{letter.topic}/{letter.partition}@{letter.offset}: {letter.cause}"

"""A log that goes wrong where a test says so, and the consumer loop run over it until everything is read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stream.decoding import EventColumns
from stream.events import Event, encode_event
from stream.log import Batch, Entry, Log, LogUnavailable, Position
from stream.loop import Handler, Loop, Progress
from stream.memory_log import MemoryLog, MemoryReader
from stream.topics import DEAD_LETTERS, EVENTS, topics


class Crash(Exception):
    """The process dies here."""


@dataclass
class Troubles:
    """What goes wrong next; each number counts down as it happens."""

    crash_before_commit: int = 0
    failed_commits: int = 0
    failed_polls: int = 0
    failed_appends: int = 0
    shares_on_keep_alive: bool = False
    forgets_its_place: bool = False  # in a poll that fails, as the log on Redis does
    journal: list[str] = field(default_factory=list)

    def happens(self, name: str) -> bool:
        left: int = getattr(self, name)
        setattr(self, name, max(left - 1, 0))
        return left > 0


class TroubledLog(MemoryLog):
    """A log in memory with the usual topics, whose troubles are set by a test. Commits are written into the journal."""

    def __init__(self, partitions: int = 1) -> None:
        super().__init__()
        self.troubles = Troubles()
        for topic, number in topics(partitions).items():
            self.create_topic(topic, number)

    def reader(self, topic: str, group: str) -> MemoryReader:
        with self._changed:
            reader = TroubledReader(self, topic, group, self.troubles)
            self._topic(topic).members.setdefault(group, []).append(reader)
            return reader

    def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:
        if topic == DEAD_LETTERS and self.troubles.happens("failed_appends"):
            return [LogUnavailable("no acknowledgement")] * len(entries)
        return super().append(topic, entries)

    def swap_members(self) -> None:
        """What the first member of group g has, the last gets."""
        with self._changed:
            self._topic(EVENTS).members["g"].reverse()

    def add_partition(self) -> None:
        """One more partition of events, as an operator adds it: keys fall elsewhere from then on."""
        with self._changed:
            self._topic(EVENTS).partitions.append([])

    def send(self, *events: Event | bytes, at: int | None = None) -> None:
        """Append events, or bytes nobody can read, to the events topic; appended at their own time, or at `at`."""
        for event in events:
            if isinstance(event, bytes):
                entry = Entry(b"nobody", event, at or 0)
            else:
                entry = Entry(event.user_id.encode(), encode_event(event), event.time_ms if at is None else at)
            self.append(EVENTS, [entry])


class TroubledReader(MemoryReader):
    def __init__(self, log: MemoryLog, topic: str, group: str, troubles: Troubles) -> None:
        super().__init__(log, topic, group)
        self._troubles = troubles

    def poll(self, *, max_records: int, timeout_s: float) -> list[Batch]:
        if self._troubles.happens("failed_polls"):
            if self._troubles.forgets_its_place:
                self._positions = {}
            raise LogUnavailable("the broker is away")
        return super().poll(max_records=max_records, timeout_s=timeout_s)

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        if self._troubles.happens("crash_before_commit"):
            raise Crash
        if self._troubles.happens("failed_commits"):
            raise LogUnavailable("no coordinator")
        super().commit(next_offsets)
        self._troubles.journal.append(f"commit {dict(next_offsets)}")

    def keep_alive(self) -> None:
        """Partitions may move during a long wait, as they do on a real broker."""
        if self._troubles.shares_on_keep_alive:
            with self._log._changed:
                self._refresh()

    def close(self) -> None:
        super().close()
        self._troubles.journal.append("close")


def consume(
    log: Log,
    handler: Handler[EventColumns],
    *,
    group: str = "g",
    max_records: int = 2000,
    until: Callable[[Progress], bool] = lambda progress: sum(progress.lag.values()) == 0,
    stop: threading.Event | None = None,
) -> Progress:
    """Run a consumer process until nothing is left to read (or `until`), as the command line would."""
    stop = stop or threading.Event()

    def tick(progress: Progress) -> None:
        if progress.waiting_for is None and until(progress):
            stop.set()

    loop = Loop(log, EVENTS, group, handler, max_records=max_records, poll_timeout_s=0.01, on_tick=tick)
    loop.run(stop)
    return loop.progress

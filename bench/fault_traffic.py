"""A seeded world's events sent into a log that keeps dying, each until it is acknowledged; and what is in the log."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Iterator
from itertools import count, islice

import numpy as np

from bench.world import events
from stream.dead_letters import read_letters
from stream.events import DecodeError, Event, decode_event, encode_event, erasure
from stream.log import Entry, Log, Position
from stream.topics import EVENTS

REPEATED, REORDERED, ERASING, UNREADABLE = 0.05, 0.05, 0.0005, 0.001  # shares of what is sent
REPEATED_WITHIN_S, REORDERED_WITHIN_S = 5.0, 60.0
SENT_AT_ONCE, READ_AT_ONCE = 2000, 10_000
TICK_S, REST_S = 0.02, 0.2


class Traffic:
    """Sends from a thread of its own, at a steady rate, until stopped; then what is still held back, too.

    acknowledged: every value that the log said it stored, and where. refused: sends it did not acknowledge, which were
    made again as a browser makes them: the same event id, once more.
    """

    def __init__(self, log: Log, *, rate: float, users: int, items: int, seed: int) -> None:
        self._log, self._rate = log, rate
        self._rng = np.random.default_rng((seed, 1))
        self._world = events(1 << 40, users=users, items=items, seed=seed, start_ms=0)
        self._held: list[tuple[float, int, Entry]] = []
        self._serial = count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._is_abandoned = False
        self._error: BaseException | None = None
        self.acknowledged: list[tuple[Position, bytes]] = []
        self.refused = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when all that was to be sent is acknowledged."""
        self._stop.set()
        self._thread.join()
        self.check()

    def abandon(self) -> None:
        """Let go of what is still to be sent. Returns when nothing is any more; harmless after `stop`."""
        self._is_abandoned = True
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> None:
        """Raises what ended the thread, if anything did."""
        if self._error is not None:
            raise RuntimeError("the traffic ended by itself") from self._error

    def _run(self) -> None:
        try:
            self._send_until_stopped()
        except BaseException as error:
            self._error = error

    def _send_until_stopped(self) -> None:
        started, made = time.monotonic(), 0
        while not (is_over := self._stop.is_set()) or (self._held and not self._is_abandoned):
            if not is_over:
                due = int((time.monotonic() - started) * self._rate) - made
                made += due
                for event in islice(self._world, due):
                    self._hold(event)
            now = float("inf") if is_over else time.monotonic()
            entries: list[Entry] = []
            while self._held and self._held[0][0] <= now and len(entries) < SENT_AT_ONCE:
                entries.append(heapq.heappop(self._held)[2])
            time.sleep(TICK_S if self._send(entries) == len(entries) else REST_S)

    def _hold(self, event: Event) -> None:
        """Line up the event, a little late if it is one of those, and perhaps again; or something else in its place."""
        now, at_ms, drawn = time.monotonic(), int(time.time() * 1000), self._rng.random(5)
        value = encode_event(event._replace(time_ms=at_ms))
        if drawn[0] < UNREADABLE:
            value = b"\xc1 no event " + value
        elif drawn[0] < UNREADABLE + ERASING:
            value = encode_event(erasure(event.user_id, at_ms))
        entry = Entry(event.user_id.encode(), value, at_ms)
        late_s = drawn[2] * REORDERED_WITHIN_S if drawn[1] < REORDERED else 0.0
        heapq.heappush(self._held, (now + late_s, next(self._serial), entry))
        if drawn[3] < REPEATED:
            heapq.heappush(self._held, (now + late_s + drawn[4] * REPEATED_WITHIN_S, next(self._serial), entry))

    def _send(self, entries: list[Entry]) -> int:
        """How many were acknowledged; the others are lined up again."""
        acknowledged = len(self.acknowledged)
        for entry, stored in zip(entries, self._log.append(EVENTS, entries) if entries else [], strict=True):
            if isinstance(stored, Position):
                self.acknowledged.append((stored, entry.value))
            else:
                self.refused += 1
                heapq.heappush(self._held, (time.monotonic(), next(self._serial), entry))
        return len(self.acknowledged) - acknowledged


class Logged:
    """All that is in the log of events, which must hold everything since its first record."""

    def __init__(self, log: Log) -> None:
        self.values: dict[int, list[bytes]] = {}
        for partition, end in log.end_offsets(EVENTS).items():
            values = self.values[partition] = []
            while len(values) < end:
                records = log.read(EVENTS, partition, len(values), READ_AT_ONCE)
                if records[0].offset != len(values):
                    raise ValueError(
                        f"partition {partition} begins at {records[0].offset}: a log cut short tells little"
                    )
                values += [record.value for record in records]
        self._unreadable: set[tuple[int, int]] = set()
        self._letters = {(letter.partition, letter.offset) for letter in read_letters(log) if letter.topic == EVENTS}

    def __len__(self) -> int:
        return sum(map(len, self.values.values()))

    def events(self) -> Iterator[tuple[int, int, Event]]:
        """Partition, offset and event of all that can be read."""
        for partition, values in self.values.items():
            for offset, value in enumerate(values):
                try:
                    yield partition, offset, decode_event(value)
                except DecodeError:
                    self._unreadable.add((partition, offset))

    def without(self, acknowledged: list[tuple[Position, bytes]]) -> int:
        """How many of these it does not hold where it said it does."""
        return sum(self._at(position) != value for position, value in acknowledged)

    def unburied(self) -> int:
        """Records met by `events` that cannot be read and are no dead letters, and dead letters that can be read."""
        return len(self._unreadable ^ self._letters)

    def _at(self, position: Position) -> bytes | None:
        values = self.values.get(position.partition, [])
        return values[position.offset] if position.offset < len(values) else None

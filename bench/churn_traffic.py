"""Who comes and goes in `bench/churn.py`: visitors in a steady stream, and probes that time one event each."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np

from bench.world import item_id
from ledstream import parts
from ledstream.settings import Settings
from store.connection import connect
from stream.backends import open_log
from stream.events import Event, encode_event
from stream.log import Entry, Log
from stream.topics import EVENTS

TICKS_PER_S = 10
LEAVES = 1 / 3  # of the visitors, after each event: three on average, and a user who was never seen for each who left
PROBE_EVERY_S = 0.25
GIVEN_UP_AFTER_S = 30.0


class Worker(ABC):
    """A thread that repeats `turn` until it is left; what it failed of is raised there."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    @abstractmethod
    def turn(self) -> float:
        """Do the next thing; returns how long to rest, in seconds."""

    def _run(self) -> None:
        try:
            while not self._over.wait(self.turn()):
                pass
        except Exception as error:
            self._error = error


class Visitors(Worker):
    """Each has an event a second until they leave for good. users, events: how many there were so far."""

    def __init__(self, settings: Settings, rate: int, items: int, seed: int) -> None:
        super().__init__()
        self._log, self._items = open_log(settings.log, settings.namespace), items
        self._rng = np.random.default_rng(seed)
        self._at_once = rate // TICKS_PER_S
        self._here: list[list[str]] = [[] for _ in range(TICKS_PER_S)]
        self._started, self._ticks = time.monotonic(), 0
        self.users = self.events = 0

    def turn(self) -> float:
        tick = self._ticks % TICKS_PER_S
        coming = self._at_once - len(self._here[tick])
        self._here[tick] += [f"{self.users + place:016d}" for place in range(coming)]
        self.users += coming
        append(self._log, [self._event(user, place) for place, user in enumerate(self._here[tick], self.events)])
        self.events += self._at_once
        stay = self._rng.random(self._at_once) >= LEAVES
        self._here[tick] = [user for user, stays in zip(self._here[tick], stay.tolist(), strict=True) if stays]
        self._ticks += 1
        return max(0.0, self._started + self._ticks / TICKS_PER_S - time.monotonic())

    def _event(self, user: str, number: int) -> Event:
        item = int(self._items * self._rng.random() ** 2)
        return Event(user, item_id(item), "view", int(time.time() * 1000), f"{number:x}")


class Probes(Worker):
    """One after the other: an event of a new user, and how long after it was acknowledged the record was there.

    seconds: of each, when it began by the monotonic clock, and how long it took.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._log = open_log(settings.log, settings.namespace)
        self._states = parts.user_states(settings, connect(settings.store))
        self.seconds: list[tuple[float, float]] = []

    def turn(self) -> float:
        began, user = time.monotonic(), f"probe-{len(self.seconds):010d}"
        append(self._log, [Event(user, item_id(0), "view", int(time.time() * 1000), user)])
        accepted = time.monotonic()
        while self._states.read([user]) == [None]:
            assert time.monotonic() < accepted + GIVEN_UP_AFTER_S, f"{user} is not visible"
            time.sleep(0.001)
        self.seconds.append((began, time.monotonic() - accepted))
        return PROBE_EVERY_S


def append(log: Log, events: Sequence[Event]) -> None:
    """Returns when all are acknowledged."""
    for outcome in log.append(EVENTS, [Entry(one.user_id.encode(), encode_event(one), one.time_ms) for one in events]):
        if isinstance(outcome, Exception):
            raise outcome

"""A consumer process tells the store that it lives and what it waits for (`store/heartbeats.py`)."""

from __future__ import annotations

import logging
import os
import socket
import time
from types import TracebackType

from store.connection import StoreUnavailable
from store.heartbeats import Heartbeat, Heartbeats, State
from stream.loop import Progress

BEAT_EVERY_S = 2.0


class Pulse:
    """Used by the loop's own thread, so that a loop that hangs is silent. The last beat says how the process ended.

    A beat that fails is let go: the store is away, which servers see for themselves.
    """

    def __init__(self, heartbeats: Heartbeats, group: str) -> None:
        self._heartbeats, self._group = heartbeats, group
        self._process = f"{group}@{socket.gethostname()}:{os.getpid()}"
        self._beaten_at, self._said = float("-inf"), True
        self._last = Heartbeat(group, "running", _now_ms())

    def __enter__(self) -> Pulse:
        self._beat(self._last)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        cause = f"{type(error).__name__}: {error}" if error else None
        self._beat(Heartbeat(self._group, "stopped", _now_ms(), cause, self._last.lag))

    def show(self, progress: Progress) -> None:
        """Beat if it is time to, or if the loop began or ceased to wait."""
        state: State = "running" if progress.waiting_for is None else "waiting"
        has_changed = state != self._last.state
        if not has_changed and time.monotonic() < self._beaten_at + BEAT_EVERY_S:
            return
        since_ms = _now_ms() if has_changed else self._last.since_ms
        self._beat(Heartbeat(self._group, state, since_ms, progress.waiting_for, sum(progress.lag.values())))

    def _beat(self, heartbeat: Heartbeat) -> None:
        self._last, self._beaten_at = heartbeat, time.monotonic()
        try:
            self._heartbeats.beat(self._process, heartbeat)
        except StoreUnavailable as error:
            if self._said:
                logging.getLogger(__name__).warning("no heartbeat: %s", error)
            self._said = False
        else:
            self._said = True


def _now_ms() -> int:
    return int(time.time() * 1000)

"""Events handed over in the background: what a shop's backend wants while it answers its own visitors."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple

from ledstream_client.client import Client
from ledstream_client.errors import LedstreamError, Refused, Unfinished
from ledstream_client.events import Event
from ledstream_client.handing import AT_ONCE, Verdict

logger = logging.getLogger("ledstream_client")
POST_WITHIN_S = 5.0  # of a post with all its tries, so that the end of a program need not wait for long


class Counts(NamedTuple):
    """Of a sender's events so far. waiting: those that are being sent, too. dropped: no room, or no time at the end."""

    accepted: int
    rejected: int
    dropped: int
    waiting: int


def log_undelivered(verdicts: Sequence[Verdict[Event]]) -> None:
    """One line for all of them, with the first reason."""
    first = verdicts[0]
    named = f"{first.field} = {first.value}: " if first.field else ""
    logger.warning(
        "%d events will not arrive, the first one %s: %s%s", len(verdicts), first.status, named, first.reason
    )


class Sender:
    """Takes events at once and sends them in order from a thread of its own, used by any number of threads and tasks.

    It sends as soon as `batch` events wait, and every flush_every_s. While the server is away it keeps up to max_events
    and goes on trying. on_undelivered is told, in that thread or by `close`, what will never arrive: "rejected" by the
    server, or "failed" for want of room (max_events of these at a time; the others are only counted) or of time at the
    end. Use it in a `with`, or close it; a program that does neither waits up to 5 s for it at its end. Make one in
    each process: it does not survive a fork.
    """

    def __init__(
        self,
        client: Client,
        *,
        max_events: int = 10_000,
        batch: int = 500,
        flush_every_s: float = 1.0,
        on_undelivered: Callable[[Sequence[Verdict[Event]]], None] = log_undelivered,
    ) -> None:
        if not 1 <= batch <= min(max_events, AT_ONCE):
            raise ValueError(f"batch = {batch}: must be from 1 to {min(max_events, AT_ONCE)}")
        self._client, self._told = client.within(min(POST_WITHIN_S, client.patience.within_s)), on_undelivered
        self._max_events, self._batch, self._flush_every_s = max_events, batch, flush_every_s
        self._waiting: deque[Event] = deque()
        self._under_way: Sequence[Event] = ()
        self._lost: list[Verdict[Event]] = []
        self._accepted = self._rejected = self._dropped = 0
        self._changed, self._is_over = threading.Condition(), threading.Event()
        self._is_asked_to_flush = self._is_closed = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="ledstream-sender", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def track(self, event: Event) -> bool:
        """Never waits. False where there is no room. Raises RuntimeError once closed."""
        if self._pid != os.getpid():
            raise RuntimeError("this sender was made before a fork: make one in each process")
        with self._changed:
            if self._is_closed:
                raise RuntimeError("this sender is closed")
            if len(self._waiting) + len(self._under_way) >= self._max_events:
                self._dropped += 1
                if len(self._lost) < self._max_events:
                    self._lost.append(Verdict(event, "failed", reason=f"{self._max_events} events wait"))
                return False
            self._waiting.append(event)
            if len(self._waiting) >= self._batch:
                self._changed.notify_all()
        return True

    def flush(self, within_s: float = 5.0) -> bool:
        """Send what waits, now. Whether all of it is gone, after at most so long."""
        with self._changed:
            self._is_asked_to_flush = bool(self._waiting or self._under_way)
            self._changed.notify_all()
            return self._changed.wait_for(self._is_empty, within_s)

    def close(self, within_s: float = 5.0) -> None:
        """Send what waits, and take no more. What is left after so long is dropped, and told; once more is harmless."""
        atexit.unregister(self.close)
        if self._pid != os.getpid():
            return
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(within_s)
        with self._changed:
            self._is_over.set()
            left = [Verdict(one, "failed", reason="no time was left") for one in (*self._under_way, *self._waiting)]
            self._waiting.clear()
            self._under_way = ()
            self._dropped += len(left)
            undelivered, self._lost = [*self._lost, *left], []
        if undelivered:
            self._told(undelivered)

    def counts(self) -> Counts:
        """Of this moment."""
        with self._changed:
            waiting = len(self._waiting) + len(self._under_way)
            return Counts(self._accepted, self._rejected, self._dropped, waiting)

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _is_empty(self) -> bool:
        return not self._waiting and not self._under_way

    def _is_due(self) -> bool:
        return self._is_closed or len(self._waiting) >= self._batch or (self._is_asked_to_flush and bool(self._waiting))

    def _run(self) -> None:
        while batch := self._next():
            undelivered, pause_s = self._settle(*self._send(batch))
            if undelivered:
                try:
                    self._told(undelivered)
                except Exception:  # of the caller's own: what is told next is another matter
                    logger.exception("on_undelivered failed")
            self._is_over.wait(pause_s)

    def _next(self) -> Sequence[Event]:
        """What is to be sent now; nothing once it is closed and empty, or over."""
        with self._changed:
            while not self._changed.wait_for(self._is_due, self._flush_every_s) and not self._waiting:
                pass
            self._under_way = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            return self._under_way

    def _send(self, batch: Sequence[Event]) -> tuple[Sequence[Verdict[Event]], float]:
        """Verdicts, and what to wait before the next try."""
        try:
            return self._client.track_many(batch).verdicts, 0.0
        except Unfinished as error:
            return error.taken.verdicts, max(self._flush_every_s, error.retry_after_s)
        except Refused as error:
            return [Verdict(event, "rejected", error.field, error.value, error.reason) for event in batch], 0.0
        except (LedstreamError, RuntimeError) as error:  # a proxy's page; a client that was closed
            return [Verdict(event, "failed", reason=str(error)) for event in batch], self._flush_every_s

    def _settle(self, verdicts: Sequence[Verdict[Event]], pause_s: float) -> tuple[Sequence[Verdict[Event]], float]:
        """What is to be told; what failed goes back to the front, unless it was told already."""
        rejected = [verdict for verdict in verdicts if verdict.status == "rejected"]
        failed = [verdict.about for verdict in verdicts if verdict.status == "failed"]
        with self._changed:
            self._under_way = ()
            if self._is_over.is_set():
                return (), 0.0
            self._waiting.extendleft(reversed(failed))
            self._accepted += len(verdicts) - len(rejected) - len(failed)
            self._rejected += len(rejected)
            self._is_asked_to_flush = self._is_asked_to_flush and bool(self._waiting)
            undelivered, self._lost = [*rejected, *self._lost], []
            self._changed.notify_all()
        return undelivered, pause_s

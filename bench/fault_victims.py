"""Something that is struck down, brought back, and well again once it has made progress since."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Literal

from store.connection import StoreUnavailable
from stream.log import LogUnavailable

WELL_WITHIN_S = 120.0  # of which half a minute may go by until a group notices who is gone
REST_S = 0.5


class NoProgress(RuntimeError):
    """Something did not go on after it was started again."""


class Victim:
    """Driven by `look`, often. Servers take seconds to start, so what brings back runs on the executor.

    start: brings it back, at once if it is not running. progress: numbers that all grow while it works. is_gone:
    whether it ended by itself, in which case it is started again, as a supervisor does.
    recovered_s: seconds from each strike until it was well again, the rest it was given included.
    """

    def __init__(
        self,
        kind: str,
        executor: Executor,
        start: Callable[[], None],
        progress: Callable[[], Sequence[float]],
        is_gone: Callable[[], bool] = lambda: False,
        *,
        is_running: bool = False,
    ) -> None:
        self.kind = kind
        self._executor, self._start, self._progress, self._is_gone = executor, start, progress, is_gone
        self._state: Literal["well", "down", "starting", "recovering"] = "recovering" if is_running else "down"
        self._struck_at = self._back_at = time.monotonic()
        self._back = start
        self._starting: Future[None] | None = None
        self._before: Sequence[float] | None = None
        self.recovered_s: list[float] = []
        self.gone = 0

    @property
    def is_well(self) -> bool:
        return self._state == "well"

    @property
    def is_down(self) -> bool:
        return self._state == "down"

    def strike(self, rest_s: float, down: Callable[[], object], back: Callable[[], None] | None = None) -> None:
        """Take it down, and after rest_s bring it back, by a start if nothing else is said."""
        self._struck_at = time.monotonic()
        down()
        self._rest(rest_s, back or self._start)

    def look(self) -> None:
        """Do what is due. Raises NoProgress, and what the start raised."""
        now = time.monotonic()
        if self._state in ("well", "recovering") and self._is_gone():
            self.gone += 1
            self._struck_at = now if self.is_well else self._struck_at
            self._rest(REST_S, self._start)
        elif self.is_down and now >= self._back_at:
            self._state, self._starting = "starting", self._executor.submit(self._back)
        elif self._state == "starting" and self._starting is not None and self._starting.done():
            self._starting.result()
            self._state, self._before = "recovering", self._measured()
        elif self._state == "recovering":
            self._see_progress(now)
        if not self.is_well and now > max(self._struck_at, self._back_at) + WELL_WITHIN_S:
            raise NoProgress(f"{self.kind}: no progress for {now - self._struck_at:.0f} s, {self._state}")

    def _see_progress(self, now: float) -> None:
        measured = self._measured()
        if self._before is None:
            self._before = measured
        elif measured is not None and all(is_ > was for is_, was in zip(measured, self._before, strict=True)):
            self._state = "well"
            self.recovered_s.append(now - self._struck_at)

    def _rest(self, rest_s: float, back: Callable[[], None]) -> None:
        self._state, self._back_at, self._back = "down", time.monotonic() + rest_s, back

    def _measured(self) -> Sequence[float] | None:
        try:
            return self._progress()
        except (StoreUnavailable, LogUnavailable):
            return None

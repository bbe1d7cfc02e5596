"""The releases that questions are answered from at one moment: the current one, and perhaps a canary beside it.

How both fare while a canary is on trial is counted here, and written where its judge reads it (`store/tallies.py`).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from serving.served import Served
from store.connection import StoreUnavailable
from store.tallies import Tallies
from stream.announcements import Canary
from stream.current import CurrentRelease

logger = logging.getLogger(__name__)
T = TypeVar("T")
FLUSH_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Live:
    """Immutable: whoever answers several questions together takes it once. Without a canary, trial is None."""

    champion: Served | None
    canary: Served | None = None
    trial: Canary | None = None

    def of(self, user_id: str | None) -> Served | None:
        """The release this user is answered from, the same throughout a trial; nobody in particular: the champion."""
        if self.trial is None or user_id is None or not self.trial.is_tried_on(user_id):
            return self.champion
        return self.canary


def live(current: CurrentRelease[Served]) -> Live:
    """What is live in this process now."""
    in_use = current.in_use()
    return Live(in_use.champion, in_use.canary, in_use.trial)


class Outcomes:
    """Answers and failures of both releases while a canary is on trial, written to the store every second.

    What the store does not take is lost: it is a sample like any other. A canary this process cannot load is told too.
    tallies: None where nobody judges canaries, and nothing is written.
    """

    def __init__(self, tallies: Tallies | None, current: CurrentRelease[Served]) -> None:
        self._tallies, self._current = tallies, current
        self._process = f"{socket.gethostname()}:{os.getpid()}"
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}
        self._refused: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._flush_forever, name="outcomes", daemon=True)

    def attempt(self, live: Live, served: Served | None, answer: Callable[[Served | None], T]) -> T:
        """What `answer` makes of one of the releases, counted as one call however many questions it answers.

        A canary that fails leaves its users to the champion: a trial costs nobody an answer.
        """
        if live.trial is None:
            return answer(served)
        side = "canary" if served is live.canary else "champion"
        try:
            made = answer(served)
        except Exception:
            self._count(live.trial, f"{side}:errors")
            if side == "champion":
                raise
            logger.exception("canary %s fails, its users are answered from the champion", live.trial.version)
            return answer(live.champion)
        self._count(live.trial, f"{side}:answers")
        return made

    def _count(self, trial: Canary, what: str) -> None:
        with self._lock:
            self._counts.setdefault(trial.trial, Counter())[what] += 1

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the last counts are written."""
        self._stop.set()
        self._thread.join()

    def flush(self) -> None:
        """Write what was counted since the last time, and whether the canary is refused."""
        with self._lock:
            counted, self._counts = self._counts, {}
        if self._tallies is None:
            return
        try:
            for trial, counts in counted.items():
                self._tallies.add(trial, counts)
            self._tell_refusal(self._tallies)
        except StoreUnavailable as error:
            logger.warning("outcomes of a trial are not counted: %s", error)

    def _tell_refusal(self, tallies: Tallies) -> None:
        announcement, refused = self._current.announcement, self._current.canary_refused
        if announcement is None or announcement.canary is None:
            self._refused = None
            return
        trial = announcement.canary.trial
        if refused is not None and refused.version == announcement.canary.version:
            tallies.refuse(trial, self._process, refused.reason)  # each time: it lapses with who says so
            self._refused = trial
        elif self._refused == trial:
            tallies.refuse(trial, self._process, None)
            self._refused = None

    def _flush_forever(self) -> None:
        while not self._stop.wait(FLUSH_EVERY_S):
            self.flush()
        self.flush()
        if self._tallies is not None and self._refused is not None:  # who comes after this process speaks for itself
            with suppress(StoreUnavailable):
                self._tallies.refuse(self._refused, self._process, None)

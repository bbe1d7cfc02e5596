"""Entries to the log, and to the disk while it is away: what was taken is not lost, and keeps its order.

While anything is on the disk everything goes there, behind it: a user's next event must not overtake the last one. One
process of the machine drains the disk, oldest first, and others go back to the log when it is empty.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from stream.log import Log, LogUnavailable, Position, UnknownTopic
from stream.spool import Addressed, Spool, SpoolFull

logger = logging.getLogger(__name__)
DRAINED_AT_ONCE = 10_000
LOOKS_EVERY_S = 0.25
RESTS_S = 0.5  # after a try that failed


class Spooled:
    """The outcome of an entry that is on the disk, and will be in the log."""


SPOOLED = Spooled()
Outcome = Position | Spooled | LogUnavailable


class KeptLog:
    """spool: None where entries are refused while the log is away. Used by any thread."""

    def __init__(self, log: Log, spool: Spool | None = None) -> None:
        self._log, self._spool = log, spool
        self._drainer = None if spool is None else Drainer(log, spool)

    def start(self) -> None:
        """Drain the disk from now on, what an earlier process left there too. Called once."""
        if self._drainer is not None:
            self._drainer.start()

    def stop(self) -> None:
        """Returns soon; what is not in the log stays on the disk."""
        if self._drainer is not None:
            self._drainer.stop()

    def append(self, entries: Sequence[Addressed]) -> list[Outcome]:
        """Returns when each entry is in the log, on the disk, or failed, in the order given.

        One that the log did not acknowledge may be there all the same, and once more when the disk is drained: its
        event id tells. An entry fails where the disk is full, too.
        """
        if self._spool is None:
            return list(appended(self._log, entries))
        while True:
            if not self._spool.is_empty():
                kept = self._put(self._spool, entries, only_behind=True)
                if kept is None:
                    continue  # it was drained meanwhile
                return kept
            outcomes: list[Outcome] = list(appended(self._log, entries))
            failed = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, LogUnavailable)]
            if failed:
                logger.warning("the log is away: %d entries go to %s", len(failed), self._spool.folder)
                kept = self._put(self._spool, [entries[place] for place in failed], only_behind=False)
                for place, outcome in zip(failed, kept or (), strict=True):
                    outcomes[place] = outcome
            return outcomes

    def _put(self, spool: Spool, entries: Sequence[Addressed], *, only_behind: bool) -> list[Outcome] | None:
        """None where there is nothing to be behind of."""
        try:
            if not spool.put(entries, only_behind=only_behind):
                return None
        except SpoolFull as error:
            return [LogUnavailable(f"the log is away and the spool is full: {error}")] * len(entries)
        return [SPOOLED] * len(entries)


class Drainer:
    """A thread that brings what is on the disk into the log, as soon as that answers."""

    def __init__(self, log: Log, spool: Spool) -> None:
        self._log, self._spool = log, spool
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)

    def start(self) -> None:
        """Called once."""
        self._thread.start()

    def stop(self) -> None:
        """Returns soon; what is not in the log stays on the disk."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(LOOKS_EVERY_S):
            if self._spool.is_empty():
                continue
            try:
                with self._spool.draining() as is_ours:
                    if is_ours:
                        self._drain()
            except OSError:
                logger.exception("what is in %s cannot be read, trying again", self._spool.folder)

    def _drain(self) -> None:
        begun, sent = time.monotonic(), 0
        while (taken := self._spool.take(DRAINED_AT_ONCE)) is not None:
            if not self._send(taken.entries):
                return
            self._spool.done(taken)
            sent += len(taken.entries)
        if sent:
            logger.info("the log is back: %d entries from the disk in %.1f s", sent, time.monotonic() - begun)

    def _send(self, entries: Sequence[Addressed]) -> bool:
        """Whether all are in the log, after as many tries as it takes; False once this is stopped."""
        while entries:
            outcomes = appended(self._log, entries)
            entries = [one for one, to in zip(entries, outcomes, strict=True) if isinstance(to, LogUnavailable)]
            if entries and self._stopping.wait(RESTS_S):
                return False
        return True


def appended(log: Log, entries: Sequence[Addressed]) -> list[Position | LogUnavailable]:
    """The outcome of each; a log or a topic that is away fails its entries instead of raising."""
    outcomes: list[Position | LogUnavailable] = [LogUnavailable("not tried")] * len(entries)
    for topic in dict.fromkeys(entry.topic for entry in entries):
        places = [place for place, one in enumerate(entries) if one.topic == topic]
        try:
            found = log.append(topic, [entries[place].entry for place in places])
        except LogUnavailable as error:
            found = [error] * len(places)
        except UnknownTopic as error:
            found = [LogUnavailable(str(error))] * len(places)
        for place, outcome in zip(places, found, strict=True):
            outcomes[place] = outcome
    return outcomes

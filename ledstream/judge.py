"""The judge of canaries: watches the trial under way, and ends it by the rules of `ledstream/verdict.py`.

What it saw is in the store beside what servers count, so that another one goes on where it ended. Two at a time do no
harm: each decides by what it saw, and only on the trial that it saw it of.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from consumers.live_recall import Contestants, LiveRecall
from ledstream import parts
from ledstream.settings import Settings
from ledstream.verdict import Evidence, Rules, Verdict, evidence_of, verdict
from store.connection import StoreUnavailable
from store.releases import Releases
from store.tallies import Tallies
from store.user_state import UserStates
from stream.announcements import Announcement, Canary, NoSuchStep, promote, read_announcement, withdraw
from stream.current import CANNOT_LOAD
from stream.events import DecodeError
from stream.log import Log, LogUnavailable, UnknownTopic
from stream.topics import RELEASES

logger = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0
SHARE_OF_A_CORE = 0.1
NAME = "judge"


class Judge:
    """Used by one thread."""

    def __init__(
        self, log: Log, states: UserStates, releases: Releases, tallies: Tallies, rules: Rules | None = None
    ) -> None:
        self._log, self._states, self._releases, self._tallies = log, states, releases, tallies
        self._rules = rules or Rules()
        self._watched: tuple[Canary, str] | None = None
        self._recall: LiveRecall | None = None
        self._evidence = Evidence({})
        self._announcement: Announcement | None = None
        self._read_to = -1

    def look(self, now_ms: int) -> Verdict | None:
        """See what is new of the trial under way and do what follows from it; None where there is no trial.

        Raises StoreUnavailable, LogUnavailable, UnknownTopic or DecodeError: look again.
        """
        last = self._last_announcement()
        if last is None or last.canary is None:
            self._watched = self._recall = None
            return None
        if self._watched != (last.canary, last.version):
            self._watch(last, last.canary)
        self._see(last.canary, now_ms)
        said = verdict(last.canary, self._evidence, self._tallies.read(last.canary.trial), now_ms, self._rules)
        self._act(last.canary, said, now_ms)
        return said

    def _last_announcement(self) -> Announcement | None:
        """Read only where there is a new one: nearly always nothing is on trial."""
        end = self._log.end_offsets(RELEASES)[0]
        if end != self._read_to:
            self._announcement = read_announcement(self._log)
            self._read_to = end
        return self._announcement

    def _watch(self, last: Announcement, trial: Canary) -> None:
        """Load both releases and go on where this or another judge ended. One that cannot be loaded is tried again."""
        self._watched = self._recall = None
        self._evidence = evidence_of(self._tallies, trial) or Evidence({})
        try:
            champion = self._releases.load(last.version, with_index=False)
        except CANNOT_LOAD as error:
            logger.warning("nothing to judge canary %s by: %s", trial.version, error)
            return
        try:
            canary = self._releases.load(trial.version, with_index=False)
        except CANNOT_LOAD as error:
            self._tallies.refuse(trial.trial, NAME, f"{type(error).__name__}: {error}")
            return
        self._tallies.refuse(trial.trial, NAME, None)
        offsets = self._evidence.next_offsets or None
        self._recall = LiveRecall(self._log, self._states, Contestants(champion, canary, trial), offsets)
        self._watched = trial, last.version
        logger.info("canary %s is on trial with %g of the users", trial.version, trial.share)

    def _see(self, trial: Canary, now_ms: int) -> None:
        if self._recall is None:
            return
        new, known = self._recall.look(), self._evidence.pairs
        pairs = {group: known[group].plus(more) if group in known else more for group, more in new.items()}
        self._evidence = Evidence(self._recall.next_offsets, pairs, now_ms)
        self._tallies.keep(trial.trial, self._evidence.to_bytes())

    def _act(self, trial: Canary, said: Verdict, now_ms: int) -> None:
        if said.action == "wait":
            return
        try:
            {"promote": promote, "withdraw": withdraw}[said.action](self._log, now_ms, only=trial)
        except NoSuchStep as other:
            logger.info("somebody else decided: %s", other)
            return
        tell = logger.info if said.action == "promote" else logger.warning
        tell("canary %s: %s: %s", trial.version, said.action, said.reason)

    def run(self, stop: threading.Event) -> None:
        """Look every second until stop is set, and less often where that takes more than a tenth of a core.

        Sets stop when it ends, so that an error nobody expected ends the process.
        """
        try:
            self._look_again_and_again(stop)
        finally:
            stop.set()

    def _look_again_and_again(self, stop: threading.Event) -> None:
        rest_s, is_away = LOOK_EVERY_S, False
        while not stop.wait(rest_s):
            started = time.thread_time()
            try:
                self.look(int(time.time() * 1000))
                is_away = False
            except (StoreUnavailable, LogUnavailable, UnknownTopic, DecodeError) as error:
                if not is_away:
                    logger.warning("the judge waits: %s", error)
                is_away = True
            rest_s = max(LOOK_EVERY_S, (time.thread_time() - started) / SHARE_OF_A_CORE)


def judge(settings: Settings, log: Log) -> Judge:
    """The judge of these settings' canaries."""
    store = parts.connect_store(settings)
    tallies = Tallies(store, settings.namespace)
    return Judge(log, parts.user_states(settings, store), parts.releases(settings), tallies)


@contextmanager
def judging(settings: Settings, log: Log, stop: threading.Event) -> Iterator[None]:
    """A judge at work in a thread of its own, until stop is set or this is left. An error that ended it sets stop, and
    is raised where this is left, so that the process does not end as if all were well.
    """
    errors: list[Exception] = []

    def work() -> None:
        try:
            judge(settings, log).run(stop)
        except Exception as error:  # raised below
            logger.exception("the judge ended")
            errors.append(error)
            stop.set()

    thread = threading.Thread(target=work, name=NAME, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    for error in errors:
        raise error

"""The current release of this process: announced through the log, loaded and checked aside, then assigned whole."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeVar

from stream.announcements import Announcement, Canary, follow, read_announcement
from stream.events import DecodeError
from stream.log import Log, LogUnavailable, UnknownTopic

logger = logging.getLogger(__name__)
R = TypeVar("R")

# What loading a folder that is missing, damaged, unreadable or made by another version may raise; faiss's own
# errors are RuntimeErrors.
CANNOT_LOAD = (LookupError, ValueError, OSError, RuntimeError)


class RefusedRelease(NamedTuple):
    """An announced release that could not be loaded, and why."""

    version: str
    reason: str


@dataclass(frozen=True)
class InUse(Generic[R]):
    """What this process works with at one moment. trial: how the canary is tried; None where none is loaded."""

    version: str | None = None
    champion: R | None = None
    canary: R | None = None
    trial: Canary | None = None


class CurrentRelease(Generic[R]):
    """Follows the announcements with one thread and loads with another, so that the newest announced is tried next.

    A release that cannot be loaded, be it by a mistake of ours, is refused and the one before stays. It is tried again
    every retry_every_s while it remains the announced one: its folder may arrive later than its announcement. A canary
    is loaded beside the current release where with_canary asks for it; refused, it leaves the current one alone.

    load: a version to what this process needs of it, checked and ready; raises one of CANNOT_LOAD.
    prepare: called, when there is nothing else to do, with the version to go back to if it was never loaded here, so
    that loading it will be quick; may raise the same.
    on_swap: called with each version that became current here; on_refusal: with each refused, once.
    """

    def __init__(
        self,
        log: Log,
        load: Callable[[str], R],
        *,
        with_canary: bool = False,
        prepare: Callable[[str], object] = lambda _: None,
        retry_every_s: float = 2.0,
        on_swap: Callable[[str], None] = lambda _: None,
        on_refusal: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._log, self._load, self._with_canary, self._retry_every_s = log, load, with_canary, retry_every_s
        self._prepare, self._on_swap, self._on_refusal = prepare, on_swap, on_refusal
        self._prepared: set[str] = set()
        self._in_use: InUse[R] = InUse()
        self.announcement: Announcement | None = None
        self.refused: RefusedRelease | None = None
        self.canary_refused: RefusedRelease | None = None
        self._news, self._stop = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=follow, args=(log, self._note, self._stop), name="releases-follow", daemon=True),
            threading.Thread(target=self._take_announced, name="releases-load", daemon=True),
        ]

    @property
    def announced(self) -> str | None:
        """The version announced as current; loaded here or not."""
        return None if self.announcement is None else self.announcement.version

    def get(self) -> R | None:
        """The current release; None before the first. A request calls this once, or `in_use` instead."""
        return self._in_use.champion

    def in_use(self) -> InUse[R]:
        """The current release and the canary beside it, as they were assigned together. A request calls this once."""
        return self._in_use

    def start(self) -> None:
        """Load what is announced already, so that a process begins with it; then follow. Waits for the loading."""
        try:
            self.announcement = read_announcement(self._log)
        except (LogUnavailable, UnknownTopic, DecodeError) as error:
            logger.warning("no release yet: %s", error)
        self._take()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when both threads have ended."""
        self._stop.set()
        self._news.set()
        for thread in self._threads:
            thread.join()

    def _note(self, announcement: Announcement) -> None:
        self.announcement = announcement
        self._news.set()

    def _take_announced(self) -> None:
        while not self._stop.is_set():
            self._prepare_way_back()
            self._news.wait(self._retry_every_s if self.refused or self.canary_refused else None)
            self._news.clear()
            if not self._stop.is_set():
                self._take()

    def _take(self) -> None:
        """Bring what is in use to what is announced, as far as it can be loaded."""
        if self.announcement is None:
            return
        version, trial = self.announcement.version, self.announcement.canary if self._with_canary else None
        self._end_other_trials(version, trial)
        self._take_current(version)
        if trial is not None:
            self._take_canary(trial)

    def _take_current(self, version: str) -> None:
        in_use = self._in_use
        if version == in_use.version:
            self.refused = None
            return
        if in_use.trial is not None and version == in_use.trial.version:  # promoted: it is there already
            self._in_use = InUse(version, in_use.canary)
        else:
            loaded = self._loaded(version, self.refused)
            if isinstance(loaded, RefusedRelease):
                self.refused = loaded
                return
            self._in_use = replace(in_use, version=version, champion=loaded)  # the swap: all before was aside
        self.refused = None
        logger.info("release %s is current here", version)
        self._on_swap(version)

    def _take_canary(self, trial: Canary) -> None:
        in_use = self._in_use
        if in_use.trial is not None:  # the same release; only its share or its time may be others
            self._in_use = replace(in_use, trial=trial)
            return
        loaded = self._loaded(trial.version, self.canary_refused)
        if isinstance(loaded, RefusedRelease):
            self.canary_refused = loaded
            return
        self._in_use, self.canary_refused = replace(in_use, canary=loaded, trial=trial), None
        logger.info("release %s is on trial here with %g of the users", trial.version, trial.share)

    def _end_other_trials(self, current: str, trial: Canary | None) -> None:
        """Let go of a canary that is on trial no more, unless it is to become the current release."""
        kept = {current, trial.version if trial is not None else None}
        in_use = self._in_use
        if in_use.trial is not None and in_use.trial.version not in kept:
            self._in_use = InUse(in_use.version, in_use.champion)
            logger.info("release %s is on trial here no more", in_use.trial.version)
        if self.canary_refused is not None and (trial is None or trial.version != self.canary_refused.version):
            self.canary_refused = None

    def _prepare_way_back(self) -> None:
        before = self.announcement.before[:1] if self.announcement is not None else ()
        for version in set(before) - self._prepared:
            self._prepared.add(version)
            try:
                self._prepare(version)
            except Exception as error:  # as in `_loaded`
                logger.warning("there is no way back to release %s: %s", version, error, exc_info=_if_ours(error))

    def _loaded(self, version: str, refused: RefusedRelease | None) -> R | RefusedRelease:
        """refused: what was refused in this place before, so that a refusal is told once."""
        self._prepared.add(version)
        try:
            return self._load(version)
        except Exception as error:  # a mistake of ours too: without this thread no release would ever come again
            refusal = RefusedRelease(version, f"{type(error).__name__}: {error}")
            if refusal != refused:
                logger.error("release %s refused: %s", version, error, exc_info=_if_ours(error))  # noqa: TRY400
                self._on_refusal(version)
            return refusal


def _if_ours(error: Exception) -> Exception | None:
    """The error if it is a mistake of ours, to be told with where it was made; of others the message says all."""
    return None if isinstance(error, CANNOT_LOAD) else error

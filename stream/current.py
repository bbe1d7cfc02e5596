"""The current release of this process: announced through the log, loaded and checked aside, then assigned whole."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from stream.announcements import current_version, follow
from stream.events import DecodeError
from stream.log import Log, LogUnavailable

logger = logging.getLogger(__name__)
R = TypeVar("R")

# What loading a folder that is missing, damaged, unreadable or made by another version may raise; faiss's own
# errors are RuntimeErrors.
CANNOT_LOAD = (LookupError, ValueError, OSError, RuntimeError)


class RefusedRelease(NamedTuple):
    """An announced release that could not be loaded, and why."""

    version: str
    reason: str


class CurrentRelease(Generic[R]):
    """Follows the announcements with one thread and loads with another, so that the newest announced is tried next.

    A release that cannot be loaded is refused and the one before stays. It is tried again every retry_every_s while
    it remains the announced one: its folder may arrive later than its announcement.

    load: a version to what this process needs of it, checked and ready; raises one of CANNOT_LOAD.
    """

    def __init__(
        self,
        log: Log,
        load: Callable[[str], R],
        *,
        retry_every_s: float = 2.0,
        on_swap: Callable[[str], None] = lambda _: None,
        on_refusal: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._log, self._load, self._retry_every_s = log, load, retry_every_s
        self._on_swap, self._on_refusal = on_swap, on_refusal
        self._current: R | None = None
        self._version: str | None = None
        self.refused: RefusedRelease | None = None
        self.announced: str | None = None
        self._news, self._stop = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=follow, args=(log, self._note, self._stop), name="releases-follow", daemon=True),
            threading.Thread(target=self._take_announced, name="releases-load", daemon=True),
        ]

    def get(self) -> R | None:
        """The current release; None before the first. A request calls this once."""
        return self._current

    def start(self) -> None:
        """Load what is announced already, so that a process begins with it; then follow. Waits for the loading."""
        try:
            self.announced = current_version(self._log)
        except (LogUnavailable, DecodeError) as error:
            logger.warning("no release yet: %s", error)
        if self.announced is not None:
            self.take(self.announced)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when both threads have ended."""
        self._stop.set()
        self._news.set()
        for thread in self._threads:
            thread.join()

    def take(self, version: str) -> bool:
        """Make the version this process's current one; False, with `refused` set, if it cannot be loaded."""
        try:
            loaded = self._load(version)
        except CANNOT_LOAD as error:
            if self.refused != (version, _reason(error)):
                logger.error("release %s refused: %s", version, error)  # noqa: TRY400  the reason says all
                self._on_refusal(version)
            self.refused = RefusedRelease(version, _reason(error))
            return False
        self._current, self._version = loaded, version  # the swap: everything before was aside
        self.refused = None
        logger.info("release %s is current here", version)
        self._on_swap(version)
        return True

    def _note(self, version: str) -> None:
        self.announced = version
        self._news.set()

    def _take_announced(self) -> None:
        while not self._stop.is_set():
            self._news.wait(self._retry_every_s if self.refused else None)
            self._news.clear()
            version = self.announced
            if self._stop.is_set() or version is None:
                continue
            if version == self._version:
                self.refused = None
                continue
            self.take(version)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

"""Erased users leave what can be rewritten, by itself: a thread of the process that writes the archive."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ledstream import parts
from ledstream.erasure_stores import Stores, compaction, stores
from ledstream.settings import Settings
from store.connection import StoreUnavailable
from store.erased_archive import ArchiveCompaction
from stream.log import Log, LogUnavailable

logger = logging.getLogger(__name__)
LOOKS_EVERY_S = 5.0


class Compacting:
    """Clears at the start, soon after somebody was erased, and again until nothing is left to remove: at most every so
    many seconds.

    What does not work because the store, the log or the disk is away is tried again the next time.
    """

    def __init__(self, places: Stores, every_s: float) -> None:
        self._places, self._every_s = places, every_s
        self._archive = compaction(places)
        self._cleared, self._cleared_at = -1, float("-inf")

    def run(self, stop: threading.Event) -> None:
        """Until stop is set."""
        looks_every_s = min(LOOKS_EVERY_S, self._every_s)
        while not stop.wait(looks_every_s):
            self._places.tombstones.refresh()
            buried = len(self._places.tombstones.all())
            if buried == self._cleared or time.monotonic() < self._cleared_at + self._every_s:
                continue
            try:
                done = clear(self._places, self._archive)
            except (StoreUnavailable, LogUnavailable, OSError) as error:
                logger.warning("erased users stay in some place for now: %s", error)
            else:
                # What a consumer had not read yet, or what was not filed yet, is left for the next time.
                self._cleared = -1 if any(done.values()) else buried
                self._cleared_at = time.monotonic() if buried else self._cleared_at


def clear(places: Stores, archive: ArchiveCompaction) -> dict[str, int]:
    """Clear everything; returns how many of what went."""
    done = places.clear(archive)
    if any(done.values()):
        logger.info("of erased users: %s", ", ".join(f"{count:,} {what}" for what, count in done.items() if count))
        if parts.is_embedded(places.settings):
            places.users.compact_file()
    return done


@contextmanager
def compacting(settings: Settings, log: Log, stop: threading.Event) -> Iterator[None]:
    """Meanwhile erased users are cleared away. An error that is none of an outage sets stop, and is raised where this
    is left.
    """
    errors: list[Exception] = []

    def work() -> None:
        try:
            Compacting(places, settings.compact_every_s).run(stop)
        except Exception as error:  # raised below
            logger.exception("erased users are not cleared away any more")
            errors.append(error)
            stop.set()

    client = parts.connect_store(settings)
    places = stores(settings, log, parts.erased_users(settings, client))
    thread = threading.Thread(target=work, name="compacting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        client.close()
    for error in errors:
        raise error

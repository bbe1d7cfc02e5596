"""The consumer processes: `ledstream consume timelines` and `ledstream consume archive`."""

from __future__ import annotations

import logging
import threading
import time

from consumers import archive, timelines
from ledstream import parts
from ledstream.process import ConsumerMetrics, stop_on_signals
from ledstream.settings import Settings
from store.releases import BadRelease, Release, UnknownRelease
from stream.announcements import follow
from stream.events import decode_event
from stream.log import Log
from stream.loop import Loop
from stream.topics import EVENTS

logger = logging.getLogger(__name__)


class CurrentEmbeddings:
    """The current release without its index, as announced; the last good one stays while a new one cannot be read."""

    def __init__(self, settings: Settings) -> None:
        self._releases = parts.releases(settings)
        self._release: Release | None = None

    def get(self) -> Release | None:
        return self._release

    def load(self, version: str) -> None:
        """Replace the release by one checked whole."""
        try:
            self._release = self._releases.load(version, with_index=False)
        except (BadRelease, UnknownRelease) as error:
            logger.error("release %s not taken: %s", version, error)  # noqa: TRY400
        else:
            logger.info("encoding under release %s", version)


def run_timelines(settings: Settings) -> None:
    """Apply events to user records until stopped."""
    stop = stop_on_signals(settings)
    log = parts.open_log(settings)
    states = parts.user_states(settings, parts.open_store(settings))
    current = CurrentEmbeddings(settings)
    follower = threading.Thread(target=follow, args=(log, current.load, stop), name="releases", daemon=True)
    follower.start()
    handler = timelines.TimelineConsumer(states, current.get, log.identity(EVENTS), max_events=settings.timeline_events)
    metrics = ConsumerMetrics(settings, timelines.GROUP)
    Loop(log, EVENTS, timelines.GROUP, decode_event, handler, on_tick=metrics.show).run(stop)
    follower.join()
    _finish(log, f"{handler.counts}, {handler.damaged} damaged, {handler.refused} refused")


def run_archive(settings: Settings) -> None:
    """Write events to the archive until stopped."""
    stop = stop_on_signals(settings)
    log = parts.open_log(settings)
    handler = archive.ArchiveConsumer(
        parts.archive(settings, log), time.monotonic, flush_every_s=settings.archive_flush_s
    )
    metrics = ConsumerMetrics(settings, archive.GROUP)
    Loop(log, EVENTS, archive.GROUP, decode_event, handler, on_tick=metrics.show).run(stop)
    _finish(log, f"{handler.archived} events in {handler.files} files")


def _finish(log: Log, what: str) -> None:
    log.close()
    logger.info("stopped: %s", what)

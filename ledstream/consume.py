"""The consumer processes: `ledstream consume timelines` and `ledstream consume archive`."""

from __future__ import annotations

import logging
import threading
import time

from consumers import archive, timelines
from ledstream import parts
from ledstream.consumer_metrics import ConsumerMetrics
from ledstream.process import collect_rarely, stop_on_signals
from ledstream.pulse import Pulse
from ledstream.settings import Settings
from store.heartbeats import Heartbeats
from stream.current import CurrentRelease
from stream.log import Log
from stream.loop import Handler, Loop, Progress
from stream.stages import Stages
from stream.topics import EVENTS

logger = logging.getLogger(__name__)
COMMIT_EVERY_S = 1.0  # both handlers know by themselves how far they are; commits are for those who watch
RECORDS_AT_ONCE = 20_000  # a third of a second's work; when less is there, less is taken


def run_timelines(settings: Settings) -> None:
    """Apply events to user records until stopped."""
    stop = stop_on_signals(settings)
    log = parts.open_log(settings)
    states = parts.user_states(settings, parts.open_store(settings))
    releases = parts.releases(settings)
    current = CurrentRelease(log, lambda version: releases.load(version, with_index=False))
    current.start()
    handler = timelines.TimelineConsumer(states, current.get, log.identity(EVENTS), max_events=settings.timeline_events)
    metrics = ConsumerMetrics(settings, timelines.GROUP, handler.tallies, handler.stages)
    _consume(settings, log, metrics, handler, stop)
    current.stop()
    _finish(log, f"{handler.counts}, {handler.damaged} damaged, {handler.refused} refused")


def run_archive(settings: Settings) -> None:
    """Write events to the archive until stopped."""
    stop = stop_on_signals(settings)
    log = parts.open_log(settings)
    handler = archive.ArchiveConsumer(
        parts.archive(settings, log), time.monotonic, flush_every_s=settings.archive_flush_s
    )
    metrics = ConsumerMetrics(settings, archive.GROUP, handler.tallies, Stages())
    _consume(settings, log, metrics, handler, stop)
    _finish(log, f"{handler.archived} events in {handler.files} files")


def _consume(settings: Settings, log: Log, metrics: ConsumerMetrics, handler: Handler, stop: threading.Event) -> None:
    group = metrics.group
    client = parts.connect_store(settings, timeout_s=parts.SERVING_TIMEOUT_S)  # no turn waits long to say it lives
    with client, Pulse(Heartbeats(client, settings.namespace), group) as pulse:

        def tick(progress: Progress) -> None:
            metrics.show(progress)
            pulse.show(progress)

        decoder = parts.decoder(settings)
        collect_rarely()
        Loop(
            log, EVENTS, group, handler,
            decoder=decoder, max_records=RECORDS_AT_ONCE, commit_every_s=COMMIT_EVERY_S, on_tick=tick,
        ).run(stop)  # fmt: skip


def _finish(log: Log, what: str) -> None:
    log.close()
    logger.info("stopped: %s", what)

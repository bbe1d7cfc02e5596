"""The consumer processes: `ledstream consume timelines`, `ledstream consume archive`, `ledstream consume catalogue`.

Each imports what it needs and no more: Parquet, or the index, is half of such a process's memory.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Generic, TypeVar

from ledstream import parts
from ledstream.consumer_metrics import ConsumerMetrics
from ledstream.process import collect_rarely, stop_on_signals
from ledstream.pulse import Pulse
from ledstream.settings import Settings
from store.catalogue import Catalogue
from store.heartbeats import Heartbeats
from store.popularity import Popularity
from stream.current import CurrentRelease
from stream.items import ItemsDecoder
from stream.log import Log
from stream.loop import Decodes, Handler, Loop, Progress
from stream.stages import Stages
from stream.topics import EVENTS, ITEMS

logger = logging.getLogger(__name__)
Read = TypeVar("Read")
COMMIT_EVERY_S = 1.0  # both handlers know by themselves how far they are; commits are for those who watch
ARCHIVE_RESTS_S = 0.25  # nobody waits for it, and a fetch for every post costs it, and the broker, ten times as much
RECORDS_AT_ONCE = 20_000  # a third of a second's work; when less is there, less is taken


def run_timelines(settings: Settings) -> None:
    """Apply events to user records until stopped."""
    from consumers import timelines

    stop = stop_on_signals(settings)
    log = parts.open_log(settings)
    states = parts.user_states(settings, parts.open_store(settings))
    releases = parts.releases(settings)
    current = CurrentRelease(log, lambda version: releases.load(version, with_index=False))
    current.start()
    handler = timelines.TimelineConsumer(states, current.get, log.identity(EVENTS), max_events=settings.timeline_events)
    metrics = ConsumerMetrics(settings, timelines.GROUP, handler.tallies, handler.stages)
    _consume(settings, log, metrics, _Reading(EVENTS, parts.decoder(settings, log), handler), stop)
    current.stop()
    _finish(log, f"{handler.counts}, {handler.damaged} damaged, {handler.refused} refused")


def run_archive(settings: Settings) -> None:
    """Write events to the archive until stopped."""
    from consumers import archive
    from consumers.popularity import Counting
    from ledstream.compacting import compacting

    stop = stop_on_signals(settings)
    log = parts.open_log(settings)
    counted_in = parts.connect_store(settings, timeout_s=parts.SERVING_TIMEOUT_S)  # nothing waits for it
    handler = archive.ArchiveConsumer(
        parts.archive(settings, log),
        time.monotonic,
        flush_every_s=settings.archive_flush_s,
        tombstones=parts.tombstones(settings),
    )
    counting = Counting(handler, Popularity(counted_in, settings.namespace), log.identity(EVENTS), time.monotonic)
    metrics = ConsumerMetrics(settings, archive.GROUP, handler.tallies, Stages())
    with compacting(settings, log, stop):
        _consume(
            settings, log, metrics, _Reading(EVENTS, parts.decoder(settings, log), counting, ARCHIVE_RESTS_S), stop
        )
    _finish(log, f"{handler.archived} events in {handler.files} files")


def run_catalogue(settings: Settings) -> None:
    """Write what is known of items to the store until stopped."""
    from consumers import catalogue

    stop = stop_on_signals(settings)
    log = parts.open_log(settings)
    handler = catalogue.CatalogueConsumer(
        Catalogue(parts.open_store(settings), settings.namespace), log.identity(ITEMS)
    )
    metrics = ConsumerMetrics(settings, catalogue.GROUP, handler.tallies, Stages())
    _consume(settings, log, metrics, _Reading(ITEMS, ItemsDecoder(), handler), stop)
    _finish(log, f"{handler.put} items put, {handler.deleted} deleted")


@dataclass(frozen=True)
class _Reading(Generic[Read]):
    """Which topic is read, how, and by whom; and how long the reader rests after a little."""

    topic: str
    decoder: Decodes[Read]
    handler: Handler[Read]
    rest_s: float = 0.0


def _consume(
    settings: Settings, log: Log, metrics: ConsumerMetrics, reading: _Reading[Read], stop: threading.Event
) -> None:
    group = metrics.group
    client = parts.connect_store(settings, timeout_s=parts.SERVING_TIMEOUT_S)  # no turn waits long to say it lives
    with client, Pulse(Heartbeats(client, settings.namespace), group) as pulse:

        def tick(progress: Progress) -> None:
            metrics.show(progress)
            pulse.show(progress)

        collect_rarely()
        Loop(
            log, reading.topic, group, reading.handler,
            decoder=reading.decoder, max_records=RECORDS_AT_ONCE, commit_every_s=COMMIT_EVERY_S,
            rest_s=reading.rest_s, on_tick=tick,
        ).run(stop)  # fmt: skip


def _finish(log: Log, what: str) -> None:
    log.close()
    logger.info("stopped: %s", what)

"""`ledstream train`: archive to release, judged and announced."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from consumers.archive import archive_row
from ledstream import parts
from ledstream.canary_command import introduce
from ledstream.process import stop_with_supervisor
from ledstream.settings import Settings
from store.archive import Archive, ArchiveRow, read_archive
from store.releases import BadRelease
from stream.announcements import Announcement, read_announcement
from stream.events import DecodeError, decode_event
from stream.log import Log
from stream.topics import EVENTS
from training.gate import ArchivedEvents, GateSettings, examine
from training.interactions import Selection
from training.progress import progress_bars
from training.spectral import SpectralSettings
from training.train import Grid, TrainSettings, train

logger = logging.getLogger(__name__)
READ_AT_ONCE = 5000


def train_settings(settings: Settings) -> TrainSettings:
    """How a release is trained under these settings."""
    return TrainSettings(
        selection=Selection(dict(settings.kinds), half_life_s=settings.train_half_life_s or None),
        spectral=SpectralSettings(dim=settings.dim),
        bias=settings.popularity_bias,
        half_life_s=settings.half_life_s or None,
        head_weights=settings.head_weights,
        popularity_half_life_s=settings.popularity_half_life_s or None,
        grid=replace(Grid(), bias=tuple(sorted({*Grid.bias, settings.popularity_bias}))) if settings.tune else None,
    )


def gate_settings(settings: Settings) -> GateSettings:
    """What a release must be like to go live under these settings."""
    return GateSettings(settings.dim, settings.timeline_events, settings.max_release_lag_s)


def train_once(settings: Settings, log: Log, now_ms: int) -> str:
    """Train on the archive and what the log holds beyond it, publish, examine, announce; returns the version.

    What is there twice, because it was filed meanwhile, counts once: a user's events on one item are one cell.

    Raises TooFewEvents, BadRelease (also where the gate refuses it) or LowRecall, and then the current release stays.
    """
    since = datetime.fromtimestamp(now_ms / 1000, UTC) - timedelta(days=settings.train_days)
    started = time.monotonic()
    with progress_bars() as progress:
        progress("reading the archive", 0, 1)
        newest = not_archived(parts.archive(settings, log), log)
        events = read_archive(settings.archive_dir, since_day=f"{since:%Y-%m-%d}", beyond=newest)
        progress("reading the archive", 1, 1)
        model = train(events, train_settings(settings), progress)
        progress("building the index", 0, 1)
        releases = parts.releases(settings)
        version = releases.publish(model, now_ms=now_ms)
        progress("building the index", 1, 1)
    go_live(settings, log, version, events, now_ms)
    took_s = time.monotonic() - started
    logger.info("release %s: %d items from %d events in %.1f s", version, len(model.item_ids), len(events), took_s)
    return version


def go_live(settings: Settings, log: Log, version: str, events: ArchivedEvents, now_ms: int) -> None:
    """Announce a published release if it passes the gate; then delete old ones. events: the archive.

    Raises BadRelease with the gate's refusal, and then the current release stays.
    """
    releases, in_use = parts.releases(settings), _in_use(log)
    current = in_use.version if in_use else None
    report = examine(releases, version, current, events, gate_settings(settings), now_ms=now_ms)
    for line in report.lines():
        logger.info("%s", line)
    if report.passed:
        introduce(settings, log, version, now_ms)
    in_use = _in_use(log)
    for old in releases.prune(settings.keep_releases, now_ms, spared=in_use.in_use if in_use else ()):
        logger.info("release %s deleted: %d newer ones are kept", old, settings.keep_releases)
    if not report.passed:
        raise BadRelease(report.refusal(), "gate")


def _in_use(log: Log) -> Announcement | None:
    """What is announced; nothing where that cannot be read, which the next announcement heals."""
    try:
        return read_announcement(log)
    except DecodeError as error:
        logger.warning("no current release: %s", error)
        return None


def not_archived(archive: Archive, log: Log) -> Iterator[ArchiveRow]:
    """What the log holds beyond the files: the newest events, and the newest erasures."""
    for partition, start in log.start_offsets(EVENTS).items():
        offset = max(archive.next_offset(partition) or 0, start)
        while records := log.read(EVENTS, partition, offset, READ_AT_ONCE):
            for record in records:
                with suppress(DecodeError):  # a dead letter already, or soon
                    yield archive_row(partition, record.offset, record.time_ms, decode_event(record.value))
            offset = records[-1].offset + 1


def run_once(settings: Settings) -> str:
    """`ledstream train`."""
    stop_with_supervisor(settings, lambda: os.kill(os.getpid(), signal.SIGTERM))
    log = parts.open_log(settings)
    try:
        return train_once(settings, log, int(time.time() * 1000))
    finally:
        log.close()

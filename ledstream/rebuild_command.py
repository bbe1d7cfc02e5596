"""`ledstream rebuild`: all user records made anew, from the archive or from the log, beside running consumers.

The records are held meanwhile: consumers wait, and go on in the log where the rebuild ended. One that dies holds them
for HOLD_S at most. What it did is then a part of the whole: run the command again, which does all of it from the start.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from heapq import merge
from typing import TypeVar

from consumers.archive import columns_of
from consumers.timelines import TimelineConsumer
from ledstream import parts
from ledstream.settings import Settings, SettingsError
from ledstream.train_command import not_archived
from store.archive import Archive, active_users, archived_logs
from store.connection import StoreUnavailable
from store.releases import Release
from store.user_record import source_of
from store.user_state import UserStates
from stream.announcements import current_version
from stream.decoding import without_erased
from stream.log import Log
from stream.loop import Elsewhere
from stream.topics import EVENTS
from training.progress import Progress, progress_bars

logger = logging.getLogger(__name__)
R = TypeVar("R")
HOLD_S = 30
RENEW_EVERY_S = 5.0
ROWS_AT_ONCE = 2000


def run(settings: Settings, source: str | None) -> int:
    """Prints a line with what was done. source: "archive" or "log"; None: where the older events are."""
    log = parts.open_log(settings)
    try:
        with progress_bars() as progress:
            rebuild = Rebuild(settings, log, parts.user_states(settings, parts.open_store(settings)), progress)
            is_archive = (source or rebuild.further_back()) == "archive"
            print(rebuild.from_archive() if is_archive else rebuild.from_log())
    finally:
        log.close()
    return 0


class Rebuild:
    """Makes the records of `states` anew."""

    def __init__(self, settings: Settings, log: Log, states: UserStates, progress: Progress) -> None:
        self._settings, self._log, self._states, self._progress = settings, log, states, progress
        self._folder, self._identity = settings.archive_dir, log.identity(EVENTS)
        self._tombstones = parts.tombstones(settings)
        self._renewed_at = 0.0

    def further_back(self) -> str:
        """Where the older events are: "archive" or "log"."""
        archive = Archive(self._folder, self._identity)
        if set(archived_logs(self._folder)) - {self._identity}:
            return "archive"
        starts = self._log.start_offsets(EVENTS)
        firsts = {partition: archive.first_offset(partition) for partition in archive.partitions()}
        older = any(first is not None and first < starts.get(partition, 0) for partition, first in firsts.items())
        return "archive" if older else "log"

    def from_log(self) -> str:
        """Forget all; consumers find their positions gone and read the log from its oldest record."""
        started = time.monotonic()
        users = self._held(self._forget)
        starts, ends = self._log.start_offsets(EVENTS), self._log.end_offsets(EVENTS)
        events = sum(ends[partition] - start for partition, start in starts.items())
        took_s = time.monotonic() - started
        return f"{users:,} users forgotten in {took_s:.1f} s; consumers read {events:,} records of the log again"

    def from_archive(self) -> str:
        """Forget all, and apply what is archived; consumers go on in the log behind it.

        Left out are users none of whose events reached the log within `idle_after_s`. Of the others every archived
        event is applied, those from before an absence for which they once were forgotten too.
        """
        logs = archived_logs(self._folder)
        if not logs:
            raise SettingsError(f"LEDSTREAM_DATA_DIR: there is no archive in {self._folder}")
        self._warn_of_gaps()
        release = self._release()
        started = time.monotonic()
        users = active_users(self._folder, int(1000 * (time.time() - self._settings.idle_after_s)))
        users.update(row.user_id for row in not_archived(Archive(self._folder, self._identity), self._log))

        def work() -> tuple[int, int]:
            self._forget()
            found: set[str] = set()
            return sum(self._apply(log, release, users, found) for log in logs), len(found)

        events, found = self._held(work)
        return f"{found:,} users from {events:,} events in {time.monotonic() - started:.1f} s"

    def _held(self, work: Callable[[], R]) -> R:
        self._states.hold(f"process {os.getpid()} on {socket.gethostname()}", HOLD_S)
        try:
            done = work()
            self._states.hold_on(HOLD_S)  # it did not lapse meanwhile
        finally:
            self._states.let_go()
        return done

    def _hold_on(self) -> None:
        if time.monotonic() > self._renewed_at + RENEW_EVERY_S:
            self._states.hold_on(HOLD_S)
            self._renewed_at = time.monotonic()

    def _forget(self) -> int:
        users = 0
        self._progress("forgetting", 0, 1)
        for forgotten in self._states.forget_all():
            users += forgotten
            self._hold_on()
        self._progress("forgetting", 1, 1)
        logger.info("%d users forgotten", users)
        return users

    def _apply(self, log: int, release: Release | None, users: set[str], found: set[str]) -> int:
        """Apply one log's archived events of these users; returns how many took effect, and adds whose to found."""
        archive = Archive(self._folder, log)
        consumer = TimelineConsumer(self._states, lambda: release, log, max_events=self._settings.timeline_events)
        partitions = archive.partitions()
        if any(consumer.assigned(partition) for partition in partitions):
            raise StoreUnavailable("a consumer wrote while the records were forgotten: begin again")
        what, done, total = f"log {log:016x}", 0, archive.count()
        self._progress(what, 0, total)
        try:
            for rows in merge(
                *[archive.read(partition, ROWS_AT_ONCE) for partition in partitions],
                key=lambda rows: rows[0].appended_ms,
            ):
                theirs = [row for row in rows if row.user_id in users]
                events = columns_of(theirs, rows[0].partition, rows[-1].offset + 1)
                consumer.handle([without_erased(events, self._tombstones, log)])
                found.update(row.user_id for row in theirs)
                self._hold_on()
                done += len(rows)
                self._progress(what, done, total)
            consumer.handle([])
        except Elsewhere as error:
            raise StoreUnavailable(f"the store changed while its records were rebuilt: {error}") from error
        for partition in partitions:
            source, end = source_of(log, partition), archive.next_offset(partition) or 0
            self._states.advance(source, self._states.position(source), end)
        logger.info("%s: %d events", what, consumer.counts.applied)
        return consumer.counts.applied

    def _warn_of_gaps(self) -> None:
        archive = Archive(self._folder, self._identity)
        for partition, start in self._log.start_offsets(EVENTS).items():
            end = archive.next_offset(partition) or 0
            if end < start:
                logger.warning("partition %d: offsets %d to %d are in no archive and no log", partition, end, start - 1)

    def _release(self) -> Release | None:
        version = current_version(self._log)
        return None if version is None else parts.releases(self._settings).load(version, with_index=False)

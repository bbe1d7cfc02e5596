"""A small system whose users can be erased: a real store and log, a real archive, consumers run when a test says so."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from consumers.archive import ArchiveConsumer
from consumers.timelines import TimelineConsumer
from ledstream import parts
from ledstream.compacting import clear
from ledstream.erasure_stores import Found, compaction, stores
from ledstream.settings import Settings
from serving.erasing import Eraser
from serving.parts import Erasures, Parts
from serving.publisher import publisher
from store.connection import Client
from store.user_record import UserRecord
from stream.bad_rows import BadRow, as_entry
from stream.decoding import EventColumns
from stream.events import Event, encode_event
from stream.kept import KeptLog
from stream.log import Entry, Log
from stream.loop import Handler, Loop, Progress
from stream.topics import BAD_ROWS, EVENTS, IMPRESSIONS

TOGETHER = 100  # erasures
KINDS = ("u", "position", "links", "damaged")


class ErasureWorld:
    """The parts of `settings`, and what a test does with them."""

    def __init__(self, settings: Settings, log: Log, client: Client) -> None:
        self.settings, self.log, self.client = settings, log, client
        self.states = parts.user_states(settings, client)
        self.users = parts.erased_users(settings, client)
        self.spool = parts.spool(settings)

    def send(self, *events: Event, topic: str = EVENTS) -> None:
        """Append events at their own times."""
        entries = [Entry(one.user_id.encode(), encode_event(one), one.time_ms) for one in events]
        assert not any(isinstance(outcome, Exception) for outcome in self.log.append(topic, entries))

    def leave_traces(self, users: Sequence[str], at_ms: int) -> None:
        """What else may be known of them: a refused event, an impression, a record nobody can read."""
        rows = [
            BadRow("kind", "gift", "unknown", json.dumps({"user_id": one, "kind": "gift"}).encode(), "shop", "", at_ms)
            for one in users
        ]
        self.log.append(BAD_ROWS, [as_entry(row) for row in rows])
        self.log.append(EVENTS, [Entry(one.encode(), b"\xc1", at_ms) for one in users])
        self.send(*(Event(one, "hat", "impression", at_ms) for one in users), topic=IMPRESSIONS)

    def fold(self) -> None:
        """The timelines consumer, until nothing is left to read."""
        self._consume(TimelineConsumer(self.states, lambda: None, self.log.identity(EVENTS)), "timelines")

    def archive(self) -> None:
        """The archive's consumer, until nothing is left to read."""
        archive, tombstones = parts.archive(self.settings, self.log), parts.tombstones(self.settings)
        self._consume(ArchiveConsumer(archive, time.monotonic, tombstones=tombstones), "archive")

    def erase(self, *users: str) -> list[dict[str, Any]]:
        """As a server does, many at a time; returns the receipts."""

        async def ask() -> list[dict[str, Any]]:
            events = publisher(KeptLog(self.log, self.spool))
            events.start()
            eraser = Eraser(self._parts(), events)
            receipts: list[dict[str, Any] | None] = []
            for at in range(0, len(users), TOGETHER):
                receipts += await asyncio.gather(*map(eraser.erase, users[at : at + TOGETHER]))
            await events.stop()
            return [one for one in receipts if one is not None]

        return asyncio.run(ask())

    def timeline(self, user: str) -> int:
        """How many events are in the user's record."""
        (record,) = self.states.read([user])
        return len(record.timeline) if isinstance(record, UserRecord) else 0

    def known(self, users: Sequence[str]) -> list[str]:
        """Those of whom the store holds an event."""
        records = zip(users, self.states.read(users), strict=True)
        return [user for user, record in records if isinstance(record, UserRecord) and len(record.timeline)]

    def found(self) -> list[Found]:
        """What `ledstream erasures verify` would tell."""
        return list(stores(self.settings, self.log, self.users).found())

    def wrong(self) -> set[str]:
        """The stores that hold what they must not."""
        return {one.store for one in self.found() if not one.until}

    def clear(self) -> dict[str, int]:
        """As `ledstream erasures compact`."""
        places = stores(self.settings, self.log, self.users)
        return clear(places, compaction(places))

    def backup(self) -> Callable[[], None]:
        """What puts the archive's files and the store's records back as they are now."""
        copy = self.settings.data_dir.with_name("backup")
        shutil.copytree(self.settings.archive_dir, copy)
        dumped = {key: self.client.dump(key) or b"" for kind in KINDS for key in self._keys(kind)}

        def restore() -> None:
            shutil.copytree(copy, self.settings.archive_dir, dirs_exist_ok=True)
            for key, value in dumped.items():
                self.client.restore(key, 0, value, replace=True)

        return restore

    def forget_everything(self) -> None:
        """Records and positions are gone: consumers read the log again."""
        for kind in KINDS:
            keys = self._keys(kind)
            if keys:
                self.client.delete(*keys)

    def _keys(self, kind: str) -> list[bytes]:
        return list(self.client.scan_iter(f"{self.settings.namespace}:{kind}:*", count=5000))

    def _parts(self) -> Parts:
        return Parts(
            self.log,
            self.states,
            parts.releases(self.settings),
            parts.border(self.settings),
            spool=self.spool,
            erasures=Erasures(parts.tombstones(self.settings), self.users),
        )

    def _consume(self, handler: Handler[EventColumns], group: str) -> None:
        stop = threading.Event()

        def tick(progress: Progress) -> None:
            if progress.rebalances and progress.waiting_for is None and sum(progress.lag.values()) == 0:
                stop.set()

        decoder = parts.decoder(self.settings, self.log)
        Loop(self.log, EVENTS, group, handler, decoder=decoder, poll_timeout_s=0.01, on_tick=tick).run(stop)

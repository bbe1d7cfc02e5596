"""The newest events of the log: who is there at this moment, and does what."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from serving.console.shapes import NewestEvent
from store.tombstones import Tombstones
from stream.erased_records import erased
from stream.events import DecodeError, Event, decode_event
from stream.log import Log
from stream.probes import PROBE
from stream.topics import EVENTS

BESIDE = 50  # records of a partition that may be erasures and the like, which are shown to nobody
FURTHER, FURTHEST = 8, 8000  # so many times more are looked through where these are probes, and so many at most


def newest_events(
    log: Log, limit: int, kinds: Collection[str], tombstones: Tombstones | None = None
) -> list[NewestEvent]:
    """At most `limit` of these kinds, newest first by when they happened. Raises LogUnavailable, UnknownTopic.

    Those of users who were erased since are left out.
    """
    found = []
    starts = log.start_offsets(EVENTS)
    for partition, end in log.end_offsets(EVENTS).items():
        wanted, here = limit + BESIDE, list[Event]()
        while True:
            at = max(starts[partition], end - wanted)
            here = _shown(log, partition, (at, wanted), kinds, tombstones)
            if len(here) >= limit or at == starts[partition] or wanted == FURTHEST:
                break
            wanted = min(wanted * FURTHER, FURTHEST)
        found += here
    newest = sorted(found, key=lambda event: -event.time_ms)[:limit]
    return [NewestEvent(user_id=one.user_id, item_id=one.item_id, kind=one.kind, time_ms=one.time_ms) for one in newest]


def _shown(
    log: Log, partition: int, where: tuple[int, int], kinds: Collection[str], tombstones: Tombstones | None
) -> list[Event]:
    """where: from which offset, and how many records."""
    found = []
    for record in log.read(EVENTS, partition, *where):
        if record.value != PROBE and (tombstones is None or erased(EVENTS, record, tombstones) is None):
            with suppress(DecodeError):
                event = decode_event(record.value)
                if event.kind in kinds:
                    found.append(event)
    return found

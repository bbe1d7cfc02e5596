"""The newest events of the log: who is there at this moment, and does what."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from serving.console.shapes import NewestEvent
from stream.events import DecodeError, decode_event
from stream.log import Log
from stream.topics import EVENTS

BESIDE = 50  # records of a partition that may be erasures and the like, which are shown to nobody


def newest_events(log: Log, limit: int, kinds: Collection[str]) -> list[NewestEvent]:
    """At most `limit` of these kinds, newest first by when they happened. Raises LogUnavailable, UnknownTopic."""
    found = []
    wanted = limit + BESIDE
    starts = log.start_offsets(EVENTS)
    for partition, end in log.end_offsets(EVENTS).items():
        for record in log.read(EVENTS, partition, max(starts[partition], end - wanted), wanted):
            with suppress(DecodeError):
                event = decode_event(record.value)
                if event.kind in kinds:
                    found.append(event)
    newest = sorted(found, key=lambda event: -event.time_ms)[:limit]
    return [NewestEvent(user_id=one.user_id, item_id=one.item_id, kind=one.kind, time_ms=one.time_ms) for one in newest]

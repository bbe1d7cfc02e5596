"""Records that are no events, sent all the time to see how long an event takes to get in.

Every reader passes over them and counts them as read, so that nothing of them is in a user record, an archive or a
release. A program that does not know them keeps them as dead letters: upgrade consumers before servers.
"""

from __future__ import annotations

import os

import msgpack

from stream.log import Batch, Entry
from stream.spool import Addressed
from stream.topics import EVENTS

PROBE: bytes = msgpack.packb([0])  # wire version 0 of `stream/events.py`, which no event has


def new_probe(now_ms: int) -> Addressed:
    """The next one, to whatever partition it comes."""
    return Addressed(EVENTS, Entry(b"probe-" + os.urandom(6).hex().encode(), PROBE, now_ms))


def without_probes(batch: Batch) -> tuple[Batch | None, list[int]]:
    """The other records, None where there are none, and their places in the batch."""
    places = [place for place, value in enumerate(batch.values) if value != PROBE]
    if not places:
        return None, places
    columns = (batch.offsets, batch.times_ms, batch.keys, batch.values)
    return Batch(batch.partition, *([column[place] for place in places] for column in columns)), places  # type: ignore[arg-type]

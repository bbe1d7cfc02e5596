"""A record without one of its events: as if that had never been sent, as far as the record can tell.

The vector is encoded afresh from what remains. What a timeline that was full had pushed out for the event does not come
back: the timeline is one shorter until the user's next event, after which it is again what it would have been. The
time of the last event, where that is the one struck, becomes that of the one before as the timeline keeps it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from led.encoder import NEVER_MS, encode
from store.entries import Entry, entries_of, place_of
from store.releases import Release
from store.stored import flat_entries
from store.user_record import (
    EARLIER_KEPT,
    ENTRY,
    NO_RELEASE,
    STRUCK_KEPT,
    Applied,
    UserRecord,
    decode_record,
    empty_timeline,
    encode_record,
    head_of,
    sealed,
)
from stream.strikes import Strike

GAP_AT = ENTRY["word"].itemsize


def struck(data: bytes, strike: Strike, at: Applied, release: Release | None) -> bytes:
    """The record after the strike that lies in the log at `at`; b"" stands for no record.

    An event that is not in the timeline changes nothing in it. Either way the strike is remembered: the event sent
    again stays out, and the strike sent again takes no other event.
    """
    before = decode_record(data) if data else _nothing(at)
    timeline, applied, late = before.timeline, before.applied, before.late
    place = None if strike.mark in before.struck else place_of(entries_of(data), Entry("", *strike))
    if place is not None:
        late = 0 if place == len(timeline) - 1 else late
        timeline, applied = np.delete(timeline, place), max(applied - 1, 0)
    marks = (strike.mark, *(mark for mark in before.struck if mark != strike.mark))[:STRUCK_KEPT]
    elsewhere = [one for one in (before.position, *before.earlier) if one.source != at.source][:EARLIER_KEPT]
    bare = UserRecord(
        at, timeline, applied, NO_RELEASE, np.empty(0, np.float32), 0.0, NEVER_MS, 0.0, tuple(elsewhere), late, marks
    )
    made = encode_record(bare if release is None else _encoded(bare, release))
    return _led_in(made, data, int(place == 0)) if len(timeline) else made


def _led_in(made: bytes, before: bytes, first: int) -> bytes:
    """With the step in time into the first event as it was: it tells how good that event's time is.

    first: its place before.
    """
    head, at = head_of(made), head_of(before).entries_at + first * ENTRY.itemsize
    gap = slice(head.entries_at + GAP_AT, head.entries_at + ENTRY.itemsize)
    return sealed(made[: gap.start] + before[at + GAP_AT : at + ENTRY.itemsize] + made[gap.stop :])


def _nothing(at: Applied) -> UserRecord:
    return UserRecord(at, empty_timeline(), 0, NO_RELEASE, np.empty(0, np.float32), 0.0, NEVER_MS)


def _encoded(bare: UserRecord, release: Release) -> UserRecord:
    """With its running sums, of the times as they will be kept."""
    data = encode_record(bare)
    head = head_of(data)
    events = flat_entries([data[head.entries_at :]], np.array([head.time_ms]), release)
    sums = encode(release.encoder.tail, release.input_embeddings, 1, events)
    return replace(
        bare,
        release=release.key,
        total=sums.totals[0],
        weight=float(sums.weights[0]),
        at_ms=int(sums.at_ms[0]),
        mass=float(sums.masses[0]),
    )

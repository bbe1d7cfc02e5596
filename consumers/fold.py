"""From a batch of events to new user records: which events take effect, what they push out, what the vector becomes.

An event takes effect once. It is dropped when its offset is not beyond the record's (a replay), or when the timeline
holds an event of the same item, kind and event id (a repeated send). An erasure forgets everything before it and
leaves an empty record behind, whose position keeps replays from bringing the past back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from led.encoder import NEVER_MS, Sums, fold, worn
from store.releases import Release
from store.user_state import (
    NO_RELEASE,
    TIMELINE,
    Applied,
    Timeline,
    UserRecord,
    empty_timeline,
    encode_timelines,
    flat_events,
    joined,
)
from stream.events import ERASE, Event, event_key, item_key, kind_code


@dataclass(frozen=True)
class Change:
    """What a batch does to one timeline. entered and left are TIMELINE arrays; anew: encode from the whole timeline."""

    before: UserRecord | None
    position: Applied
    timeline: Timeline
    entered: Timeline
    left: Timeline
    applied: int
    anew: bool


@dataclass
class Counts:
    """What became of the events of a batch."""

    applied: int = 0
    duplicates: int = 0
    replayed: int = 0
    erased: int = 0


def change_timeline(
    before: UserRecord | None, events: Sequence[tuple[Applied, Event]], max_events: int, counts: Counts
) -> Change | None:
    """The user's timeline after the events, in order; None if all of them were applied before.

    max_events: the timeline keeps this many newest events.
    """
    events = _not_replayed(before, events, counts)
    if not events:
        return None
    timeline = before.timeline if before else empty_timeline()
    applied, anew = (before.applied, False) if before else (0, True)
    fresh = empty_timeline()
    for start, stop in _between_erasures(events):
        if start > 0:
            timeline, fresh, applied, anew = empty_timeline(), empty_timeline(), 0, True
            counts.erased += 1
        new = _as_timeline([event for _, event in events[start:stop]])
        fresh = _without_repeats(timeline, new, max_events)
        counts.applied += len(fresh)
        counts.duplicates += len(new) - len(fresh)
        applied += len(fresh)
    whole = joined((timeline, fresh))
    surplus = max(len(whole) - max_events, 0)
    left = timeline[: min(surplus, len(timeline))]
    kept = whole[surplus:]
    entered = kept[max(len(timeline) - surplus, 0) :]
    anew = anew or applied // max_events != (before.applied if before else 0) // max_events
    return Change(before, events[-1][0], kept, entered, left, applied, anew)


def new_records(changes: Mapping[str, Change], release: Release | None) -> dict[str, UserRecord]:
    """The records after the changes, with vectors under the release; without one, timelines only.

    Vectors move incrementally where the stored one is of this release, and are encoded from the timeline otherwise,
    once every max_events applied (which bounds the rounding that additions and subtractions gather), and where the
    sums are `worn`.
    """
    bare = {
        user: UserRecord(c.position, c.timeline, c.applied, NO_RELEASE, np.empty(0, np.float32), 0.0, NEVER_MS)
        for user, c in changes.items()
    }
    if release is None:
        return bare
    moved = [user for user, c in changes.items() if not c.anew and c.before and c.before.release == release.key]
    records = {}
    if moved:
        before = _sums([changes[user].before for user in moved], release.dim)
        after = fold(
            release.encoder,
            release.input_embeddings,
            before,
            flat_events([changes[user].entered for user in moved], release),
            flat_events([changes[user].left for user in moved], release),
        )
        good = ~worn(release.encoder, after)
        records = {user: _with_sums(bare[user], release, after, i) for i, user in enumerate(moved) if good[i]}
    others = [user for user in changes if user not in records]
    anew = encode_timelines([changes[user].timeline for user in others], release)
    return records | {user: _with_sums(bare[user], release, anew, i) for i, user in enumerate(others)}


def _not_replayed(
    before: UserRecord | None, events: Sequence[tuple[Applied, Event]], counts: Counts
) -> Sequence[tuple[Applied, Event]]:
    if before is None:
        return events
    seen = before.position
    new = [
        (at, event)
        for at, event in events
        if (at.log, at.partition) != (seen.log, seen.partition) or at.offset > seen.offset
    ]
    counts.replayed += len(events) - len(new)
    return new


def _between_erasures(events: Sequence[tuple[Applied, Event]]) -> list[tuple[int, int]]:
    """Ranges of events without an erasure among them; each but perhaps the first follows one."""
    marks = [i for i, (_, event) in enumerate(events) if event.kind == ERASE]
    starts = [i + 1 for i in marks]
    ranges = list(zip([0, *starts], [*marks, len(events)], strict=True))
    return ranges[1:] if events[0][1].kind == ERASE else ranges


def _as_timeline(events: Sequence[Event]) -> Timeline:
    rows = [(item_key(e.item_id), e.time_ms, event_key(e.event_id), kind_code(e.kind)) for e in events]
    return np.array(rows, dtype=TIMELINE)


def _without_repeats(timeline: Timeline, new: Timeline, max_events: int) -> Timeline:
    """The events of `new` that repeat none of the max_events events before them."""
    with_id = new["event"] != 0
    if not with_id.any():
        return new
    window = [(t["item"], t["event"], t["kind"]) for t in timeline]
    before = {event for _, event, _ in window}
    if len(before.union(new["event"][with_id])) == len(before) + with_id.sum():
        return new  # no event id occurs twice, as is nearly always so
    kept = []
    for place, entry in enumerate(new):
        identity = (entry["item"], entry["event"], entry["kind"])
        if entry["event"] and identity in window[-max_events:]:
            continue
        kept.append(place)
        window.append(identity)
    return new[kept]


def _sums(records: Sequence[UserRecord | None], dim: int) -> Sums:
    sums = Sums.zeros(len(records), dim)
    for place, record in enumerate(records):
        if record is not None:
            sums.totals[place], sums.weights[place], sums.at_ms[place] = record.total, record.weight, record.at_ms
            sums.masses[place] = record.mass
    return sums


def _with_sums(bare: UserRecord, release: Release, sums: Sums, place: int) -> UserRecord:
    return replace(
        bare,
        release=release.key,
        total=sums.totals[place],
        weight=float(sums.weights[place]),
        at_ms=int(sums.at_ms[place]),
        mass=float(sums.masses[place]),
    )

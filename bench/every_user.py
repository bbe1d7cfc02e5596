"""Every user's record against the log, the slow and obvious way: one event after the other, one list per user."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from store.profiles import profiles
from store.releases import Release
from store.user_record import TIMELINE, Applied, UserRecord, decode_record, head_of, source_of
from store.user_state import UserStates, encode_timelines, is_damaged
from stream.events import ERASE, Event, decode_event, event_key, item_key, kind_code
from stream.log import Log
from stream.probes import PROBE
from stream.topics import EVENTS

READ_AT_ONCE = 10_000
USERS_AT_ONCE = 2000
ROUNDING = 5e-3  # of the mean length of what was averaged; ordinarily it is a twentieth of that
REMEMBERED = 15  # newest events among which a repeated send is recognised


class Entry(NamedTuple):
    """One event as a timeline holds it."""

    item: int
    time_ms: int
    event: int
    kind: int


@dataclass
class Expected:
    """A user's timeline, oldest first, how many events took effect, and where the last one was in the log.

    repeated: sends that were dropped because they had come before.
    """

    timeline: list[Entry] = field(default_factory=list)
    applied: int = 0
    position: tuple[int, int] = (-1, -1)
    newest_ms: int = 0
    repeated: int = field(default=0, compare=False)


@dataclass
class Comparison:
    """How many users were compared, how many events their records count, and what was not as expected.

    missing, surplus: events that records count too few or too many. differing: the first few, in words.
    """

    events: int = 0
    users: int = 0
    missing: int = 0
    surplus: int = 0
    timelines_differing: int = 0
    vectors_differing: int = 0
    without_vector: int = 0
    largest_difference: float = 0.0
    differing: list[str] = field(default_factory=list)


def logged_events(log: Log) -> Iterator[tuple[int, int, Event]]:
    """Partition, offset and event of all that is in the log, each partition in its order."""
    starts, ends = log.start_offsets(EVENTS), log.end_offsets(EVENTS)
    for partition, start in starts.items():
        following = start
        while following < ends[partition]:
            for record in log.read(EVENTS, partition, following, READ_AT_ONCE):
                following = record.offset + 1
                if record.value != PROBE:
                    yield partition, record.offset, decode_event(record.value)


def folded(events: Iterator[tuple[int, int, Event]], max_events: int) -> dict[str, Expected]:
    """What each user's record should say after these events."""
    users: dict[str, Expected] = defaultdict(Expected)
    for partition, offset, event in events:
        user = users[event.user_id]
        user.position = (partition, offset)
        if event.kind == ERASE:
            user.timeline, user.applied = [], 0
            continue
        at = (
            user.timeline[-1].time_ms + to_11_bits(event.time_ms - user.timeline[-1].time_ms)
            if user.timeline
            else event.time_ms
        )
        new = Entry(item_key(event.item_id), at, event_key(event.event_id), kind_code(event.kind))
        if new.event and any(
            (e.item, e.event, e.kind) == (new.item, new.event, new.kind) for e in user.timeline[-REMEMBERED:]
        ):
            user.repeated += 1
            continue
        user.timeline = [*user.timeline, new][-max_events:]
        user.applied += 1
        user.newest_ms = event.time_ms
    return users


def to_11_bits(step_ms: int) -> int:
    """A step in time with its 11 leading bits, rounded: what a timeline keeps of it."""
    unit = 1 << max(abs(step_ms).bit_length() - 11, 0)
    return (1 if step_ms >= 0 else -1) * ((abs(step_ms) + unit // 2) // unit * unit)


def compare(
    expected: Mapping[str, Expected],
    states: UserStates,
    log_identity: int,
    releases: Mapping[int, Release],
    progress: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """All users. releases: by `Release.key`, every one that a record may have been encoded under.

    A timeline must be equal in every bit; a vector, to a fresh encoding of its timeline under its own release,
    within ROUNDING.
    """
    found = Comparison()
    users = list(expected)
    for first in range(0, len(users), USERS_AT_ONCE):
        progress(first)
        some = users[first : first + USERS_AT_ONCE]
        good: list[bytes] = []
        for user, data in zip(some, states.find(some), strict=True):
            record = decode_record(data) if data and not is_damaged(data) else None
            applied = record.applied if record else 0
            found.users += 1
            found.events += applied
            found.missing += max(expected[user].applied - applied, 0)
            found.surplus += max(applied - expected[user].applied, 0)
            if record and _is_equal(expected[user], record, log_identity):
                good.append(data)
            else:
                found.timelines_differing += 1
                found.differing = [*found.differing, f"{user}: {record or data!r}"][:5]
        _compare_vectors(good, releases, found)
    return found


def _is_equal(expected: Expected, record: UserRecord, log_identity: int) -> bool:
    partition, offset = expected.position
    timeline = np.array(expected.timeline, TIMELINE)
    timeline["event"][:-REMEMBERED] = 0
    return bool(
        record.applied == expected.applied
        and record.position == Applied(source_of(log_identity, partition), offset)
        and record.as_of == (expected.newest_ms if expected.timeline else None)
        and record.timeline.tobytes() == timeline.tobytes()
    )


def _compare_vectors(records: Sequence[bytes], releases: Mapping[int, Release], found: Comparison) -> None:
    """What a request would read of each record, and its timeline encoded."""
    made_by = [head_of(data).release for data in records]
    found.without_vector += sum(key not in releases for key in made_by)
    for key, release in releases.items():
        made_by_it = [data for data, maker in zip(records, made_by, strict=True) if maker == key]
        if not made_by_it:
            continue
        fresh = encode_timelines([decode_record(data).timeline for data in made_by_it], release).vectors()
        served = profiles(made_by_it, release).queries[:, :-1]
        difference = np.linalg.norm(served - fresh, axis=1)
        length = np.maximum(np.linalg.norm(fresh, axis=1), 1e-9)
        found.vectors_differing += int(np.count_nonzero(difference > ROUNDING * length))
        found.largest_difference = max(found.largest_difference, float((difference / length).max()))

"""Events that were struck (`stream/strikes.py`) are not in what is trained on, nor in what the gate asks about.

Where nothing was struck, one column of the archive is read for it. Otherwise the events of the users concerned are
looked through once more. What is meant is told as consumers tell it: by the event's key, and then every copy that was
sent goes, before the strike or after; or, for an event whose key was no longer kept, by its time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from stream.events import event_key, item_key, kind_code
from stream.strikes import STRIKE, Strike

Read = Callable[[Sequence[str]], Iterable[pa.Table]]
"""Gives these columns of all events from their beginning, a batch at a time."""

Place = tuple[int, int, int]
PLACE = ("partition", "offset", "appended_ms")  # tells an event from all others, those of other logs included
IS_STRIKE = pc.field("kind") == STRIKE
OFF_MS = 60_000  # times of events without a key may be off by so much beyond what the strike says


class _Event(NamedTuple):
    place: Place
    item: int
    kind: int
    time_ms: int
    event: int


class _Struck(NamedTuple):
    at_ms: int
    strike: Strike


def struck_places(read: Read) -> set[Place]:
    """Where in the log the struck events are."""
    if not any(len(batch.filter(IS_STRIKE)) for batch in read(("kind",))):
        return set()
    strikes = _strikes(read)
    events = _events_of(read, strikes.keys())
    return {place for user, of_user in strikes.items() for place in _meant(of_user, events[user])}


def without_struck(events: pa.Table, places: Collection[Place]) -> pa.Table:
    """The events that do not lie at these places. events: with the columns of PLACE."""
    if not places:
        return events
    offsets = events["offset"].to_numpy()
    suspicious = np.flatnonzero(np.isin(offsets, [offset for _, offset, _ in places]))
    rows = events.select(PLACE).take(suspicious).to_pylist()
    gone = [place for place, row in zip(suspicious.tolist(), rows, strict=True) if tuple(row.values()) in places]
    kept = np.ones(len(events), np.bool_)
    kept[gone] = False
    return events.filter(pa.array(kept))


def _strikes(read: Read) -> Mapping[str, list[_Struck]]:
    """By user, in the order they were sent, each once."""
    found: dict[str, dict[int, _Struck]] = defaultdict(dict)
    rows = []
    for batch in read(("user_id", "kind", "context", "appended_ms")):
        rows += batch.filter(IS_STRIKE).to_pylist()
    for row in sorted(rows, key=lambda row: row["appended_ms"]):
        if row["context"] is not None:
            strike = Strike.of(orjson.loads(row["context"]))
            found[row["user_id"]].setdefault(strike.mark, _Struck(row["appended_ms"], strike))
    return {user: list(of_user.values()) for user, of_user in found.items()}


def _events_of(read: Read, users: Collection[str]) -> Mapping[str, list[_Event]]:
    found: dict[str, list[_Event]] = defaultdict(list)
    of_users = pc.field("user_id").isin(list(users)) & ~IS_STRIKE
    for batch in read((*PLACE, "user_id", "item_id", "kind", "time_ms", "event_id")):
        for row in batch.filter(of_users).to_pylist():
            place = (row["partition"], row["offset"], row["appended_ms"])
            told = item_key(row["item_id"]), kind_code(row["kind"]), row["time_ms"], event_key(row["event_id"])
            found[row["user_id"]].append(_Event(place, *told))
    return found


def _meant(strikes: Sequence[_Struck], events: Sequence[_Event]) -> set[Place]:
    """Of one user. events: all there are."""
    gone: set[Place] = set()
    for at_ms, strike in strikes:
        alike = [one for one in events if (one.item, one.kind) == (strike.item, strike.kind)]
        key = strike.event
        if not key:
            off = {one: abs(one.time_ms - strike.time_ms) for one in alike if one.place[2] <= at_ms}
            near = [one for one in off if off[one] <= strike.within_ms + OFF_MS and one.place not in gone]
            nearest = min(near, key=lambda one: off[one], default=None)
            if nearest is None:
                continue
            gone.add(nearest.place)
            key = nearest.event
        gone |= {one.place for one in alike if key and one.event == key}
    return gone

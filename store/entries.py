"""The events of one user's timeline, one by one: what they are called outside, and which of them is meant.

An id is made of what a timeline holds of an event for good: item, kind and time; of several equal ones it tells the
newest first. It stays while newer events come and older ones go. A strike, or records made anew, may move the times of
others by what rounding them allows (`store.user_record`): ids of before are found all the same.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from store.user_record import ENTRY, IDS_KEPT, decode_record, gaps_of, head_of

_ID, _RANK = struct.Struct(">Qq"), struct.Struct(">H")
LONGEST_ID = 24


class Entry(NamedTuple):
    """id: opaque. item, kind: its keys. time_ms: as kept, good to within_ms. event: its event key, 0 where unknown."""

    id: str
    item: int
    kind: int
    time_ms: int
    within_ms: int
    event: int


def entries_of(data: bytes) -> list[Entry]:
    """The timeline in a record, oldest first; none of an empty one. Raises DamagedRecord."""
    if not data:
        return []
    head, timeline = head_of(data), decode_record(data).timeline
    gaps = gaps_of(np.frombuffer(data, ENTRY, head.events, head.entries_at)["gap"])
    equal: Counter[tuple[int, int, int]] = Counter()
    found = []
    for (item, time_ms, event, kind), gap in zip(reversed(timeline.tolist()), reversed(gaps.tolist()), strict=True):
        told = (item, kind, time_ms)
        found.append(Entry(_id(*told, equal[told]), *told, 2 + abs(gap) // 1000, event))
        equal[told] += 1
    return found[::-1]


def find(entries: Sequence[Entry], entry_id: str) -> Entry | None:
    """The entry of that id; None where there is none, whatever the text is."""
    for entry in entries:
        if entry.id == entry_id:
            return entry
    if (told := _read(entry_id)) is None:
        return None
    item, kind, time_ms = told
    place = _nearest(entries, _alike(entries, item, kind), time_ms, 0)
    return None if place is None else entries[place]


def place_of(entries: Sequence[Entry], meant: Entry) -> int | None:
    """Where in another state of the timeline the event is; None where it is not. meant: its id does not matter.

    One with an event key is told by its time only among entries so old that their keys are not kept.
    """
    alike = list(_alike(entries, meant.item, meant.kind))
    if meant.event and (exact := [place for place in alike if entries[place].event == meant.event]):
        return exact[-1]
    old = len(entries) - IDS_KEPT if meant.event else len(entries)
    unknown = (place for place in alike if not entries[place].event and place < old)
    return _nearest(entries, unknown, meant.time_ms, meant.within_ms)


def _alike(entries: Sequence[Entry], item: int, kind: int) -> Iterable[int]:
    return (place for place, entry in enumerate(entries) if (entry.item, entry.kind) == (item, kind))


def _nearest(entries: Sequence[Entry], places: Iterable[int], time_ms: int, within_ms: int) -> int | None:
    """Of these the nearest in time, the newest of equal ones."""
    off = {place: abs(entries[place].time_ms - time_ms) for place in places}
    near = [place for place in off if off[place] <= max(within_ms, entries[place].within_ms)]
    return min(near, key=lambda place: (off[place], -place), default=None)


def _id(item: int, kind: int, time_ms: int, rank: int) -> str:
    packed = _ID.pack(item << 8 | kind, time_ms) + (_RANK.pack(rank) if rank else b"")
    return urlsafe_b64encode(packed).rstrip(b"=").decode()


def _read(entry_id: str) -> tuple[int, int, int] | None:
    if len(entry_id) > LONGEST_ID or not entry_id.isascii():
        return None
    try:
        word, time_ms = _ID.unpack_from(urlsafe_b64decode(entry_id + "=" * (-len(entry_id) % 4)))
    except (ValueError, struct.error):
        return None
    return word >> 8, word & 255, time_ms

"""What the store holds of an erased user: the record, copies of it that were set aside, and links to visitors.

An erased user is left with an empty record whose position is the erasure's place in the log: events before it, which
consumers may not have read yet, are replays to it. A visitor that was merged into a user is linked in a sorted set, by
time, at `{namespace}:links:{virtual partition}:user`, which expires as records do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from led.encoder import NEVER_MS
from store.connection import Client, unavailable_is_ours
from store.user_record import (
    EARLIER_KEPT,
    FENCE_BYTES,
    NO_RELEASE,
    Applied,
    DamagedRecord,
    UserRecord,
    decode_record,
    empty_timeline,
    encode_record,
)
from store.user_state import NOTHING, UserStates, is_damaged

SCANNED_AT_ONCE = 1000
KINDS_OF_KEYS = ("u", "damaged", "links")

# KEYS: record. ARGV: the first bytes of what was read (nothing: no record), the new record (nothing: none), seconds.
_REPLACE = f"""
if redis.call('GETRANGE', KEYS[1], 0, {FENCE_BYTES - 1}) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('UNLINK', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
return 1
"""


class Kept(NamedTuple):
    """A key that names a user. kind: one of KINDS_OF_KEYS."""

    kind: str
    key: bytes
    user_id: str


class ErasedUsers:
    """Takes users out of the store, beside consumers that run. All raise StoreUnavailable."""

    def __init__(self, client: Client, namespace: str, states: UserStates, *, idle_after_s: int) -> None:
        self._client, self._namespace, self._states = client, namespace, states
        self._idle_after_s = idle_after_s
        self._replace = client.register_script(_REPLACE)

    def erase(self, user_id: str, position: Applied | None) -> bool:
        """Forget the user up to the erasure's place in the log; True where there was anything. Twice is harmless.

        What came after it stays. position None: the erasure is not in the log yet, and all that is there goes.
        """
        had = self._erase_record(user_id, position)
        others = [self._key(kind, user_id) for kind in ("damaged", "links")]
        with unavailable_is_ours():
            removed: Any = self._client.unlink(*others)
        return bool(had or removed)

    def link(self, visitor_id: str, user_id: str, at_ms: int) -> None:
        """The visitor turned out to be the user at that time."""
        key = self._key("links", user_id)
        with unavailable_is_ours():
            pipeline = self._client.pipeline(transaction=True)
            pipeline.zadd(key, {visitor_id: at_ms})
            pipeline.expire(key, self._idle_after_s)
            pipeline.execute()

    def visitors(self, user_id: str) -> list[str]:
        """Who was linked to the user, within the last `idle_after_s` of such links."""
        with unavailable_is_ours():
            found: Any = self._client.zrange(self._key("links", user_id), 0, -1)
        return [member.decode() for member in found]

    def links_until(self, user_id: str, until_ms: int) -> int:
        """How many of the user's links are from then or before."""
        with unavailable_is_ours():
            return int(self._client.zcount(self._key("links", user_id), 0, until_ms))

    def unlink_until(self, user_id: str, until_ms: int) -> int:
        """Remove these; returns how many."""
        with unavailable_is_ours():
            return int(self._client.zremrangebyscore(self._key("links", user_id), 0, until_ms))

    def drop_damaged(self, user_id: str) -> int:
        """Remove what was set aside of the user; returns how many keys."""
        with unavailable_is_ours():
            return int(self._client.unlink(self._key("damaged", user_id)))

    def scan(self) -> Iterator[Kept]:
        """Every key that names a user, by and by; some may come twice."""
        for kind in KINDS_OF_KEYS:
            start, cursor = f"{self._namespace}:{kind}:{{", -1
            while cursor:
                with unavailable_is_ours():
                    found: Any = self._client.scan(max(cursor, 0), match=f"{start}*", count=SCANNED_AT_ONCE)
                cursor, keys = found
                for key in keys:
                    yield Kept(kind, key, key[len(start) :].partition(b"}:")[2].decode(errors="backslashreplace"))

    def events_until(self, user_ids: Sequence[str], until_ms: Sequence[int]) -> list[int]:
        """How many events of each record happened until then.

        A record keeps times to a 2048th of the time since: by so much an event may be taken for one after it.
        """
        counts = []
        for record, latest_ms in zip(self._states.read(user_ids), until_ms, strict=True):
            if isinstance(record, DamagedRecord):
                counts.append(1)
            elif record is None or record.as_of is None:
                counts.append(0)
            else:
                times_ms = record.timeline["time_ms"]
                blurred = (record.as_of - times_ms) // 2048 + 1
                exact = times_ms[:-1] + blurred[:-1] <= latest_ms
                counts.append(int(exact.sum()) + (record.as_of <= latest_ms))
        return counts

    def forget_marks(self, user_ids: Sequence[str], positions: dict[int, int]) -> int:
        """Delete empty records that hold off nothing any more: consumers are past the erasure. Returns how many.

        positions: how far each source is in the store.
        """
        gone = 0
        for user_id, data in zip(user_ids, self._states.find(user_ids), strict=True):
            record = None if not data or is_damaged(data) else decode_record(data)
            if record is not None and not len(record.timeline):
                reached = positions.get(record.position.source, -1)
                if reached > record.position.offset:
                    gone += self._put(self._states.key(user_id), data, NOTHING)
        return gone

    def erase_if_old(self, user_id: str, until_ms: int) -> bool:
        """Delete a record with nothing newer than that in it; True where there was one."""
        (data,) = self._states.find([user_id])
        record = None if not data or is_damaged(data) else decode_record(data)
        is_old = record is not None and record.as_of is not None and record.as_of <= until_ms
        return is_old and self._put(self._states.key(user_id), data, NOTHING)

    def positions(self, sources: Sequence[int]) -> list[int]:
        """Next offset of each source that is not in the records yet, 0 where nothing is."""
        return [position or 0 for position in self._states.positions(sources)]

    def compact_file(self) -> None:
        """Have the server write its append-only file anew, from what it holds: the old one remembers what is gone."""
        with unavailable_is_ours():
            self._client.bgrewriteaof()

    def _erase_record(self, user_id: str, position: Applied | None) -> bool:
        key = self._states.key(user_id)
        while True:
            (data,) = self._states.find([user_id])
            is_sound = bool(data) and not is_damaged(data)
            if is_sound and position is not None and _has_seen(data, position):
                return False  # a consumer was here first, and what it has is later
            new = NOTHING if position is None else _mark(position, data if is_sound else NOTHING)
            if self._put(key, data, new):
                return bool(data) and not (is_sound and _is_mark(data))

    def _put(self, key: bytes, old: bytes, new: bytes) -> bool:
        with unavailable_is_ours():
            return bool(self._replace(keys=[key], args=[old[:FENCE_BYTES], new, self._idle_after_s]))

    def _key(self, kind: str, user_id: str) -> bytes:
        return self._states.key(user_id).replace(b":u:", f":{kind}:".encode(), 1)


def _has_seen(data: bytes, position: Applied) -> bool:
    return any(one.source == position.source and one.offset >= position.offset for one in _positions(data))


def _positions(data: bytes) -> tuple[Applied, ...]:
    record = decode_record(data)
    return record.position, *record.earlier


def _is_mark(data: bytes) -> bool:
    """Whether nothing is in the record but where it was emptied."""
    return not len(decode_record(data).timeline)


def _mark(position: Applied, before: bytes) -> bytes:
    """The empty record of somebody who was erased there; it keeps the positions in other sources."""
    known = _positions(before) if before else ()
    earlier = tuple(one for one in known if one.source != position.source)[:EARLIER_KEPT]
    nothing = np.zeros(0, np.float32)
    return encode_record(UserRecord(position, empty_timeline(), 0, NO_RELEASE, nothing, 0.0, NEVER_MS, earlier=earlier))

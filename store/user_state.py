"""The one record per user: timeline, running vector and log position in one Redis string, so that they cannot disagree.

Layout, version 1, big-endian header:

    magic 'L1' | crc32 of all that follows | log identity u64 | partition u32 | offset i64      the fence
    release u64 | applied u32 | dim u16 | events u16 | weight f64 | at_ms i64 | mass f64        the running state
    dim * float32 (little-endian)                                                               the weighted sum
    events * TIMELINE entries (little-endian), in order of application                          the timeline

A write carries the position of the last event in it and is refused by the server-side script where the stored
record is at the same position or beyond: replays, zombies and races change nothing. Idle users expire.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from led.encoder import F32, Events, Sums, encode
from store.connection import Client, unavailable_is_ours
from store.releases import Release

MAGIC = b"L1"
HEADER = struct.Struct(">2sIQIqQIHHdqd")
CHECKED_FROM = 6  # the checksum covers everything after itself
TIMELINE = np.dtype([("item", "<u8"), ("time_ms", "<i8"), ("event", "<u4"), ("kind", "u1")])
Timeline = npt.NDArray[np.void]
VIRTUAL_PARTITIONS = 1024
USERS_PER_SCRIPT = 200
DAMAGED_KEPT_S = 7 * 86400
NO_RELEASE = 0

# Refuses where the stored fence names the same log and partition and an offset not below the new one.
_WRITE = """
local refused = {}
for i, key in ipairs(KEYS) do
  local new = ARGV[i + 1]
  local old = redis.call('GETRANGE', key, 0, 25)
  local keep = false
  if #old == 26 and string.sub(old, 1, 2) == 'L1' and string.sub(old, 7, 18) == string.sub(new, 7, 18) then
    local a = { struct.unpack('>i4I4', string.sub(old, 19, 26)) }
    local b = { struct.unpack('>i4I4', string.sub(new, 19, 26)) }
    keep = a[1] > b[1] or (a[1] == b[1] and a[2] >= b[2])
  end
  if keep then refused[#refused + 1] = i else redis.call('SET', key, new, 'EX', ARGV[1]) end
end
return refused
"""

_SET_ASIDE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return 1
"""


class DamagedRecord(ValueError):
    """Bytes that are no user record: cut short, altered, or of a version this program does not know."""


@dataclass(frozen=True)
class Applied:
    """How far the user's events are in the record: the last one's log, partition and offset."""

    log: int
    partition: int
    offset: int


@dataclass(frozen=True)
class UserRecord:
    """One user. total (dim,) float32, weight, at_ms and mass are the sums of `led.encoder.Sums` under `release`.

    release: `store.releases.release_key`, or NO_RELEASE with dim 0 where no release was known yet.
    applied: events that took effect since the record began, evicted ones included.
    timeline: newest events, oldest first; a TIMELINE array.
    """

    position: Applied
    timeline: Timeline
    applied: int
    release: int
    total: F32
    weight: float
    at_ms: int
    mass: float = 0.0

    @property
    def as_of(self) -> int | None:
        """Time of the event applied last, Unix milliseconds; None for an erased user."""
        return int(self.timeline["time_ms"][-1]) if len(self.timeline) else None


def empty_timeline() -> Timeline:
    return np.empty(0, TIMELINE)


def joined(timelines: Sequence[Timeline]) -> Timeline:
    """Timelines one after the other. As bytes: NumPy compares the fields of structured arrays at every joint."""
    return np.frombuffer(b"".join([timeline.tobytes() for timeline in timelines]), TIMELINE)


def encode_record(record: UserRecord) -> bytes:
    """The record's bytes."""
    position, total = record.position, record.total.astype("<f4", copy=False)
    header = HEADER.pack(
        MAGIC, 0, position.log, position.partition, position.offset, record.release, record.applied,
        len(total), len(record.timeline), record.weight, record.at_ms, record.mass,
    )  # fmt: skip
    checked = header[CHECKED_FROM:] + total.tobytes() + record.timeline.tobytes()
    return MAGIC + zlib.crc32(checked).to_bytes(4, "big") + checked


def decode_record(data: bytes) -> UserRecord:
    """The record in bytes. Raises DamagedRecord."""
    if len(data) < HEADER.size:
        raise DamagedRecord(f"{len(data)} bytes, at least {HEADER.size} expected")
    magic, crc, log, partition, offset, release, applied, dim, events, weight, at_ms, mass = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise DamagedRecord(f"begins with {magic!r}, {MAGIC!r} expected")
    if len(data) != HEADER.size + 4 * dim + TIMELINE.itemsize * events:
        raise DamagedRecord(f"{len(data)} bytes for dim {dim} and {events} events")
    if zlib.crc32(data[CHECKED_FROM:]) != crc:
        raise DamagedRecord("the checksum does not match")
    total = np.frombuffer(data, "<f4", dim, HEADER.size)
    timeline = np.frombuffer(data, TIMELINE, events, HEADER.size + 4 * dim)
    return UserRecord(Applied(log, partition, offset), timeline, applied, release, total, weight, at_ms, mass)


class UserStates:
    """User records in Redis. Keys are `{namespace}:u:{virtual partition}:user`, the braces being Redis's hash tag.

    tag_of: virtual partition of a user id, so that one Kafka partition's users share few cluster slots.
    """

    def __init__(
        self, client: Client, namespace: str, tag_of: Callable[[str], int], *, idle_after_s: int = 30 * 86400
    ) -> None:
        self._client, self._namespace, self._tag_of = client, namespace, tag_of
        self._idle_after_s = idle_after_s
        self._write = client.register_script(_WRITE)
        self._set_aside = client.register_script(_SET_ASIDE)
        self._key = lru_cache(maxsize=1 << 17)(self._make_key)

    def key(self, user_id: str) -> bytes:
        """Where the user's record is."""
        return self._key(user_id)

    def read(self, user_ids: Sequence[str]) -> list[UserRecord | DamagedRecord | None]:
        """Records in the order asked, None for a user without one; one round trip. Raises StoreUnavailable.

        A damaged record is returned as its error: a server answers as for an unknown user, a consumer calls
        `set_aside` and begins anew.
        """
        if not user_ids:
            return []
        with unavailable_is_ours():
            found: Any = self._client.mget([self._key(user) for user in user_ids])
        return [None if data is None else _decoded(data) for data in found]

    def write(self, records: Mapping[str, UserRecord]) -> set[str]:
        """Store records; returns the users whose stored record was not older, which were left alone.

        Idempotent: writing again, or writing something older, changes nothing. Raises StoreUnavailable, after
        which any part of the records may be stored.
        """
        refused: set[str] = set()
        users = list(records)
        for start in range(0, len(users), USERS_PER_SCRIPT):
            some = users[start : start + USERS_PER_SCRIPT]
            values = [encode_record(records[user]) for user in some]
            with unavailable_is_ours():
                places: Any = self._write(keys=[self._key(u) for u in some], args=[self._idle_after_s, *values])
            refused.update(some[place - 1] for place in places)
        return refused

    def set_aside(self, user_id: str) -> None:
        """Move a damaged record to `{namespace}:damaged:…`, kept for a week. Leaves a record alone that reads well."""
        with unavailable_is_ours():
            data: Any = self._client.get(self._key(user_id))
            if data is None or not isinstance(_decoded(data), DamagedRecord):
                return
            aside = f"{self._namespace}:damaged:{{{self._tag_of(user_id)}}}:{user_id}".encode()
            self._set_aside(keys=[self._key(user_id), aside], args=[data, DAMAGED_KEPT_S])

    def count(self) -> int:
        """Keys in the database: users, and the few others of this namespace. O(1)."""
        with unavailable_is_ours():
            size: Any = self._client.dbsize()
        return int(size)

    def _make_key(self, user_id: str) -> bytes:
        return f"{self._namespace}:u:{{{self._tag_of(user_id)}}}:{user_id}".encode()


def user_vectors(records: Sequence[UserRecord], release: Release) -> F32:
    """User vectors (len(records), dim) under one release; zero where it knows none of the user's items.

    A record of that release is read as it is, any other is encoded again from its timeline, so that no vector ever
    meets another release's items.
    """
    vectors = np.zeros((len(records), release.dim), np.float32)
    foreign = []
    for place, record in enumerate(records):
        if record.release != release.key:
            foreign.append(place)
        elif record.weight > 0:
            vectors[place] = record.total / np.float32(record.weight)
    if foreign:
        vectors[foreign] = encode_timelines([records[i].timeline for i in foreign], release).vectors()
    return vectors


def encode_timelines(timelines: Sequence[Timeline], release: Release) -> Sums:
    """Sums of whole timelines under a release."""
    events = flat_events(timelines, release)
    return encode(release.encoder, release.input_embeddings, len(timelines), events)


def flat_events(timelines: Sequence[Timeline], release: Release) -> Events:
    """Timelines as the flat arrays `led.encoder` works on."""
    users = np.repeat(np.arange(len(timelines)), [len(t) for t in timelines])
    flat = joined(timelines)
    rows = release.rows(flat["item"].astype(np.uint64))
    return Events(users, rows, flat["kind"].astype(np.uint8), flat["time_ms"].astype(np.int64))


def _decoded(data: bytes) -> UserRecord | DamagedRecord:
    try:
        return decode_record(data)
    except DamagedRecord as damage:
        return damage

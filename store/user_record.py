"""The one record per user: timeline, running vector and log position in one string, so that they cannot disagree.

Layout, version 2, little-endian:

    HEAD                       72 bytes: what is in the record, how far the log is in it, the running sums' scalars
    dim * int16                the weighted sum, in steps of HEAD's `scale`
    ids * uint32               event keys of the newest events, oldest of them first; 0 for an event without id
    earlier * (u64, i64)       where the user's events came from before: other partitions, other logs; newest first.
                               Then, under the source STRUCK, marks of events that were struck, newest first
    events * ENTRY             the timeline in order of application, oldest first

A sum is rounded to 1/65534 of its largest component each time it is stored; whoever folds encodes it afresh every so
often (`consumers/fold.py`). A time is kept as the step from the event before, to a 2048th of that step: exact below
two seconds, at most 42 s off after a day without events. What a step misses the next one makes up for. Event keys tell
repeated sends, which come soon after the first: IDS_KEPT are enough.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from led.encoder import F32, I64

MAGIC = b"L2"
HEAD = np.dtype(
    [
        ("magic", "S2"), ("crc", "<u4"),  # of all that follows it
        ("source", "<u8"), ("offset", "<i8"),  # the last event in it: of which partition of which log, and where
        ("release", "<u8"), ("applied", "<u4"),
        ("dim", "<u2"), ("events", "<u2"), ("ids", "u1"), ("earlier", "u1"),
        ("weight", "<f4"), ("mass", "<f4"), ("at_ms", "<i8"),  # led.encoder.Sums
        ("time_ms", "<i8"), ("late", "<i4"),  # of the newest event, as kept; and by how much it was later
        ("scale", "<f4"),
    ]
)  # fmt: skip
_HEAD = struct.Struct("<2sIQqQIHHBBffqqif")  # the same, for one record
ENTRY = np.dtype([("word", "<u8"), ("gap", "<u2")])  # item key << 8 | kind code; the step from the event before
TIMELINE = np.dtype([("item", "<u8"), ("time_ms", "<i8"), ("event", "<u4"), ("kind", "u1")])
_SEAL = np.dtype([("magic", "S2"), ("crc", "<u4")])  # what a HEAD begins with
POSITION = np.dtype([("source", "<u8"), ("offset", "<i8")])
CHECKED_FROM = 6
_NO_HEAD = bytes(HEAD.itemsize)
FENCE_BYTES = 22  # magic, checksum, source, offset: no two different records of a user share them
IDS_KEPT = 15
EARLIER_KEPT = 3
STRUCK = 0  # no partition of a log: a program that does not know of marks keeps them as positions it never meets
STRUCK_KEPT = 15
NO_RELEASE = 0
STEPS = 32767
LONGEST_STEP_MS = 2047 << 30

Timeline = npt.NDArray[np.void]
Heads = npt.NDArray[np.void]
U16 = npt.NDArray[np.uint16]


class DamagedRecord(ValueError):
    """Bytes that are no user record: cut short, altered, or of a version this program does not know."""


@dataclass(frozen=True)
class Applied:
    """How far events are in a record: the last one's partition of a log (`source_of`), and its offset there."""

    source: int
    offset: int


@dataclass(frozen=True)
class UserRecord:
    """One user. total (dim,) float32, weight, at_ms and mass are the sums of `led.encoder.Sums` under `release`.

    release: `store.releases.release_key`, or NO_RELEASE with dim 0 where no release was known yet.
    applied: events that took effect since the record began, evicted ones included.
    timeline: newest events, oldest first; a TIMELINE array, its event keys 0 but for the newest IDS_KEPT.
    earlier: positions in other sources, which still tell a replay from there.
    late: by how many ms the newest event was later than the timeline has it.
    struck: marks (`stream.strikes`) of events that must not come back, newest first.
    """

    position: Applied
    timeline: Timeline
    applied: int
    release: int
    total: F32
    weight: float
    at_ms: int
    mass: float = 0.0
    earlier: tuple[Applied, ...] = ()
    late: int = 0
    struck: tuple[int, ...] = ()

    @property
    def as_of(self) -> int | None:
        """Time of the event applied last, Unix milliseconds; None for an erased user."""
        return int(self.timeline["time_ms"][-1]) + self.late if len(self.timeline) else None


def source_of(log_identity: int, partition: int) -> int:
    """64-bit name of one partition of one log: offsets are comparable within it and nowhere else."""
    both = log_identity.to_bytes(8, "big") + partition.to_bytes(4, "big")
    return int.from_bytes(hashlib.blake2b(both, digest_size=8).digest(), "big")


def empty_timeline() -> Timeline:
    return np.empty(0, TIMELINE)


def encode_record(record: UserRecord) -> bytes:
    """The record's bytes."""
    timeline, times = record.timeline, record.timeline["time_ms"].tolist()
    entries = np.empty(len(timeline), ENTRY)
    entries["word"] = timeline["item"] << np.uint64(8) | timeline["kind"]
    entries["gap"], kept = steps_from(times[0] if times else 0, times)
    steps, scales = in_steps(record.total[None])
    head = np.zeros(1, HEAD)
    ids = timeline["event"][-IDS_KEPT:]
    head["source"], head["offset"] = record.position.source, record.position.offset
    head["release"], head["applied"], head["scale"] = record.release, record.applied, scales
    head["dim"], head["events"] = len(record.total), len(timeline)
    head["ids"], head["earlier"] = len(ids), len(record.earlier) + len(record.struck)
    head["weight"], head["mass"], head["at_ms"] = record.weight, record.mass, record.at_ms
    if times:
        head["time_ms"] = kept[-1]
        head["late"] = lateness(np.array(times[-1] + record.late - kept[-1]))
    marks = [(STRUCK, mark) for mark in record.struck]
    earlier = np.array([*((one.source, one.offset) for one in record.earlier), *marks], POSITION)
    return sealed(b"".join([a.tobytes() for a in (head, steps, ids, earlier, entries)]))


class Head(NamedTuple):
    """A HEAD, field by field."""

    magic: bytes
    crc: int
    source: int
    offset: int
    release: int
    applied: int
    dim: int
    events: int
    ids: int
    earlier: int
    weight: float
    mass: float
    at_ms: int
    time_ms: int
    late: int
    scale: float

    @property
    def entries_at(self) -> int:
        """Where in the record the timeline begins."""
        return HEAD.itemsize + 2 * self.dim + 4 * self.ids + POSITION.itemsize * self.earlier


def head_of(data: bytes) -> Head:
    """The head of a whole record as it was stored. Raises DamagedRecord."""
    if len(data) < HEAD.itemsize:
        raise DamagedRecord(f"{len(data)} bytes, at least {HEAD.itemsize} expected")
    head = Head._make(_HEAD.unpack_from(data))
    if head.magic != MAGIC:
        raise DamagedRecord(f"begins with {head.magic!r}, {MAGIC!r} expected")
    if crc32c(data[CHECKED_FROM:]) != head.crc:
        raise DamagedRecord("the checksum does not match")
    if (size := head.entries_at + ENTRY.itemsize * head.events) != len(data):
        raise DamagedRecord(f"{len(data)} bytes, {size} by its head")
    return head


def decode_record(data: bytes) -> UserRecord:
    """The record in bytes. Raises DamagedRecord."""
    head = head_of(data)
    at_ids = HEAD.itemsize + 2 * head.dim
    earlier = np.frombuffer(data, POSITION, head.earlier, at_ids + 4 * head.ids)
    entries = np.frombuffer(data, ENTRY, head.events, head.entries_at)
    timeline = np.zeros(head.events, TIMELINE)
    timeline["item"], timeline["kind"] = entries["word"] >> np.uint64(8), entries["word"] & np.uint64(255)
    timeline["time_ms"] = times_before(head.time_ms, gaps_of(entries["gap"]))
    timeline["event"][head.events - head.ids :] = np.frombuffer(data, "<u4", head.ids, at_ids)
    return UserRecord(
        Applied(head.source, head.offset),
        timeline,
        head.applied,
        head.release,
        np.frombuffer(data, "<i2", head.dim, HEAD.itemsize) * np.float32(head.scale),
        head.weight,
        head.at_ms,
        head.mass,
        tuple(Applied(source, offset) for source, offset in earlier.tolist() if source != STRUCK),
        head.late,
        tuple(mark for source, mark in earlier.tolist() if source == STRUCK),
    )


def heads_of(records: Sequence[bytes]) -> Heads:
    """The records' heads; zero of an empty one, or of one that is shorter than a head."""
    size = HEAD.itemsize
    return np.frombuffer(b"".join([data[:size] if len(data) >= size else _NO_HEAD for data in records]), HEAD)


def damaged(records: Sequence[bytes], heads: Heads) -> list[int]:
    """Places of the records that `head_of` would refuse; an empty one, which stands for no record, is good."""
    lengths = np.array(list(map(len, records)))
    sums = np.array([crc32c(data[CHECKED_FROM:]) for data in records], np.uint32)
    good = (heads["magic"] == MAGIC) & (lengths_of(heads) == lengths) & (heads["crc"] == sums)
    return [] if good.all() else np.flatnonzero(~good & (lengths > 0)).tolist()


def lengths_of(heads: Heads) -> I64:
    """Length in bytes of the records with these heads."""
    variable = 2 * heads["dim"].astype(np.int64) + 4 * heads["ids"] + POSITION.itemsize * heads["earlier"]
    return np.asarray(HEAD.itemsize + variable + ENTRY.itemsize * heads["events"].astype(np.int64), np.int64)


def sealed(data: bytes) -> bytes:
    """The record with its magic and checksum filled in; what stands in their place does not matter."""
    return all_sealed(np.frombuffer(data, np.uint8)[None, :], ())[0]


def all_sealed(fixed: npt.NDArray[np.uint8], parts: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Records of several users, sealed. fixed (users, bytes): heads and sums; parts: what follows, each by user.

    They are made as one piece: pieces of a user's own would be copied once more for the checksum in front.
    """
    size, data = fixed.shape[1], fixed.tobytes()
    starts_with = [data[size * place : size * (place + 1)] for place in range(len(fixed))]
    lengths = sum((np.fromiter(map(len, part), np.int64, len(fixed)) for part in parts), np.full(len(fixed), size))
    ends = np.cumsum(lengths)
    whole = bytearray().join(chain.from_iterable(zip(starts_with, *parts, strict=True)))
    seals, starts, stops = np.empty(len(fixed), _SEAL), (ends - lengths), ends.tolist()
    view = memoryview(whole)
    seals["magic"] = MAGIC
    seals["crc"] = [
        crc32c(view[start:stop]) for start, stop in zip((starts + CHECKED_FROM).tolist(), stops, strict=True)
    ]
    np.frombuffer(whole, np.uint8)[starts[:, None] + np.arange(CHECKED_FROM)] = as_bytes(seals)
    done = bytes(whole)
    return [done[start:stop] for start, stop in zip(starts.tolist(), stops, strict=True)]


def as_bytes(rows: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The rows (n, …) of an array as (n, bytes of one)."""
    size = rows.itemsize * math.prod(rows.shape[1:])
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), size)


def in_steps(totals: F32) -> tuple[npt.NDArray[np.int16], F32]:
    """Sums (n, dim) as int16 steps, and the size (n,) of each one's step."""
    scales = (np.abs(totals).max(axis=1, initial=0) / STEPS).astype(np.float32)
    steps = np.rint(totals / np.where(scales > 0, scales, 1)[:, None])
    return np.clip(steps, -STEPS, STEPS).astype("<i2"), scales


def gap_codes(gaps: I64) -> U16:
    """Steps in time (ms, of either sign) as 16 bits: a sign, 5 bits of exponent, 10 of fraction. Shape of gaps."""
    size = np.minimum(np.abs(gaps), LONGEST_STEP_MS)
    shift = np.maximum(np.frexp(size.astype(np.float64))[1].astype(np.int64) - 11, 0)
    fraction = (size + (1 << shift >> 1)) >> shift  # 1024..2048 where shift > 0
    exponent = shift + (fraction >= 1024) + (fraction == 2048)
    code = exponent << 10 | fraction & 1023
    return np.asarray(code | (gaps < 0) << 15, np.uint16)


def steps_from(start_ms: int, times_ms: Sequence[int]) -> tuple[list[int], list[int]]:
    """Codes of the steps from a time as kept through these times, and these times as kept."""
    codes, kept, at = [], [], start_ms
    for time_ms in times_ms:
        if 0 <= time_ms - at < 2048:  # as most are
            codes.append(time_ms - at)
            kept.append(at := time_ms)
            continue
        size = min(abs(time_ms - at), LONGEST_STEP_MS)
        shift = max(size.bit_length() - 11, 0)
        fraction = size + (1 << shift >> 1) >> shift
        exponent = shift + (fraction >= 1024) + (fraction == 2048)
        codes.append((time_ms < at) << 15 | exponent << 10 | fraction & 1023)
        at += (fraction << shift) * (1 if time_ms >= at else -1)
        kept.append(at)
    return codes, kept


def lateness(ms: I64) -> I64:
    """What a head can say of it: more than 24 days are what a clock in another century does."""
    return np.clip(ms, -(1 << 31), (1 << 31) - 1)


def gaps_of(codes: U16) -> I64:
    """The steps in time that `gap_codes` wrote. Shape of codes."""
    code = codes.astype(np.int64)
    exponent, fraction = code >> 10 & 31, code & 1023
    size = np.where(exponent > 0, (fraction + 1024) << np.maximum(exponent - 1, 0), fraction)
    return np.asarray(np.where(code >> 15, -size, size), np.int64)


def times_before(newest_ms: int, gaps: I64) -> I64:
    """Times (n,) of a timeline from its newest and the step into each; the first leads in from what was evicted."""
    return newest_ms - (gaps[::-1].cumsum()[::-1] - gaps)


def joined(timelines: Sequence[Timeline]) -> Timeline:
    """Timelines one after the other. As bytes: NumPy compares the fields of structured arrays at every joint."""
    return np.frombuffer(b"".join([timeline.tobytes() for timeline in timelines]), TIMELINE)

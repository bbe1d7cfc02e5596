"""Records nobody could read, kept with where they were and why, so that they can be looked at and sent again.

The topic holds letters and, behind them, notes of what was replayed: first that it begins, then where it went. So a
replay survives whoever ran it, and one that died between the two is known as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from stream.log import Entry, Log, LogUnavailable, Position, Record
from stream.topics import DEAD_LETTERS

LETTER, REPLAY = 1, 2  # the first field of a record says which it is
KEPT_BYTES = 64 * 1024  # of a value: a letter must fit into a log that took the record only just
READ_AT_ONCE = 100


class Place(NamedTuple):
    """Where a record was read: what tells one letter from another."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


@dataclass(frozen=True)
class DeadLetter:
    """One refused record, its key and value cut at KEPT_BYTES. time_ms: the record's own.

    Every group that reads the topic buries it, and a replay of the log may again: its place tells.
    """

    topic: str
    partition: int
    offset: int
    cause: str
    key: bytes
    value: bytes
    time_ms: int

    @property
    def place(self) -> Place:
        return Place(self.topic, self.partition, self.offset)

    @property
    def is_cut(self) -> bool:
        """Whether bytes are missing, as far as anybody can tell: one of just KEPT_BYTES counts as cut."""
        return max(len(self.key), len(self.value)) >= KEPT_BYTES

    @property
    def shown_key(self) -> str:
        return _text(self.key)

    @property
    def shown_value(self) -> str:
        """What msgpack makes of the value, where that is a list or a map; else the bytes as text with escapes."""
        try:
            decoded = msgpack.unpackb(self.value, strict_map_key=False)
        except (TypeError, ValueError, msgpack.UnpackException):
            decoded = None
        return repr(decoded) if isinstance(decoded, list | dict) else _text(self.value)


def bury(log: Log, letters: Sequence[DeadLetter]) -> None:
    """Store the letters. Raises LogUnavailable unless every one was acknowledged."""
    entries = [_entry(x.place, x.time_ms, LETTER, x.cause, x.key[:KEPT_BYTES], x.value[:KEPT_BYTES]) for x in letters]
    _store(log, entries)


def exhume(record: Record) -> DeadLetter:
    """The letter in a record of the dead-letter topic. Raises ValueError where there is none."""
    kind, *fields = _fields(record)
    if kind != LETTER:
        raise ValueError(f"{DEAD_LETTERS}@{record.offset} is no letter")
    topic, partition, offset, cause, key, value = fields
    return DeadLetter(topic, partition, offset, cause, key, value, record.time_ms)


def read_letters(log: Log) -> Iterator[DeadLetter]:
    """Every letter there is now, in the order of burial, each place once. Raises LogUnavailable."""
    seen: set[Place] = set()
    for record in _records(log):
        if _fields(record)[0] == LETTER:
            letter = exhume(record)
            if letter.place not in seen:
                seen.add(letter.place)
                yield letter


def read_replays(log: Log) -> dict[Place, Position | None]:
    """Where letters went that were replayed; None for those of which only the beginning is known."""
    replays: dict[Place, Position | None] = {}
    for record in _records(log):
        kind, *fields = _fields(record)
        if kind == REPLAY:
            *place, to_partition, to_offset = fields
            replays[Place(*place)] = None if to_offset is None else Position(to_partition, to_offset)
    return replays


def replay(log: Log, letters: Sequence[DeadLetter], now_ms: int) -> list[Position | LogUnavailable]:
    """Append each letter's key and value to its topic again, as of now; returns where each went, in the order given.

    Beginning and end are noted in the dead-letter topic. A failed one may have been stored all the same: its beginning
    is noted, its end is not; so it is with all of them where this raises LogUnavailable. Raises UnknownTopic, and
    ValueError for a letter that was cut, before anything is appended.
    """
    for letter in letters:
        log.partitions(letter.topic)  # raises UnknownTopic
        if letter.is_cut:
            raise ValueError(f"{letter.place}: cut at {KEPT_BYTES} bytes when it was buried, the rest is not known")
    _store(log, [_entry(letter.place, now_ms, REPLAY, None, None) for letter in letters])
    outcomes: dict[Place, Position | LogUnavailable] = {}
    for topic in {letter.topic for letter in letters}:
        of_topic = [letter for letter in letters if letter.topic == topic]
        stored = log.append(topic, [Entry(letter.key, letter.value, now_ms) for letter in of_topic])
        outcomes.update(zip((letter.place for letter in of_topic), stored, strict=True))
    went = {place: to for place, to in outcomes.items() if isinstance(to, Position)}
    _store(log, [_entry(place, now_ms, REPLAY, *to) for place, to in went.items()])
    return [outcomes[letter.place] for letter in letters]


def _entry(place: Place, time_ms: int, kind: int, *fields: object) -> Entry:
    return Entry("/".join(map(str, place)).encode(), msgpack.packb((kind, *place, *fields)), time_ms)


def _fields(record: Record) -> list[Any]:
    """The record's kind and the rest; a kind of 0 where it is none of ours."""
    try:
        fields = msgpack.unpackb(record.value)
    except (ValueError, msgpack.UnpackException):
        fields = None
    is_ours = isinstance(fields, list) and (fields[:1], len(fields)) in (([LETTER], 7), ([REPLAY], 6))
    return fields if is_ours else [0]


def _text(data: bytes) -> str:
    """UTF-8 that can be printed, as it is; other bytes escaped."""
    text = data.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _store(log: Log, entries: Sequence[Entry]) -> None:
    for outcome in log.append(DEAD_LETTERS, entries):
        if isinstance(outcome, Exception):
            raise outcome


def _records(log: Log) -> Iterator[Record]:
    """What the topic holds at this moment."""
    starts = log.start_offsets(DEAD_LETTERS)
    for partition, end in log.end_offsets(DEAD_LETTERS).items():
        at = starts[partition]
        while at < end and (records := log.read(DEAD_LETTERS, partition, at, READ_AT_ONCE)):
            yield from (record for record in records if record.offset < end)
            at = records[-1].offset + 1

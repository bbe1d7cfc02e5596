"""Records that are about somebody: in the log's topics, and on the disk before it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import msgpack
import orjson

from store.tombstones import Tombstones
from stream.bad_rows import BadRow, row_of
from stream.dead_letters import DeadLetter, exhume
from stream.events import ERASE, DecodeError, decode_event
from stream.log import Log, Record
from stream.topics import BAD_ROWS, DEAD_LETTERS, EVENTS, IMPRESSIONS

TOPICS = (EVENTS, IMPRESSIONS, BAD_ROWS, DEAD_LETTERS)  # that hold ids of users
READ_AT_ONCE = 2000
_USER = re.compile(rb'"user_id"\s*:\s*("(?:[^"\\]|\\.)*")')  # of an event's JSON that was cut short


class About(NamedTuple):
    """Who a record is about, and when it says that this happened. An erasure is about nobody: it has to stay."""

    user_id: str
    time_ms: int


class ErasedRecord(NamedTuple):
    """A record that is older than the erasure of its user."""

    partition: int
    offset: int
    name: bytes
    time_ms: int


def about(topic: str, record: Record) -> About | None:
    """None for a record that names nobody."""
    if topic in (EVENTS, IMPRESSIONS):
        return _of_event(record)
    if topic == BAD_ROWS:
        return _of_bad_row(record)
    return _of_letter(record) if topic == DEAD_LETTERS else None


def erased_in(log: Log, topic: str, tombstones: Tombstones) -> Iterator[ErasedRecord]:
    """Records of the topic, as it is now, of users who were erased since. Raises LogUnavailable."""
    if not len(tombstones):
        return
    starts = log.start_offsets(topic)
    for partition, end in log.end_offsets(topic).items():
        at = starts[partition]
        while at < end and (records := log.read(topic, partition, at, READ_AT_ONCE)):
            for record in records:
                if record.offset < end and (found := erased(topic, record, tombstones)) is not None:
                    yield ErasedRecord(partition, record.offset, found, record.time_ms)
            at = records[-1].offset + 1


def erased(topic: str, record: Record, tombstones: Tombstones) -> bytes | None:
    """What the user is called whose erasure takes the record; None where none does."""
    if topic in (EVENTS, IMPRESSIONS) and tombstones.until_ms(_text(record.key)) is None:
        return None  # most records are of somebody who is not erased: they are not read further
    found = about(topic, record)
    until_ms = None if found is None else tombstones.until_ms(found.user_id)
    if found is None or until_ms is None or min(found.time_ms, record.time_ms) > until_ms:
        return None
    return tombstones.name_of(found.user_id)


def is_of_erased(letter: DeadLetter, tombstones: Tombstones) -> bool:
    """Whether its user was erased since it was written."""
    until_ms = tombstones.until_ms(_user_of(letter))
    return until_ms is not None and letter.time_ms <= until_ms


def is_row_of_erased(row: BadRow, tombstones: Tombstones) -> bool:
    """Whether its user was erased since it came."""
    user = _user_of_row(row)
    until_ms = None if user is None else tombstones.until_ms(user)
    return until_ms is not None and row.received_ms <= until_ms


def _of_event(record: Record) -> About | None:
    try:
        event = decode_event(record.value)
    except DecodeError:
        return About(_text(record.key), record.time_ms)
    return None if event.kind == ERASE else About(event.user_id, event.time_ms)


def _of_bad_row(record: Record) -> About | None:
    row = row_of(record)
    user = None if row is None else _user_of_row(row)
    return None if user is None else About(user, record.time_ms)


def _user_of_row(row: BadRow) -> str | None:
    user: object = None
    try:
        raw = orjson.loads(row.raw)
        user = raw.get("user_id") if isinstance(raw, dict) else None
    except orjson.JSONDecodeError:
        if (found := _USER.search(row.raw)) is not None:
            with suppress(orjson.JSONDecodeError):
                user = orjson.loads(found[1])
    return user if isinstance(user, str) else None


def _of_letter(record: Record) -> About | None:
    """By what can be read of its value, or by the key under which it was written."""
    try:
        letter = exhume(record)
    except ValueError:
        return None
    return About(_user_of(letter), letter.time_ms)


def _user_of(letter: DeadLetter) -> str:
    with suppress(ValueError, TypeError, msgpack.UnpackException):
        fields = msgpack.unpackb(letter.value, strict_map_key=False)
        if isinstance(fields, list) and len(fields) > 1 and isinstance(fields[1], str):
            return fields[1]
    return _text(letter.key)


def _text(key: bytes) -> str:
    return key.decode(errors="replace")

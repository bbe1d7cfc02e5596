"""Events that the border refused, kept as they came with the reason, so that they can be looked at and sent again.

The topic holds rows and, behind them, notes of which were replayed. A replay gives a row's event an id made from the
row's own place, so that replaying it twice counts once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import orjson

from stream.log import Entry, Log, LogUnavailable, Record
from stream.topics import BAD_ROWS

ROW, REPLAYED = 1, 2  # the first field of a record says which it is
KEPT_BYTES = 8 * 1024  # of an event's JSON
READ_AT_ONCE = 500


@dataclass(frozen=True)
class BadRow:
    """One refused event. field, value, reason: the verdict. raw: its JSON, cut at KEPT_BYTES.

    site, agent: whose write key it came with, and the sender's user agent; either may be empty. received_ms: when.
    ahead_ms: by how much its sender's clock was put right before it was judged.
    """

    field: str
    value: str | None
    reason: str
    raw: bytes
    site: str
    agent: str
    received_ms: int
    ahead_ms: int = 0
    place: int = -1  # its offset in the topic, once it is there

    @property
    def is_cut(self) -> bool:
        """Whether a part of it is missing, or may be."""
        return len(self.raw) >= KEPT_BYTES

    def event(self) -> Any:
        """The decoded JSON value with an id that it keeps in every replay. Raises ValueError where it was cut."""
        if self.is_cut:
            raise ValueError(f"cut at {KEPT_BYTES} bytes when it was kept, the rest is not known")
        raw = orjson.loads(self.raw)
        if isinstance(raw, dict) and raw.get("event_id") is None:
            raw = raw | {"event_id": f"badrow-{self.place}"}
        return raw


def as_entry(row: BadRow) -> Entry:
    """What is appended to the topic."""
    fields = row.field, row.value, row.reason, row.raw[:KEPT_BYTES], row.site, row.agent, row.ahead_ms
    return Entry(row.site.encode(), msgpack.packb((ROW, *fields)), row.received_ms)


def read_rows(log: Log) -> Iterator[BadRow]:
    """Every row there is now, oldest first. Raises LogUnavailable."""
    for record in _records(log):
        row = row_of(record)
        if row is not None:
            yield row


def row_of(record: Record) -> BadRow | None:
    """The row in a record of the topic, None where there is none."""
    kind, *fields = _fields(record)
    if kind != ROW:
        return None
    field, value, reason, raw, site, agent, ahead_ms = fields
    return BadRow(field, value, reason, raw, site, agent, record.time_ms, ahead_ms, record.offset)


def read_replayed(log: Log) -> set[int]:
    """Places of the rows that were replayed. Raises LogUnavailable."""
    return {fields[0] for kind, *fields in map(_fields, _records(log)) if kind == REPLAYED}


def note_replayed(log: Log, places: Sequence[int], now_ms: int) -> None:
    """Returns when the notes are in the topic. Raises LogUnavailable; noting again does no harm."""
    for outcome in log.append(BAD_ROWS, [Entry(b"", msgpack.packb((REPLAYED, place)), now_ms) for place in places]):
        if isinstance(outcome, LogUnavailable):
            raise outcome


def _fields(record: Record) -> list[Any]:
    """The record's kind and the rest; a kind of 0 where it is none of ours."""
    try:
        fields = msgpack.unpackb(record.value)
    except (ValueError, msgpack.UnpackException):
        fields = None
    is_ours = isinstance(fields, list) and (fields[:1], len(fields)) in (([ROW], 8), ([REPLAYED], 2))
    return fields if is_ours else [0]


def _records(log: Log) -> Iterator[Record]:
    """What the topic holds at this moment."""
    starts = log.start_offsets(BAD_ROWS)
    for partition, end in log.end_offsets(BAD_ROWS).items():
        at = starts[partition]
        while at < end and (records := log.read(BAD_ROWS, partition, at, READ_AT_ONCE)):
            yield from (record for record in records if record.offset < end)
            at = records[-1].offset + 1

"""Records nobody could read, kept with where they were and why, so that they can be looked at and sent again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgpack

from stream.log import Entry, Log, Record
from stream.topics import DEAD_LETTERS

FORMAT = 1
KEPT_BYTES = 64 * 1024  # of a value: a letter must fit into a log that took the record only just


@dataclass(frozen=True)
class DeadLetter:
    """One refused record, its value cut at KEPT_BYTES. A replay may add it twice: topic, partition and offset tell."""

    topic: str
    partition: int
    offset: int
    cause: str
    key: bytes
    value: bytes
    time_ms: int


def bury(log: Log, letters: Sequence[DeadLetter]) -> None:
    """Store the letters. Raises LogUnavailable unless every one was acknowledged."""
    entries = [
        Entry(
            f"{x.topic}/{x.partition}/{x.offset}".encode(),
            msgpack.packb((FORMAT, x.topic, x.partition, x.offset, x.cause, x.key[:KEPT_BYTES], x.value[:KEPT_BYTES])),
            x.time_ms,
        )
        for x in letters
    ]
    for outcome in log.append(DEAD_LETTERS, entries):
        if isinstance(outcome, Exception):
            raise outcome


def exhume(record: Record) -> DeadLetter:
    """The letter in a record of the dead-letter topic."""
    _, topic, partition, offset, cause, key, value = msgpack.unpackb(record.value)
    return DeadLetter(topic, partition, offset, cause, key, value, record.time_ms)

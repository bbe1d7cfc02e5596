"""The log contract: named topics of ordered partitions, read by consumer groups at least once.

Four backends keep it (`stream/kafka_log.py` and `stream/confluent_log.py`, `stream/redis_log.py`,
`stream/memory_log.py`), one suite checks all of them (`tests/test_log_contract.py`). Offsets of a partition rise; a
*next offset* is the one to read next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from led.encoder import I64


class LogUnavailable(ConnectionError):
    """The log did not answer or did not acknowledge. Nothing is known to be stored; try again later."""


class UnknownTopic(LookupError):
    """The topic does not exist: create it (`ledstream up` does, or your Kafka administrator)."""


class LogWentBack(LookupError):
    """The log ends before the offset that comes next: records that were read are gone, and others take their offsets.

    What was derived from the lost records cannot be told from what will be: begin anew.
    """


class Entry(NamedTuple):
    """What is appended. Entries of one key land in one partition, in the order they were appended.

    An empty value is Kafka's null: with it, a compacted topic forgets the key.
    """

    key: bytes
    value: bytes
    time_ms: int


class Record(NamedTuple):
    """What is read back."""

    offset: int
    time_ms: int
    key: bytes
    value: bytes


class Position(NamedTuple):
    """Where an entry was stored."""

    partition: int
    offset: int


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one partition, at least one, column by column: a record costs no object of its own."""

    partition: int
    offsets: Sequence[int]
    times_ms: Sequence[int]
    keys: Sequence[bytes]
    values: Sequence[bytes]

    @classmethod
    def of(cls, partition: int, records: Sequence[Record]) -> Batch:
        """The batch of these records."""
        return cls(partition, *map(list, zip(*records, strict=True)))

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def records(self) -> list[Record]:
        """The batch row by row."""
        return list(map(Record, self.offsets, self.times_ms, self.keys, self.values))

    @property
    def next_offset(self) -> int:
        return self.offsets[-1] + 1


class Reader(Protocol):
    """One member of a consumer group on one topic. Used by one thread.

    The group's partitions are shared out among its live readers; a partition may move to another reader between two
    calls of `poll`. Reading starts at the group's committed offset, or at the oldest record where there is none.
    """

    def poll(self, *, max_records: int, timeout_s: float) -> list[Batch]:
        """Records not read before by this reader, at most one batch a partition; [] after timeout_s without any.

        Raises UnknownTopic where the topic is gone, LogWentBack where its records are; neither passes by itself.
        """

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        """Store where the group goes on, by partition. Raises LogUnavailable; committing again does no harm.

        Partitions that are no longer this reader's are left to their new reader.
        """

    def seek(self, partition: int, offset: int) -> None:
        """Read the partition from this offset next; it must be assigned."""

    def assignment(self) -> frozenset[int]:
        """Partitions this reader reads at present."""

    def positions(self) -> dict[int, int]:
        """Next offset this reader will read, by assigned partition."""

    def lag(self) -> dict[int, int]:
        """Records not yet handed out by `poll`, by assigned partition."""

    def remade(self) -> int:
        """How often this reader gave up a connection that had stalled and made itself a new one."""

    def lost(self) -> int:
        """How many records were deleted before this reader read them: retention was too short for how late it was."""

    def keep_alive(self) -> None:
        """Stay a member without reading, while the caller waits for something else. Never blocks for long."""

    def close(self) -> None:
        """Leave the group, so that others take over at once. Commits nothing."""


class Log(Protocol):
    """Topics on one backend. Safe to use from many threads, except for the readers it makes."""

    def create_topic(self, topic: str, partitions: int) -> None:
        """Make the topic if it is missing. An existing one keeps its partitions and its records."""

    def partitions(self, topic: str) -> int:
        """Number of partitions. Raises UnknownTopic."""

    def identity(self, topic: str) -> int:
        """64-bit number of this very topic; one deleted and made again has another. Raises UnknownTopic."""

    def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:
        """Store entries; returns when each is acknowledged or failed, in the order given.

        A failed entry may still have been stored (the acknowledgement was lost): send it again with the same event_id.
        Raises UnknownTopic. Partition of an entry: `partition_of(key, partitions)`.
        """

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> list[Record]:
        """Stored records from offset on, without a group; [] where there is none yet."""

    def start_offsets(self, topic: str) -> dict[int, int]:
        """Oldest stored offset by partition; the end offset where a partition is empty."""

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Offset the next entry will get, by partition."""

    def committed(self, topic: str, group: str) -> dict[int, int]:
        """The group's next offsets, by partition; partitions it never committed are absent."""

    def reader(self, topic: str, group: str) -> Reader:
        """A new member of the group."""

    def ping(self) -> None:
        """Returns if the log answers, within a second or two; raises LogUnavailable."""

    def close(self) -> None:
        """Let go of connections. Readers are closed by their owners."""


MANY = 20  # keys that arrays take less time for than a loop


def partition_of(key: bytes, partitions: int) -> int:
    """The partition Kafka's own clients choose for the key, so that every producer agrees."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def partitions_of(keys: Sequence[bytes], partitions: int) -> I64:
    """`partition_of` each key, (len(keys),); for many keys much faster than one by one."""
    if len(keys) < MANY:
        return np.array([partition_of(key, partitions) for key in keys], np.int64)
    m, lengths = np.uint32(0x5BD1E995), np.fromiter(map(len, keys), np.uint32, len(keys))
    width = 4 * (int(lengths.max()) // 4 + 1)
    words = np.frombuffer(b"".join([key.ljust(width, b"\0") for key in keys]), "<u4").reshape(len(keys), -1)
    whole = lengths // 4
    h = np.uint32(0x9747B28C) ^ lengths
    for place in range(width // 4):
        k = words[:, place] * m
        k = (k ^ k >> np.uint32(24)) * m
        h = np.where(place < whole, h * m ^ k, h)
    rest = words[np.arange(len(keys)), whole]
    h = np.where(lengths % 4 > 0, (h ^ rest) * m, h)
    h = (h ^ h >> np.uint32(13)) * m
    h = h ^ h >> np.uint32(15)
    return np.asarray((h & np.uint32(0x7FFFFFFF)) % np.uint32(partitions), np.int64)


def murmur2(data: bytes) -> int:
    """MurmurHash2 (Austin Appleby's, public domain), 32 bits, with the seed Kafka's default partitioner uses."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    size = len(data)
    h = 0x9747B28C ^ size
    whole = size & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if whole < size:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15

"""The log in memory: for tests and for one process. Nothing outlives it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stream.log import Batch, Entry, LogUnavailable, Position, Record, UnknownTopic, partition_of


@dataclass
class _Topic:
    partitions: list[list[Record]]
    identity: int
    committed: dict[str, dict[int, int]] = field(default_factory=dict)
    members: dict[str, list[MemoryReader]] = field(default_factory=dict)


class MemoryLog:
    """See `stream.log.Log`. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._topics: dict[str, _Topic] = {}
        self._changed = threading.Condition()

    def create_topic(self, topic: str, partitions: int) -> None:
        with self._changed:
            if topic not in self._topics:
                self._topics[topic] = _Topic([[] for _ in range(partitions)], secrets.randbits(64))

    def partitions(self, topic: str) -> int:
        return len(self._topic(topic).partitions)

    def identity(self, topic: str) -> int:
        return self._topic(topic).identity

    def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:
        stored: list[Position | LogUnavailable] = []
        with self._changed:
            partitions = self._topic(topic).partitions
            for entry in entries:
                number = partition_of(entry.key, len(partitions))
                position = Position(number, len(partitions[number]))
                partitions[number].append(Record(position.offset, entry.time_ms, entry.key, entry.value))
                stored.append(position)
            self._changed.notify_all()
        return stored

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> list[Record]:
        with self._changed:
            return self._topic(topic).partitions[partition][offset : offset + max_records]

    def start_offsets(self, topic: str) -> dict[int, int]:
        return dict.fromkeys(range(self.partitions(topic)), 0)

    def end_offsets(self, topic: str) -> dict[int, int]:
        with self._changed:
            return {number: len(records) for number, records in enumerate(self._topic(topic).partitions)}

    def committed(self, topic: str, group: str) -> dict[int, int]:
        with self._changed:
            return dict(self._topic(topic).committed.get(group, {}))

    def reader(self, topic: str, group: str) -> MemoryReader:
        with self._changed:
            members = self._topic(topic).members.setdefault(group, [])
            reader = MemoryReader(self, topic, group)
            members.append(reader)
            return reader

    def ping(self) -> None:
        return None

    def close(self) -> None:
        return None

    def _topic(self, topic: str) -> _Topic:
        if topic not in self._topics:
            raise UnknownTopic(f"topic {topic} does not exist")
        return self._topics[topic]


class MemoryReader:
    """See `stream.log.Reader`. Members share the partitions round robin, in the order they joined."""

    def __init__(self, log: MemoryLog, topic: str, group: str) -> None:
        self._log, self._topic, self._group = log, topic, group
        self._positions: dict[int, int] = {}

    def poll(self, *, max_records: int, timeout_s: float) -> list[Batch]:
        with self._log._changed:
            self._log._changed.wait_for(self._has_records, timeout_s)
            batches = []
            for number in sorted(self._positions):
                start = self._positions[number]
                records = self._stored().partitions[number][start : start + max_records]
                if records:
                    batches.append(Batch.of(number, records))
                    self._positions[number] = start + len(records)
                    max_records -= len(records)
            return batches

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        with self._log._changed:
            mine = self._refresh()
            committed = self._stored().committed.setdefault(self._group, {})
            committed.update({number: offset for number, offset in next_offsets.items() if number in mine})

    def seek(self, partition: int, offset: int) -> None:
        with self._log._changed:
            if partition not in self._refresh():
                raise ValueError(f"partition {partition} is not assigned to this reader")
            self._positions[partition] = offset

    def assignment(self) -> frozenset[int]:
        return frozenset(self._positions)

    def positions(self) -> dict[int, int]:
        return dict(self._positions)

    def lag(self) -> dict[int, int]:
        with self._log._changed:
            partitions = self._stored().partitions
            return {number: len(partitions[number]) - at for number, at in self._positions.items()}

    def remade(self) -> int:
        return 0

    def lost(self) -> int:
        return 0

    def keep_alive(self) -> None:
        return None

    def close(self) -> None:
        with self._log._changed:
            members = self._stored().members[self._group]
            if self in members:
                members.remove(self)
            self._positions = {}
            self._log._changed.notify_all()

    def _stored(self) -> _Topic:
        return self._log._topic(self._topic)

    def _has_records(self) -> bool:
        self._refresh()
        partitions = self._stored().partitions
        return any(at < len(partitions[number]) for number, at in self._positions.items())

    def _refresh(self) -> dict[int, int]:
        """Positions after taking up what is now this reader's share and letting go of the rest."""
        stored = self._stored()
        members = stored.members[self._group]
        if self not in members:
            self._positions = {}
            return self._positions
        share = range(members.index(self), len(stored.partitions), len(members))
        committed = stored.committed.get(self._group, {})
        self._positions = {n: self._positions.get(n, committed.get(n, 0)) for n in share}
        return self._positions

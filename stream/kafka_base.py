"""What the log on Kafka shares, whatever the client: names, settings, what errors mean, and all that needs no client.

A topic is called `<namespace>.<topic>` on the brokers, a group `<namespace>.<group>`. Offsets, committed offsets and
the sharing of partitions are Kafka's own, so processes on different clients may work on one topic and in one group.
"""

from __future__ import annotations

import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from stream.kafka_reader import GroupClient, KafkaReader
from stream.log import Log, LogUnavailable, Record, UnknownTopic
from stream.topics import COMPACTED

REQUEST_TIMEOUT_MS = 10_000
CONNECT_TIMEOUT_MS = 2_000
COMMIT_TIMEOUT_MS = 3_000
READ_TIMEOUT_MS = 5_000
FETCH_WAIT_MS = 250
# A reader that dies in silence is noticed after so long, one that joins or leaves within a second. Longer than a
# fail-over (9.75 s): a reader whose coordinator is away for its whole session gives up its share, and the next
# coordinator, which does not know, waits for the one that it was for another session.
SESSION_TIMEOUT_MS, HEARTBEAT_MS = 15_000, 1_000
BATCH_BYTES = 128 * 1024
# Kafka counts a record's age from the event's own time: with its default of seven days it deletes a replayed past
# within minutes, read or not. How much to keep is for the administrator to say, best by retention.bytes.
TOPIC_SETTINGS = {"retention.ms": "-1"}
# Of each key the last record; that it was deleted, for a week: so long may a consumer be away.
COMPACTED_SETTINGS = {"cleanup.policy": "compact", "delete.retention.ms": str(7 * 86_400_000)}

UNKNOWN_TOPIC_CODES = {3, 100}  # by name, by id
LEADER_CODES = {5, 6, 74, 76}  # not available, not this broker, of an older or newer epoch
COORDINATOR_CODES = {14, 15, 16}  # loading, not available, not this broker
# Too large, invalid topic, not authorized (topic, group, cluster), unsupported version, invalid replication factor.
_MISTAKE_CODES = {10, 17, 29, 30, 31, 35, 38}


class Described(NamedTuple):
    """A topic as the brokers describe it."""

    partitions: int
    topic_id: UUID


def settings_of(topic: str) -> dict[str, str]:
    """What a topic is made with."""
    return COMPACTED_SETTINGS if topic in COMPACTED else TOPIC_SETTINGS


def meaning(topic: str, code: int | None, error: Exception) -> Exception:
    """Kafka's error as ours. What a client calls an error is, here, nearly always a broker that is away.

    code: the protocol's number for it, None where it is the client's own. Errors that are mistakes stay as they are.
    """
    if code in UNKNOWN_TOPIC_CODES:
        return UnknownTopic(f"topic {topic} does not exist")
    return error if code in _MISTAKE_CODES else LogUnavailable(f"{type(error).__name__}: {error}")


class KafkaBase(Log, ABC):
    """See `stream.log.Log`. Connects at first use.

    delivery_timeout_s: when `append` gives up. The default outlives a fail-over (9.75 s with brokers' own settings).
    metadata_max_age_s: how soon partitions that were added to a topic are written to and read.
    stalled_after_s: how long a reader with something to read may hand out nothing before its client is made anew.
    """

    def __init__(
        self,
        bootstrap_servers: Sequence[str],
        namespace: str,
        *,
        replication: int = 1,
        delivery_timeout_s: float = 15.0,
        metadata_max_age_s: float = 30.0,
        stalled_after_s: float = 10.0,
    ) -> None:
        self._brokers, self._namespace, self._replication = list(bootstrap_servers), namespace, replication
        self._delivery_timeout_ms = int(delivery_timeout_s * 1000)
        self._metadata_max_age_s, self._stalled_after_s = metadata_max_age_s, stalled_after_s
        self._partitions: dict[str, tuple[int, float]] = {}

    def partitions(self, topic: str) -> int:
        known, asked_at = self._partitions.get(topic, (0, float("-inf")))
        if time.monotonic() > asked_at + self._metadata_max_age_s:
            try:
                known = self._described(topic).partitions
            except LogUnavailable:
                if not known:  # what was known holds until the brokers say otherwise: partitions are never taken away
                    raise
            self._partitions[topic] = known, time.monotonic()
        return known

    def identity(self, topic: str) -> int:
        number = self._described(topic).topic_id.int
        return number >> 64 ^ number & (1 << 64) - 1

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> list[Record]:
        self.partitions(topic)
        # The oldest first: were it asked last, the brokers could delete what lies between the two answers.
        oldest = self._offsets(topic, [partition], oldest=True)[partition]
        end = self._offsets(topic, [partition], oldest=False)[partition]
        offset = max(offset, oldest)
        return [] if offset >= end else self._fetched(topic, partition, offset, min(max_records, end - offset))

    def start_offsets(self, topic: str) -> dict[int, int]:
        return self._offsets(topic, range(self.partitions(topic)), oldest=True)

    def end_offsets(self, topic: str) -> dict[int, int]:
        return self._offsets(topic, range(self.partitions(topic)), oldest=False)

    def reader(self, topic: str, group: str) -> KafkaReader:
        return KafkaReader(self, topic, lambda: self._group_client(topic, group), self._stalled_after_s)

    def bounds(self, topic: str, partitions: Collection[int]) -> dict[int, tuple[int, int]]:
        """Oldest offset and end of these partitions."""
        starts, ends = (self._offsets(topic, partitions, oldest=oldest) for oldest in (True, False))
        return {number: (starts[number], ends[number]) for number in partitions}

    def ends(self, topic: str, partitions: Collection[int]) -> dict[int, int]:
        """As `end_offsets`, of these partitions: a reader may know of new ones before the log does."""
        return self._offsets(topic, partitions, oldest=False)

    def _name(self, part: str) -> str:
        return f"{self._namespace}.{part}"

    def _knock(self) -> None:
        """Raises LogUnavailable where no broker listens: there, each try to make a client leaves threads behind."""
        for broker in self._brokers:
            host, _, port = broker.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_MS / 1000).close()
            except OSError:
                continue
            return
        raise LogUnavailable(f"no broker listens at {', '.join(self._brokers)}")

    @abstractmethod
    def _described(self, topic: str) -> Described:
        """Asks the brokers. Raises UnknownTopic."""

    @abstractmethod
    def _offsets(self, topic: str, partitions: Collection[int], *, oldest: bool) -> dict[int, int]:
        """The oldest offsets or the ends, as the brokers know them; {} of no partitions."""

    @abstractmethod
    def _fetched(self, topic: str, partition: int, offset: int, wanted: int) -> list[Record]:
        """Just these records, but for what the brokers delete meanwhile. Where the last call ended it costs little."""

    @abstractmethod
    def _group_client(self, topic: str, group: str) -> GroupClient:
        """A consumer that subscribed to the topic."""

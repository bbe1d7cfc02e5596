"""The log on Kafka, and the one module that knows its client.

A topic is called `<namespace>.<topic>` on the brokers, a group `<namespace>.<group>`. Offsets, committed offsets and
the sharing of partitions are Kafka's own.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import OffsetSpec
from kafka.structs import OffsetAndMetadata

from stream.log import Batch, Entry, LogUnavailable, Position, Record, UnknownTopic, partition_of

REQUEST_TIMEOUT_MS = 10_000
CONNECT_TIMEOUT_MS = 2_000
COMMIT_TIMEOUT_MS = 3_000
READ_TIMEOUT_MS = 5_000
SETTLE_S, JOIN_SLICE_MS = 2.0, 500
BATCH_BYTES = 128 * 1024
# Kafka counts a record's age from the event's own time: with its default of seven days it deletes a replayed past
# within minutes, read or not. How much to keep is for the administrator to say, best by retention.bytes.
TOPIC_SETTINGS = {"retention.ms": "-1"}


class KafkaLog:
    """See `stream.log.Log`. Connects at first use.

    delivery_timeout_s: when `append` gives up. The default outlives a fail-over (9.75 s with brokers' own settings).
    """

    def __init__(
        self,
        bootstrap_servers: Sequence[str],
        namespace: str,
        *,
        replication: int = 1,
        delivery_timeout_s: float = 15.0,
    ) -> None:
        self._namespace, self._replication = namespace, replication
        self._delivery_timeout_ms = int(delivery_timeout_s * 1000)
        self._connection: dict[str, Any] = {
            "bootstrap_servers": list(bootstrap_servers),
            "bootstrap_timeout_ms": CONNECT_TIMEOUT_MS,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "reconnect_backoff_max_ms": 1_000,
        }
        self._partitions: dict[str, int] = {}
        self._producer: Any = None
        self._admin: Any = None
        self._consumer: Any = None
        self._sending, self._asking, self._reading = threading.Lock(), threading.Lock(), threading.Lock()

    def create_topic(self, topic: str, partitions: int) -> None:
        name = self._name(topic)
        wanted = {
            name: {"num_partitions": partitions, "replication_factor": self._replication, "configs": TOPIC_SETTINGS}
        }
        with _unavailable(topic), self._administration() as admin:
            with suppress(kafka_errors.TopicAlreadyExistsError):
                admin.create_topics(wanted)
            admin.wait_for_topics([name], timeout_ms=REQUEST_TIMEOUT_MS)

    def partitions(self, topic: str) -> int:
        # An existing topic keeps its partitions, so asking once is enough.
        if topic not in self._partitions:
            self._partitions[topic] = len(self._described(topic)["partitions"])
        return self._partitions[topic]

    def identity(self, topic: str) -> int:
        number = UUID(self._described(topic)["topic_id"]).int
        return number >> 64 ^ number & (1 << 64) - 1

    def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:
        partitions, name = self.partitions(topic), self._name(topic)
        sent: list[Any] = []
        try:
            with _unavailable(topic):
                producer = self._producing()
                for entry in entries:
                    number = partition_of(entry.key, partitions)
                    sent.append(
                        producer.send(name, entry.value, entry.key, partition=number, timestamp_ms=entry.time_ms)
                    )
        except LogUnavailable as error:
            # Nobody tries the rest: each would wait as long as this one did.
            return [*map(self._acknowledged, sent), *[error] * (len(entries) - len(sent))]
        return [self._acknowledged(future) for future in sent]

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> list[Record]:
        oldest, end = self.start_offsets(topic)[partition], self.end_offsets(topic)[partition]
        offset = max(offset, oldest)
        if offset >= end:
            return []
        where = TopicPartition(self._name(topic), partition)
        with self._reading, _unavailable(topic):
            return self._fetched(where, offset, min(max_records, end - offset))

    def start_offsets(self, topic: str) -> dict[int, int]:
        return self._offsets(topic, OffsetSpec.EARLIEST)

    def end_offsets(self, topic: str) -> dict[int, int]:
        return self._offsets(topic, OffsetSpec.LATEST)

    def committed(self, topic: str, group: str) -> dict[int, int]:
        where = [TopicPartition(self._name(topic), number) for number in range(self.partitions(topic))]
        group = self._name(group)
        with _unavailable(topic), self._administration() as admin:
            found = _with_coordinator(lambda: admin.list_group_offsets({group: where}))[group]
        return {place.partition: known.offset for place, known in sorted(found.items()) if known.offset >= 0}

    def reader(self, topic: str, group: str) -> KafkaReader:
        self.partitions(topic)
        with _unavailable(topic):
            return KafkaReader(self, topic, self._group_consumer(topic, group))

    def ping(self) -> None:
        with _unavailable("ping"), self._administration() as admin:
            admin.describe_topics([])

    def close(self) -> None:
        with self._sending, self._asking, self._reading:
            for client in (self._producer, self._admin, self._consumer):
                if client is not None:
                    client.close()
            self._producer = self._admin = self._consumer = None

    def _acknowledged(self, future: Any) -> Position | LogUnavailable:
        try:
            # The producer ends every wait by itself; should it not, a request's time more is enough.
            stored = future.get(timeout=(self._delivery_timeout_ms + REQUEST_TIMEOUT_MS) / 1000)
        except kafka_errors.KafkaError as error:
            return LogUnavailable(f"{type(error).__name__}: {error}")
        return Position(stored.partition, stored.offset)

    def _name(self, part: str) -> str:
        return f"{self._namespace}.{part}"

    def _described(self, topic: str) -> dict[str, Any]:
        with _unavailable(topic), self._administration() as admin:
            found: dict[str, Any] = admin.describe_topics([self._name(topic)])[0]
            if found["error_code"]:
                raise kafka_errors.for_code(found["error_code"])(found["name"])
        return found

    def _fetched(self, where: TopicPartition, offset: int, wanted: int) -> list[Record]:
        """Just these records, but for what the brokers delete meanwhile. Where the last call ended it costs little."""
        if self._consumer is None:
            self._consumer = self._new_consumer(group_id=None)
        consumer, end = self._consumer, offset + wanted
        if consumer.assignment() != {where}:
            consumer.assign([where])
        consumer.seek(where, offset)
        found: list[Record] = []
        deadline = time.monotonic() + READ_TIMEOUT_MS / 1000
        while (consumer.position(where, timeout_ms=READ_TIMEOUT_MS) or 0) < end:
            polled = consumer.poll(timeout_ms=500, max_records=wanted - len(found))
            found += _records(polled.get(where, ()))
            if not polled and time.monotonic() > deadline:
                raise LogUnavailable(f"no answer reading {where.topic}, partition {where.partition}, at {offset}")
        return found

    def _offsets(self, topic: str, which: OffsetSpec) -> dict[int, int]:
        where = {TopicPartition(self._name(topic), number): which for number in range(self.partitions(topic))}
        with _unavailable(topic), self._administration() as admin:
            found = admin.list_partition_offsets(where, timeout_ms=REQUEST_TIMEOUT_MS)
        return {place.partition: known.offset for place, known in sorted(found.items())}

    def _knock(self) -> None:
        """Raises LogUnavailable where no broker listens: there, each try to make a client leaves a thread behind."""
        for broker in self._connection["bootstrap_servers"]:
            host, _, port = broker.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_MS / 1000).close()
            except OSError:
                continue
            return
        raise LogUnavailable(f"no broker listens at {', '.join(self._connection['bootstrap_servers'])}")

    @contextmanager
    def _administration(self) -> Iterator[Any]:
        """The admin client, to one thread at a time: with five questions under way it refuses the sixth."""
        with self._asking:
            if self._admin is None:
                self._knock()
                self._admin = KafkaAdminClient(**self._connection | {"request_timeout_ms": CONNECT_TIMEOUT_MS})
            yield self._admin

    def _producing(self) -> Any:
        with self._sending:
            if self._producer is None:
                self._knock()
                self._producer = KafkaProducer(
                    **self._connection | {"request_timeout_ms": min(REQUEST_TIMEOUT_MS, self._delivery_timeout_ms)},
                    acks="all",
                    enable_idempotence=True,
                    compression_type="lz4",
                    # No lingering: one entry is back in 0.8 ms, and batches fill while others are on their way.
                    linger_ms=0,
                    batch_size=BATCH_BYTES,
                    max_block_ms=CONNECT_TIMEOUT_MS,
                    delivery_timeout_ms=self._delivery_timeout_ms,
                    allow_auto_create_topics=False,
                    metrics_enabled=False,
                )
            return self._producer

    def _group_consumer(self, topic: str, group: str) -> Any:
        consumer = self._new_consumer(
            group_id=self._name(group),
            # A reader that dies in silence is noticed after ten seconds, one that joins or leaves within a second.
            session_timeout_ms=10_000,
            heartbeat_interval_ms=1_000,
        )
        consumer.subscribe([self._name(topic)])
        # A leader that joins before it knows the topic shares out nothing, and all have to join again.
        consumer.partitions_for_topic(self._name(topic))
        return consumer

    def _new_consumer(self, **settings: Any) -> Any:
        self._knock()
        return KafkaConsumer(
            **self._connection,
            **settings,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_max_wait_ms=250,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )


class KafkaReader:
    """See `stream.log.Reader`. After a rebalance, partitions that stayed are read again from the committed offset."""

    def __init__(self, log: KafkaLog, topic: str, consumer: Any) -> None:
        self._log, self._topic, self._consumer = log, topic, consumer
        self._name = log._name(topic)
        self._closed = False

    def poll(self, *, max_records: int, timeout_s: float) -> list[Batch]:
        """As the contract says, but while the group is shared out anew it may take SETTLE_S.

        The client drops the outcome of a join that completes between two polls and joins again, which makes everybody
        else join again: a group that polls briefly and works in between may never settle.
        """
        if self._closed:
            return []
        settled_by = time.monotonic() + SETTLE_S
        with _unavailable(self._topic):
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
            while not polled and self._is_joining() and time.monotonic() < settled_by:
                polled = self._consumer.poll(timeout_ms=JOIN_SLICE_MS, max_records=max_records)
        return [_batch(where.partition, records) for where, records in polled.items()]

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        mine = self.assignment()
        offsets = {
            TopicPartition(self._name, number): OffsetAndMetadata(offset, "", -1)
            for number, offset in next_offsets.items()
            if number in mine
        }
        if not offsets:
            return
        with _unavailable(self._topic):
            self._consumer.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)

    def seek(self, partition: int, offset: int) -> None:
        if partition not in self.assignment():
            raise ValueError(f"partition {partition} is not assigned to this reader")
        self._consumer.seek(TopicPartition(self._name, partition), offset)

    def assignment(self) -> frozenset[int]:
        return frozenset() if self._closed else frozenset(where.partition for where in self._consumer.assignment())

    def positions(self) -> dict[int, int]:
        known = {}
        with _unavailable(self._topic):
            for where in self._places():
                known[where.partition] = self._consumer.position(where, timeout_ms=REQUEST_TIMEOUT_MS)
        return {number: offset for number, offset in known.items() if offset is not None}

    def lag(self) -> dict[int, int]:
        # Not by the reader's own connection: there the question would wait behind a fetch that waits for records.
        ends = self._log.end_offsets(self._topic)
        return {number: max(0, ends[number] - offset) for number, offset in self.positions().items()}

    def _is_joining(self) -> bool:
        return bool(self._consumer._coordinator.need_rejoin())  # the client tells nobody else

    def remade(self) -> int:
        return 0

    def keep_alive(self) -> None:
        if self._closed:
            return
        with _unavailable(self._topic):
            self._consumer.pause(*self._places())
            polled = self._consumer.poll(timeout_ms=0, max_records=1)
            # Partitions that came to this reader in this very call were not paused.
            for where, records in polled.items():
                self._consumer.seek(where, records[0].offset)
            self._consumer.resume(*self._places())

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with _unavailable(self._topic):
                self._consumer.close(autocommit=False, timeout_ms=CONNECT_TIMEOUT_MS)
        except LogUnavailable as error:
            logging.getLogger(__name__).warning("a reader's partitions stay taken until its session ends: %s", error)

    def _places(self) -> list[TopicPartition]:
        return [] if self._closed else sorted(self._consumer.assignment())


@contextmanager
def _unavailable(topic: str) -> Iterator[None]:
    """Kafka's errors as ours. What the client calls an error is, here, nearly always a broker that is away."""
    try:
        yield
    except kafka_errors.UnknownTopicOrPartitionError as error:
        raise UnknownTopic(f"topic {topic} does not exist") from error
    except _MISTAKES:
        raise
    except kafka_errors.KafkaError as error:
        raise LogUnavailable(f"{type(error).__name__}: {error}") from error


_MISTAKES = (
    kafka_errors.AuthorizationError,
    kafka_errors.IllegalArgumentError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InvalidReplicationFactorError,
    kafka_errors.KafkaConfigurationError,
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.UnsupportedVersionError,
)


def _with_coordinator(ask: Callable[[], Any]) -> Any:
    """The answer, waiting while the cluster finds the group a coordinator: a first group makes it take a moment."""
    deadline = time.monotonic() + COMMIT_TIMEOUT_MS / 1000
    while True:
        try:
            return ask()
        except (
            kafka_errors.CoordinatorNotAvailableError,
            kafka_errors.CoordinatorLoadInProgressError,
            kafka_errors.NotCoordinatorError,
        ):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _records(polled: Sequence[Any]) -> list[Record]:
    return [Record(record.offset, record.timestamp, record.key or b"", record.value or b"") for record in polled]


def _batch(partition: int, polled: Sequence[Any]) -> Batch:
    return Batch(
        partition,
        [record.offset for record in polled],
        [record.timestamp for record in polled],
        [record.key or b"" for record in polled],
        [record.value or b"" for record in polled],
    )

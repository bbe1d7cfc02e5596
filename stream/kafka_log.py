"""The log on Kafka by the client kafka-python, and the one module that knows it. See `stream/kafka_base.py`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.admin import OffsetSpec
from kafka.structs import OffsetAndMetadata

from stream.kafka_base import (
    BATCH_BYTES,
    COMMIT_TIMEOUT_MS,
    CONNECT_TIMEOUT_MS,
    COORDINATOR_CODES,
    FETCH_WAIT_MS,
    HEARTBEAT_MS,
    READ_TIMEOUT_MS,
    REQUEST_TIMEOUT_MS,
    SESSION_TIMEOUT_MS,
    Described,
    KafkaBase,
    meaning,
    settings_of,
)
from stream.kafka_reader import OutOfPlace, Place
from stream.log import Batch, Entry, LogUnavailable, Position, Record, partition_of

# Four times the client's own: while a large batch is handed out, the next is here. All partitions together: 50 MB.
FETCH_BYTES = 4 << 20


class KafkaLog(KafkaBase):
    """See `stream.log.Log` and `KafkaBase`."""

    def __init__(self, bootstrap_servers: Sequence[str], namespace: str, **options: Any) -> None:
        super().__init__(bootstrap_servers, namespace, **options)
        self._connection: dict[str, Any] = {
            "bootstrap_servers": self._brokers,
            "bootstrap_timeout_ms": CONNECT_TIMEOUT_MS,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "reconnect_backoff_max_ms": 1_000,
            "metadata_max_age_ms": int(self._metadata_max_age_s * 1000),
        }
        self._producer: Any = None
        self._admin: Any = None
        self._consumer: Any = None
        self._sending, self._asking, self._reading = threading.Lock(), threading.Lock(), threading.Lock()

    def create_topic(self, topic: str, partitions: int) -> None:
        name = self._name(topic)
        wanted = {
            name: {"num_partitions": partitions, "replication_factor": self._replication, "configs": settings_of(topic)}
        }
        with self._administration(topic) as admin:
            with suppress(kafka_errors.TopicAlreadyExistsError):
                admin.create_topics(wanted)
            admin.wait_for_topics([name], timeout_ms=REQUEST_TIMEOUT_MS)

    def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:
        self.partitions(topic)
        name, producer, sent = self._name(topic), None, list[Any]()
        rest: list[Position | LogUnavailable] = []
        try:
            with _ours(topic):
                producer = self._producing()
                # The producer's own count: it refuses a partition that it has not heard of yet.
                partitions = len(producer.partitions_for(name))
                for entry in entries:
                    number = partition_of(entry.key, partitions)
                    sent.append(
                        producer.send(
                            name, entry.value or None, entry.key, partition=number, timestamp_ms=entry.time_ms
                        )
                    )
        except LogUnavailable as error:
            rest = [error] * (len(entries) - len(sent))  # nobody tries these: each would wait as long as this one did
        # The producer ends every wait by itself; should it not, a request's time more is enough for all of them.
        deadline = time.monotonic() + (self._delivery_timeout_ms + REQUEST_TIMEOUT_MS) / 1000
        results = [_acknowledged(future, deadline) for future in sent] + rest
        if any(isinstance(result, LogUnavailable) for result in results):
            self._give_up(producer)
        return results

    def committed(self, topic: str, group: str) -> dict[int, int]:
        where = [TopicPartition(self._name(topic), number) for number in range(self.partitions(topic))]
        group = self._name(group)
        with self._administration(topic) as admin:
            found = _with_coordinator(lambda: admin.list_group_offsets({group: where}))[group]
        return {place.partition: known.offset for place, known in sorted(found.items()) if known.offset >= 0}

    def ping(self) -> None:
        with self._administration("ping") as admin:
            admin.describe_topics([])

    def close(self) -> None:
        with self._sending, self._asking, self._reading:
            for client in (self._producer, self._admin, self._consumer):
                if client is not None:
                    client.close()
            self._producer = self._admin = self._consumer = None

    def _give_up(self, producer: Any) -> None:
        """Have another producer made: kafka-python 3.0.12 may send nothing more after a batch that it gave up.

        It forgets its producer id then, and asks for no other. What others wait for of this one fails at once.
        """
        with self._sending:
            if producer is None or producer is not self._producer:
                return
            self._producer = None
        producer._sender.force_close()  # `close` waits for all that was sent, without an end
        with suppress(kafka_errors.KafkaError):
            producer.close(timeout=CONNECT_TIMEOUT_MS / 1000)

    def _described(self, topic: str) -> Described:
        with self._administration(topic) as admin:
            found: dict[str, Any] = admin.describe_topics([self._name(topic)])[0]
            if found["error_code"]:
                raise kafka_errors.for_code(found["error_code"])(found["name"])
        return Described(len(found["partitions"]), UUID(str(found["topic_id"])))

    def _offsets(self, topic: str, partitions: Collection[int], *, oldest: bool) -> dict[int, int]:
        if not partitions:
            return {}
        which = OffsetSpec.EARLIEST if oldest else OffsetSpec.LATEST
        where = {TopicPartition(self._name(topic), number): which for number in partitions}
        with self._administration(topic) as admin:
            found = admin.list_partition_offsets(where, timeout_ms=REQUEST_TIMEOUT_MS)
        return {place.partition: known.offset for place, known in sorted(found.items())}

    def _fetched(self, topic: str, partition: int, offset: int, wanted: int) -> list[Record]:
        where, end, found = TopicPartition(self._name(topic), partition), offset + wanted, list[Record]()
        with self._reading, _ours(topic):
            if self._consumer is None:
                self._consumer = self._new_consumer(group_id=None, auto_offset_reset="earliest")
            consumer = self._consumer
            if consumer.assignment() != {where}:
                consumer.assign([where])
            consumer.seek(where, offset)
            deadline = time.monotonic() + READ_TIMEOUT_MS / 1000
            while (consumer.position(where, timeout_ms=READ_TIMEOUT_MS) or 0) < end:
                polled = consumer.poll(timeout_ms=500, max_records=wanted - len(found))
                for _, records in polled.items():
                    found += _batch(partition, records).records
                if not polled and time.monotonic() > deadline:
                    raise LogUnavailable(f"no answer reading {topic}, partition {partition}, at {offset}")
        return found

    @contextmanager
    def _administration(self, topic: str) -> Iterator[Any]:
        """The admin client, to one thread at a time: with five questions under way it refuses the sixth.

        After a failure it is another one, lest it go on asking where nobody answers.
        """
        with self._asking:
            if self._admin is None:
                self._knock()
                with _ours(topic):
                    self._admin = KafkaAdminClient(**self._connection | {"request_timeout_ms": CONNECT_TIMEOUT_MS})
            try:
                with _ours(topic):
                    yield self._admin
            except LogUnavailable:
                with suppress(kafka_errors.KafkaError):
                    self._admin.close()
                self._admin = None
                raise

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

    def _group_client(self, topic: str, group: str) -> KafkaGroupClient:
        with _ours(topic):
            consumer = self._new_consumer(
                group_id=self._name(group),
                auto_offset_reset="none",
                session_timeout_ms=SESSION_TIMEOUT_MS,
                heartbeat_interval_ms=HEARTBEAT_MS,
            )
            consumer.subscribe([self._name(topic)])
            # A leader that joins before it knows the topic shares out nothing, and all have to join again.
            consumer.partitions_for_topic(self._name(topic))
        return KafkaGroupClient(consumer, topic, self._name(topic))

    def _new_consumer(self, **settings: Any) -> Any:
        self._knock()
        return KafkaConsumer(
            **self._connection,
            **settings,
            enable_auto_commit=False,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )


class KafkaGroupClient:
    """See `stream.kafka_reader.GroupClient`. name: what the topic is called on the brokers."""

    def __init__(self, consumer: Any, topic: str, name: str) -> None:
        self._consumer, self._topic, self._name = consumer, topic, name
        self._epochs: dict[int, int] = {}  # the leader's, of the last record handed out

    def poll(self, max_records: int, timeout_s: float) -> list[Batch]:
        with self._in_place():
            polled = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
            try:
                found = {where: records for where, records in polled.items() if self._is_next(where, records[0])}
            except kafka_errors.KafkaError:
                for where, records in polled.items():
                    self._consumer.seek(where, records[0].offset)
                raise
        self._epochs.update((where.partition, records[-1].leader_epoch) for where, records in found.items())
        return [_batch(where.partition, records) for where, records in found.items()]

    def is_joining(self) -> bool:
        return bool(self._consumer._coordinator.need_rejoin())  # the client tells nobody else

    def commit(self, next_offsets: Mapping[int, int]) -> None:
        offsets = {
            # With the leader's epoch, by which the brokers can tell whether the log still is what led up to the offset.
            self._at(number): OffsetAndMetadata(offset, "", self._epochs.get(number, -1))
            for number, offset in next_offsets.items()
        }
        with _ours(self._topic):
            self._consumer.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)

    def seek(self, partition: int, offset: int) -> None:
        self._consumer.seek(self._at(partition), offset)
        self._epochs.pop(partition, None)

    def assignment(self) -> frozenset[int]:
        return frozenset(where.partition for where in self._consumer.assignment())

    def positions(self) -> dict[int, int]:
        with self._in_place():
            known = {
                where.partition: self._consumer.position(where, timeout_ms=READ_TIMEOUT_MS)
                for where in sorted(self._consumer.assignment())
            }
        return {number: offset for number, offset in known.items() if offset is not None}

    def keep_alive(self) -> None:
        with self._in_place():
            self._consumer.pause(*self._consumer.assignment())
            try:
                polled = self._consumer.poll(timeout_ms=0, max_records=1)
            finally:
                self._consumer.resume(*self._consumer.assignment())
            # Partitions that came to this reader in this very call were not paused.
            for where, records in polled.items():
                self._consumer.seek(where, records[0].offset)

    def close(self) -> None:
        with _ours(self._topic):
            self._consumer.close(autocommit=False, timeout_ms=CONNECT_TIMEOUT_MS)

    def _is_next(self, where: TopicPartition, first: Any) -> bool:
        """Whether to hand these out. Of a committed offset the client forgets the leader's epoch.

        Where that leader was another one the position is sought again with it: now the client asks the brokers whether
        the log still leads there.
        """
        if where.partition in self._epochs:
            return True
        known = self._consumer.committed(where, metadata=True, timeout_ms=COMMIT_TIMEOUT_MS)
        if known is None or known.offset != first.offset or not 0 <= known.leader_epoch < first.leader_epoch:
            return True
        self._epochs[where.partition] = known.leader_epoch
        self._consumer._subscription.seek(where, known)
        return False

    def _at(self, partition: int) -> TopicPartition:
        return TopicPartition(self._name, partition)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """The client's errors as ours. What it has read before one of these is handed out first, or next time."""
        with _ours(self._topic):
            try:
                yield
            except kafka_errors.NoOffsetForPartitionError as error:
                raise OutOfPlace({where.partition: Place(None) for where in error.args[0]}) from error
            except kafka_errors.OffsetOutOfRangeError as error:
                raise OutOfPlace({where.partition: Place(offset) for where, offset in error.args[0].items()}) from error
            except kafka_errors.LogTruncationError as error:
                cut = {where: self._consumer.position(where, timeout_ms=0) for where in error.divergent_offsets}
                raise OutOfPlace({where.partition: Place(at, is_cut=True) for where, at in cut.items()}) from error


def _acknowledged(future: Any, deadline: float) -> Position | LogUnavailable:
    try:
        stored = future.get(timeout=max(0.0, deadline - time.monotonic()))
    except kafka_errors.KafkaError as error:
        return LogUnavailable(f"{type(error).__name__}: {error}")
    return Position(stored.partition, stored.offset)


@contextmanager
def _ours(topic: str) -> Iterator[None]:
    try:
        yield
    except (kafka_errors.IllegalArgumentError, kafka_errors.KafkaConfigurationError):
        raise
    except kafka_errors.KafkaError as error:
        ours = meaning(topic, getattr(error, "errno", None), error)
        if ours is error:
            raise
        raise ours from error


def _with_coordinator(ask: Callable[[], Any]) -> Any:
    """The answer, waiting while the cluster finds the group a coordinator: a first group makes it take a moment."""
    deadline = time.monotonic() + COMMIT_TIMEOUT_MS / 1000
    while True:
        try:
            return ask()
        except kafka_errors.BrokerResponseError as error:
            if error.errno not in COORDINATOR_CODES or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _batch(partition: int, polled: Sequence[Any]) -> Batch:
    return Batch(
        partition,
        [record.offset for record in polled],
        [record.timestamp for record in polled],
        [record.key or b"" for record in polled],
        [record.value or b"" for record in polled],
    )

"""The log on Kafka by the client confluent-kafka. See `stream/kafka_base.py`.

The package is the extra `confluent`. Its client works in threads of its own, in C: a fraction of the CPU a record.
"""

from __future__ import annotations

import logging
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from stream.confluent_group import ConfluentGroupClient, batch_of, code_of, ours, polled, records
from stream.kafka_base import (
    BATCH_BYTES,
    COMMIT_TIMEOUT_MS,
    CONNECT_TIMEOUT_MS,
    COORDINATOR_CODES,
    FETCH_WAIT_MS,
    HEARTBEAT_MS,
    LEADER_CODES,
    READ_TIMEOUT_MS,
    REQUEST_TIMEOUT_MS,
    SESSION_TIMEOUT_MS,
    Described,
    KafkaBase,
    settings_of,
)
from stream.log import Entry, LogUnavailable, Position, Record, UnknownTopic, partition_of

logger = logging.getLogger("confluent_kafka")  # the client's own words, as kafka-python's are under "kafka"
K = TypeVar("K")
R = TypeVar("R")
SERVE_S = 0.1
_SOON = {"request_timeout": CONNECT_TIMEOUT_MS / 1000}


class ConfluentLog(KafkaBase):
    """See `stream.log.Log` and `KafkaBase`."""

    def __init__(self, bootstrap_servers: Sequence[str], namespace: str, **options: Any) -> None:
        super().__init__(bootstrap_servers, namespace, **options)
        self._connection: dict[str, Any] = {
            "bootstrap.servers": ",".join(self._brokers),
            "socket.connection.setup.timeout.ms": CONNECT_TIMEOUT_MS,
            "socket.timeout.ms": REQUEST_TIMEOUT_MS,
            "reconnect.backoff.max.ms": 1_000,
            "topic.metadata.refresh.interval.ms": int(self._metadata_max_age_s * 1000),
            "allow.auto.create.topics": False,
            "error_cb": lambda error: logger.info("%s", error),
            "logger": logger,
        }
        self._producer: Sender | None = None
        self._admin: AdminClient | None = None
        self._consumer: Consumer | None = None
        self._read_next: tuple[str, int, int] | None = None
        self._making, self._reading = threading.Lock(), threading.Lock()

    def create_topic(self, topic: str, partitions: int) -> None:
        name = self._name(topic)
        wanted = NewTopic(name, partitions, self._replication, config=settings_of(topic))
        with self._administration(topic) as admin:
            try:
                admin.create_topics([wanted], request_timeout=REQUEST_TIMEOUT_MS / 1000)[name].result()
            except KafkaException as error:
                if code_of(error) != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        _patiently(lambda: self._described(topic), lambda error: isinstance(error, UnknownTopic), REQUEST_TIMEOUT_MS)

    def append(self, topic: str, entries: Sequence[Entry]) -> list[Position | LogUnavailable]:
        partitions, name = self.partitions(topic), self._name(topic)
        numbers = [partition_of(entry.key, partitions) for entry in entries]
        try:
            with ours(topic):
                sender = self._sending()
        except LogUnavailable as error:
            return [error] * len(entries)
        results = sender.send(name, entries, numbers)
        if sender.is_broken:
            with self._making:
                self._producer = None if self._producer is sender else self._producer
            sender.close()
        return results

    def committed(self, topic: str, group: str) -> dict[int, int]:
        where = [TopicPartition(self._name(topic), number) for number in range(self.partitions(topic))]
        wanted = [ConsumerGroupTopicPartitions(self._name(group), where)]
        with self._administration(topic) as admin:
            found: Any = _patiently(
                lambda: _results(admin.list_consumer_group_offsets(wanted, **_SOON)),
                lambda error: code_of(error) in COORDINATOR_CODES,
                COMMIT_TIMEOUT_MS,
            )
        (of_group,) = found.values()
        return {at.partition: at.offset for at in sorted(of_group.topic_partitions) if at.offset >= 0}

    def ping(self) -> None:
        with self._administration("ping") as admin:
            admin.describe_cluster(**_SOON).result()

    def close(self) -> None:
        with self._making, self._reading:
            if self._producer is not None:
                self._producer.close()
            if self._consumer is not None:
                self._consumer.close()
            self._producer = self._admin = self._consumer = self._read_next = None

    def _described(self, topic: str) -> Described:
        name = self._name(topic)
        with self._administration(topic) as admin:
            found = admin.describe_topics(TopicCollection([name]), **_SOON)[name].result()
        return Described(len(found.partitions), UUID(bytes=urlsafe_b64decode(f"{found.topic_id}==")))

    def _offsets(self, topic: str, partitions: Collection[int], *, oldest: bool) -> dict[int, int]:
        if not partitions:
            return {}
        which: Any = OffsetSpec  # without types
        where = {
            TopicPartition(self._name(topic), number): which.earliest() if oldest else which.latest()
            for number in partitions
        }
        with self._administration(topic) as admin:

            def is_outdated(error: Exception) -> bool:
                if code_of(error) not in LEADER_CODES:
                    return False
                # By itself this client asks its old leader for ever.
                admin.list_topics(self._name(topic), timeout=CONNECT_TIMEOUT_MS / 1000)
                return True

            asked = _patiently(lambda: _results(admin.list_offsets(where, **_SOON)), is_outdated, READ_TIMEOUT_MS)
        offsets = {at.partition: found.offset for at, found in sorted(asked.items())}
        if min(offsets.values()) < 0:  # what this client may tell instead of an error when a broker goes away meanwhile
            raise LogUnavailable(f"no offsets of {topic}: {offsets}")
        return offsets

    def _fetched(self, topic: str, partition: int, offset: int, wanted: int) -> list[Record]:
        name, end, found = self._name(topic), offset + wanted, list[Record]()
        with self._reading, ours(topic):
            if self._consumer is None:
                settings = {"group.id": self._name("read"), "auto.offset.reset": "earliest"}
                self._consumer = self._new_consumer(settings)
            if self._read_next != (name, partition, offset):
                self._consumer.assign([TopicPartition(name, partition, offset)])
            self._read_next = None
            deadline = time.monotonic() + READ_TIMEOUT_MS / 1000
            while not found or found[-1].offset < end - 1:
                messages = records(polled(self._consumer, wanted, 0.5))
                found += batch_of(partition, messages).records
                if not messages and time.monotonic() > deadline:
                    raise LogUnavailable(f"no answer reading {topic}, partition {partition}, at {offset}")
            self._read_next = (name, partition, found[-1].offset + 1)
        return [record for record in found if record.offset < end]

    @contextmanager
    def _administration(self, topic: str) -> Iterator[AdminClient]:
        """The admin client; after a failure another one, because it goes on asking a controller that is gone."""
        with self._making:
            if self._admin is None:
                self._knock()
                self._admin = AdminClient(self._connection)
            admin = self._admin
        try:
            with ours(topic):
                yield admin
        except LogUnavailable:
            with self._making:
                self._admin = None if self._admin is admin else self._admin
            raise

    def _sending(self) -> Sender:
        with self._making:
            if self._producer is None:
                self._knock()
                own = {
                    "acks": "all",
                    "enable.idempotence": True,
                    "compression.type": "lz4",
                    # No lingering: one entry is back in a millisecond, and batches fill while others are on their way.
                    "linger.ms": 0,
                    "batch.size": BATCH_BYTES,
                    "delivery.timeout.ms": self._delivery_timeout_ms,
                    "request.timeout.ms": min(REQUEST_TIMEOUT_MS, self._delivery_timeout_ms),
                }
                self._producer = Sender(Producer(self._connection | own), self._delivery_timeout_ms)
            return self._producer

    def _group_client(self, topic: str, group: str) -> ConfluentGroupClient:
        settings = {
            "group.id": self._name(group),
            "auto.offset.reset": "error",
            "session.timeout.ms": SESSION_TIMEOUT_MS,
            "heartbeat.interval.ms": HEARTBEAT_MS,
        }
        with ours(topic):
            return ConfluentGroupClient(self._new_consumer(settings), topic, self._name(topic))

    def _new_consumer(self, settings: Mapping[str, Any]) -> Consumer:
        self._knock()
        own = {
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "check.crcs": True,
            "fetch.wait.max.ms": FETCH_WAIT_MS,
            "fetch.error.backoff.ms": 100,
            # With its queue full the client would wait a second before it fetches on.
            "fetch.queue.backoff.ms": 10,
        }
        return Consumer(self._connection | own | dict(settings))


class Sender:
    """A producer and the thread that hears its acknowledgements."""

    def __init__(self, producer: Producer, delivery_timeout_ms: int) -> None:
        self._producer, self._timeout_s = producer, (delivery_timeout_ms + REQUEST_TIMEOUT_MS) / 1000
        self.is_broken = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._hear, name="acknowledgements", daemon=True)
        self._thread.start()

    def send(self, name: str, entries: Sequence[Entry], numbers: Sequence[int]) -> list[Position | LogUnavailable]:
        """Each entry to its partition; returns when all are stored or given up."""
        results: list[Position | LogUnavailable] = [LogUnavailable("no acknowledgement")] * len(entries)
        heard: list[int] = []
        expected, all_heard = len(entries) + 1, threading.Event()

        def hear(place: int, error: KafkaError | None, message: Message) -> None:
            self.is_broken |= error is not None and error.fatal()
            results[place] = LogUnavailable(str(error)) if error else Position(numbers[place], message.offset() or 0)
            heard.append(place)
            if len(heard) >= expected:
                all_heard.set()

        sent = 0
        try:
            for entry, number in zip(entries, numbers, strict=True):
                self._produce(name, entry, number, partial(hear, sent))
                sent += 1
        except LogUnavailable as error:
            # Nobody tries the rest: each would wait as long as this one did.
            results[sent:] = [error] * (len(entries) - sent)
        expected = sent
        if len(heard) < expected:
            all_heard.wait(self._timeout_s)  # the producer ends every wait by itself
        return results

    def close(self) -> None:
        self._is_closing = True
        self._thread.join()
        self._producer.close()

    def _produce(
        self, name: str, entry: Entry, number: int, hear: Callable[[KafkaError | None, Message], None]
    ) -> None:
        value = entry.value or None

        def ready() -> None:
            self._producer.produce(name, value, entry.key, number, on_delivery=hear, timestamp=entry.time_ms)

        try:
            ready()
        except BufferError:
            _patiently(ready, lambda error: isinstance(error, BufferError), CONNECT_TIMEOUT_MS)
        except KafkaException as error:
            if code_of(error) != KafkaError._UNKNOWN_PARTITION:
                raise
            self._producer.list_topics(name, timeout=CONNECT_TIMEOUT_MS / 1000)  # it learns of new partitions here
            ready()

    def _hear(self) -> None:
        while not self._is_closing:
            self._producer.poll(SERVE_S)


def _results(asked: Mapping[K, Any]) -> dict[K, Any]:
    return {at: answer.result() for at, answer in asked.items()}


def _patiently(ask: Callable[[], R], is_passing: Callable[[Exception], bool], timeout_ms: float) -> R:
    """The answer, asked again for a while where the error passes; then the error."""
    deadline = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            return ask()
        except Exception as error:
            if not is_passing(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)

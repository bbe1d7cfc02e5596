"""What is particular to Kafka, and which log an address means."""

from __future__ import annotations

import threading
import time

import pytest

from stream.backends import open_log
from stream.kafka_log import KafkaLog
from stream.log import Entry, LogUnavailable, Position
from stream.redis_log import RedisLog
from tests.servers import KafkaServer, free_ports


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("kafka://localhost:9092", KafkaLog),
        ("kafka://one:9092,two:9092?replication=3", KafkaLog),
        ("redis://localhost:6379/0", RedisLog),
        ("rediss://user:secret@cache.example:6380/2", RedisLog),
        ("unix:///run/valkey.sock", RedisLog),
    ],
)
def test_the_scheme_of_an_address_chooses_the_log(address: str, kind: type) -> None:
    log = open_log(address, "shop")
    assert type(log) is kind
    log.close()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost:9092",
        "http://localhost:9092",
        "kafka://",
        "kafka://localhost",
        "kafka://localhost:kafka",
        "kafka://localhost:99999",
        "kafka://one:9092,two",
        "kafka://user:secret@one:9092",
        "kafka://one:9092/events",
        "kafka://one:9092?replication=0",
        "kafka://one:9092?replication=",
        "kafka://one:9092?acks=1",
        "redis://localhost:port/0",
    ],
)
def test_an_address_that_means_no_log_is_refused_by_name(address: str) -> None:
    with pytest.raises(ValueError, match="log address") as refused:
        open_log(address, "shop")
    assert repr(address) in str(refused.value)


def test_a_broker_that_is_not_there_is_unavailable_at_once_and_asking_leaves_nothing_behind(namespace: str) -> None:
    log = KafkaLog([f"127.0.0.1:{free_ports(1)[0]}"], namespace)
    started, threads = time.monotonic(), threading.active_count()
    for _ in range(3):
        with pytest.raises(LogUnavailable, match="no broker listens"):
            log.ping()
    assert time.monotonic() - started < 5
    assert threading.active_count() <= threads
    log.close()


@pytest.mark.kafka
def test_many_threads_append_through_one_log_and_every_entry_has_its_own_place(
    kafka_bootstrap: str, namespace: str
) -> None:
    log = KafkaLog([kafka_bootstrap], namespace)
    log.create_topic("events", 2)
    places: list[Position | LogUnavailable] = []

    def append(thread: int) -> None:
        for n in range(50):
            places.extend(log.append("events", [Entry(b"user-%d" % n, b"%d" % thread, n)]))

    threads = [threading.Thread(target=append, args=(thread,)) for thread in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(set(places)) == 400
    assert sum(log.end_offsets("events").values()) == 400
    log.close()


@pytest.mark.kafka
def test_a_replayed_past_is_not_deleted_for_its_age(kafka_server: KafkaServer, namespace: str) -> None:
    log = KafkaLog([kafka_server.bootstrap], namespace)
    log.create_topic("events", 1)
    log.append("events", [Entry(b"ana", b"long ago", 1_500_000_000_000)])
    time.sleep(2.0)  # this broker looks for what is too old twice a second
    assert log.start_offsets("events") == {0: 0}
    assert [record.value for record in log.read("events", 0, 0, 1)] == [b"long ago"]
    log.close()


@pytest.mark.kafka
def test_a_killed_broker_makes_the_log_unavailable_and_everything_goes_on_when_it_is_back(
    kafka_server: KafkaServer, namespace: str
) -> None:
    log = KafkaLog([kafka_server.bootstrap], namespace)
    log.create_topic("events", 1)
    reader = log.reader("events", "g")
    assert log.append("events", [Entry(b"ana", b"before", 1)]) == [Position(0, 0)]
    (batch,) = reader.poll(max_records=10, timeout_s=10.0)
    reader.commit({0: batch.next_offset})

    kafka_server.kill()
    with pytest.raises(LogUnavailable):
        log.end_offsets("events")
    with pytest.raises(LogUnavailable):
        reader.commit({0: 1})
    assert reader.poll(max_records=10, timeout_s=0.5) == []

    kafka_server.start()
    (stored,) = log.append("events", [Entry(b"ana", b"after", 2)])
    assert stored == Position(0, 1)
    read: list[bytes] = []
    deadline = time.monotonic() + 20
    while not read and time.monotonic() < deadline:
        for again in reader.poll(max_records=10, timeout_s=0.5):
            read += [record.value for record in again.records]
            reader.commit({0: again.next_offset})
    assert read == [b"after"]
    assert log.committed("events", "g") == {0: 2}
    reader.close()
    log.close()


@pytest.mark.kafka
def test_entries_a_killed_broker_did_not_take_are_unavailable_and_can_be_sent_again(
    kafka_server: KafkaServer, namespace: str
) -> None:
    log = KafkaLog([kafka_server.bootstrap], namespace, delivery_timeout_s=3.0)
    log.create_topic("events", 1)
    log.append("events", [Entry(b"ana", b"before", 1)])
    kafka_server.kill()
    lost = log.append("events", [Entry(b"ana", b"lost", 2), Entry(b"ana", b"lost too", 3)])
    assert [type(result) for result in lost] == [LogUnavailable, LogUnavailable]
    kafka_server.start()
    assert log.append("events", [Entry(b"ana", b"again", 4)]) == [Position(0, 1)]
    log.close()

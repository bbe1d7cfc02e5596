"""What is particular to Kafka, by either client, and which log an address means."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from kafka import KafkaAdminClient, TopicPartition

from ledstream import parts
from ledstream.settings import SettingsError, read_settings
from stream.backends import open_log
from stream.confluent_log import ConfluentLog
from stream.kafka_base import KafkaBase
from stream.kafka_log import KafkaLog
from stream.log import Entry, Log, LogUnavailable, LogWentBack, Position, Reader, UnknownTopic, partition_of
from stream.redis_log import RedisLog
from tests.servers import KafkaServer, free_ports

R = TypeVar("R")
MakeLog = Callable[..., KafkaBase]
SOON_S = 20.0


@pytest.fixture(params=[KafkaLog, ConfluentLog], ids=["kafka-python", "confluent"])
def make_log(request: pytest.FixtureRequest, namespace: str) -> Iterator[MakeLog]:
    """Makes logs at an address, and closes them."""
    made: list[KafkaBase] = []

    def log(address: str, **options: Any) -> KafkaBase:
        made.append(request.param([address], namespace, **options))
        return made[-1]

    yield log
    for one in made:
        one.close()


@pytest.fixture
def administrator(kafka_bootstrap: str) -> Iterator[Any]:
    """Does to topics what nobody asked us about; their names are the brokers' own."""
    client: Any = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    yield client
    client.close()


def numbered(how_many: int, *, first: int = 0) -> list[Entry]:
    return [Entry(b"user-%d" % n, b"%d" % n, 1_700_000_000_000 + n) for n in range(first, first + how_many)]


def read(reader: Reader, how_many: int, *, within_s: float = SOON_S) -> list[bytes]:
    """Values, committed as they are read; polls once more even for none, and however long it takes up to within_s."""
    values: list[bytes] = []
    deadline = time.monotonic() + within_s
    while len(values) < how_many and time.monotonic() < deadline:
        for batch in reader.poll(max_records=1000, timeout_s=0.3):
            values += batch.values
            reader.commit({batch.partition: batch.next_offset})
    assert len(values) == how_many
    return values


def poll_until_it_raises(reader: Reader, *, within_s: float = SOON_S) -> list[bytes]:
    """What was handed out meanwhile; the error comes through, unless it says that the broker is not back yet."""
    values: list[bytes] = []
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with suppress(LogUnavailable):
            for batch in reader.poll(max_records=1000, timeout_s=0.3):
                values += batch.values
    return values


def once_it_answers(ask: Callable[[], R]) -> R:
    """The answer of a log whose broker has just come back."""
    deadline = time.monotonic() + SOON_S
    while True:
        try:
            return ask()
        except LogUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def make_again(administrator: Any, log: Log, name: str, *, entries: int) -> None:
    """Delete the topic "events" of one partition, make another one of that name, and fill it."""
    old = log.identity("events")
    administrator.delete_topics([name])
    deadline = time.monotonic() + SOON_S
    while True:
        try:
            log.create_topic("events", 1)
            if log.identity("events") != old:
                break
        except (UnknownTopic, LogUnavailable):
            pass
        assert time.monotonic() < deadline
    sent: list[Entry] = numbered(entries, first=1000)
    while sent and isinstance(log.append("events", sent[-1:])[0], LogUnavailable):
        assert time.monotonic() < deadline
    log.append("events", sent[:-1])


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


def test_the_setting_chooses_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = open_log("kafka://localhost:9092", "shop", kafka_client="confluent")
    assert type(chosen) is ConfluentLog
    chosen.close()
    monkeypatch.delitem(sys.modules, "stream.confluent_log")
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    address, store = "kafka://localhost:9092", "redis://localhost:6379/0"
    settings = read_settings({}, {"log": address, "store": store, "kafka_client": "confluent"})
    with pytest.raises(SettingsError, match=r"LEDSTREAM_KAFKA_CLIENT = 'confluent'.*extra `confluent`"):
        parts.open_log(settings)


def test_a_broker_that_is_not_there_is_unavailable_at_once_and_asking_leaves_nothing_behind(make_log: MakeLog) -> None:
    log = make_log(f"127.0.0.1:{free_ports(1)[0]}")
    started, threads = time.monotonic(), threading.active_count()
    for _ in range(3):
        with pytest.raises(LogUnavailable, match="no broker listens"):
            log.ping()
    assert time.monotonic() - started < 5
    assert threading.active_count() <= threads


@pytest.mark.kafka
def test_both_clients_know_a_topic_by_the_same_number_and_share_a_group(kafka_bootstrap: str, namespace: str) -> None:
    one, other = KafkaLog([kafka_bootstrap], namespace), ConfluentLog([kafka_bootstrap], namespace)
    one.create_topic("events", 2)
    assert one.identity("events") == other.identity("events")
    one.append("events", numbered(50))
    other.append("events", numbered(50, first=50))
    first = one.reader("events", "g")
    values = read(first, 100)
    first.close()
    assert one.committed("events", "g") == other.committed("events", "g") == one.end_offsets("events")
    other.append("events", numbered(10, first=100))
    second = other.reader("events", "g")
    assert sorted(values + read(second, 10)) == sorted(entry.value for entry in numbered(110))
    for thing in (second, one, other):
        thing.close()


@pytest.mark.kafka
def test_many_threads_append_through_one_log_and_every_entry_has_its_own_place(
    kafka_bootstrap: str, make_log: MakeLog
) -> None:
    log = make_log(kafka_bootstrap)
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


@pytest.mark.kafka
def test_a_replayed_past_is_not_deleted_for_its_age(kafka_server: KafkaServer, make_log: MakeLog) -> None:
    log = make_log(kafka_server.bootstrap)
    log.create_topic("events", 1)
    log.append("events", [Entry(b"ana", b"long ago", 1_500_000_000_000)])
    time.sleep(2.0)  # this broker looks for what is too old twice a second
    assert log.start_offsets("events") == {0: 0}
    assert [record.value for record in log.read("events", 0, 0, 1)] == [b"long ago"]


@pytest.mark.kafka
def test_a_killed_broker_makes_the_log_unavailable_and_everything_goes_on_when_it_is_back(
    kafka_server: KafkaServer, make_log: MakeLog
) -> None:
    log = make_log(kafka_server.bootstrap)
    log.create_topic("events", 1)
    reader = log.reader("events", "g")
    assert log.append("events", [Entry(b"ana", b"before", 1)]) == [Position(0, 0)]
    assert read(reader, 1) == [b"before"]

    kafka_server.kill()
    with pytest.raises(LogUnavailable):
        log.end_offsets("events")
    with pytest.raises(LogUnavailable):
        reader.commit({0: 1})
    assert reader.poll(max_records=10, timeout_s=0.5) == []

    kafka_server.start()
    (stored,) = log.append("events", [Entry(b"ana", b"after", 2)])
    assert stored == Position(0, 1)
    values: list[bytes] = []
    deadline = time.monotonic() + SOON_S
    while log.committed("events", "g") != {0: 2} and time.monotonic() < deadline:
        try:
            values += read(reader, 1)
        except LogUnavailable:
            continue
    assert set(values) == {b"after"}
    assert log.committed("events", "g") == {0: 2}
    reader.close()


@pytest.mark.kafka
def test_entries_a_killed_broker_did_not_take_are_unavailable_and_can_be_sent_again(
    kafka_server: KafkaServer, make_log: MakeLog
) -> None:
    log = make_log(kafka_server.bootstrap, delivery_timeout_s=3.0, metadata_max_age_s=1.0)
    log.create_topic("events", 1)
    log.append("events", [Entry(b"ana", b"before", 1)])
    kafka_server.kill()
    time.sleep(1.0)  # it is time to ask how many partitions there are, and nobody answers
    lost = log.append("events", [Entry(b"ana", b"lost", 2), Entry(b"ana", b"lost too", 3)])
    assert [type(result) for result in lost] == [LogUnavailable, LogUnavailable]
    kafka_server.start()
    assert log.append("events", [Entry(b"ana", b"again", 4)]) == [Position(0, 1)]


@pytest.mark.kafka
def test_a_reader_whose_client_stalls_makes_itself_a_new_one_and_loses_nothing(
    kafka_bootstrap: str, make_log: MakeLog
) -> None:
    log = make_log(kafka_bootstrap, stalled_after_s=2.0)
    log.create_topic("events", 2)
    reader = log.reader("events", "g")
    log.append("events", numbered(50))
    values = read(reader, 50)
    client = reader._client._consumer  # type: ignore[attr-defined]
    client.pause(*client.assignment()) if isinstance(log, KafkaLog) else client.pause(client.assignment())
    for _ in range(10):  # with nothing to read, silence is no stall
        assert reader.poll(max_records=100, timeout_s=0.3) == []
    assert reader.remade() == 0
    log.append("events", numbered(50, first=50))
    assert sum(reader.lag().values()) == 50
    values += read(reader, 50)
    assert sorted(values) == sorted(entry.value for entry in numbered(100))
    assert reader.remade() == 1
    reader.close()


@pytest.mark.kafka
@pytest.mark.parametrize("refilled", [0, 5, 30])
def test_another_topic_under_the_same_name_is_noticed_before_any_of_its_records_is_read(
    kafka_bootstrap: str, make_log: MakeLog, administrator: Any, refilled: int
) -> None:
    log, other = make_log(kafka_bootstrap, stalled_after_s=2.0), make_log(kafka_bootstrap)
    log.create_topic("events", 1)
    log.append("events", numbered(20))
    reader = log.reader("events", "g")
    assert len(read(reader, 20)) == 20
    make_again(administrator, other, log._name("events"), entries=refilled)
    with pytest.raises(UnknownTopic, match=r"begin anew|does not exist"):
        assert poll_until_it_raises(reader) == []
    with pytest.raises(UnknownTopic):
        reader.commit({0: 20})
    assert log.committed("events", "g") == {}
    reader.close()
    anew = log.reader("events", "g")
    assert len(read(anew, refilled)) == refilled
    anew.close()


@pytest.mark.kafka
def test_records_deleted_unread_are_counted_and_reading_goes_on_behind_them(
    kafka_bootstrap: str, make_log: MakeLog, administrator: Any
) -> None:
    log = make_log(kafka_bootstrap)
    log.create_topic("events", 1)
    log.append("events", numbered(10))
    reader = log.reader("events", "g")
    assert len(read(reader, 10)) == 10
    reader.close()
    log.append("events", numbered(30, first=10))
    administrator.delete_records({TopicPartition(log._name("events"), 0): 25})
    late = log.reader("events", "g")
    assert read(late, 15) == [b"%d" % n for n in range(25, 40)]
    assert late.lost() == 15
    late.close()
    new = log.reader("events", "another group")
    assert read(new, 15) == [b"%d" % n for n in range(25, 40)]
    assert new.lost() == 0, "what was deleted before the group came it never had to read"
    new.close()


@pytest.mark.kafka
@pytest.mark.parametrize("refilled", [0, 5, 30])
@pytest.mark.parametrize("is_running", [True, False], ids=["running", "started later"])
def test_a_log_that_lost_records_which_were_read_stops_its_readers(
    kafka_server: KafkaServer, make_log: MakeLog, refilled: int, is_running: bool
) -> None:
    log = make_log(kafka_server.bootstrap)
    log.create_topic("events", 1)
    log.append("events", numbered(20))
    reader = log.reader("events", "g")
    assert len(read(reader, 20)) == 20
    if not is_running:
        reader.close()
    kafka_server.kill()
    kafka_server.forget(log._name("events"), 0)
    kafka_server.start()
    if refilled:
        log.append("events", numbered(refilled, first=1000))
    if not is_running:
        reader = once_it_answers(lambda: log.reader("events", "g"))
    with pytest.raises(LogWentBack, match=r"events, partition 0: next record is 20, the log ends at"):
        assert poll_until_it_raises(reader) == []
    with pytest.raises(LogWentBack):
        reader.poll(max_records=10, timeout_s=0.1)
    reader.seek(0, 0)
    assert read(reader, refilled) == [b"%d" % n for n in range(1000, 1000 + refilled)]
    reader.close()


@pytest.mark.kafka
def test_partitions_added_to_a_topic_are_written_to_and_read_by_what_is_running(
    kafka_bootstrap: str, make_log: MakeLog, administrator: Any
) -> None:
    log = make_log(kafka_bootstrap, metadata_max_age_s=2.0)
    log.create_topic("events", 2)
    reader = log.reader("events", "g")
    log.append("events", numbered(40))
    values = read(reader, 40)
    administrator.create_partitions({log._name("events"): 4})
    deadline = time.monotonic() + SOON_S
    sent = 40
    while {number for number, end in log.end_offsets("events").items() if end} != {0, 1, 2, 3}:
        assert time.monotonic() < deadline
        (stored,) = log.append("events", numbered(1, first=sent))
        assert isinstance(stored, Position)
        sent += 1
        time.sleep(0.1)
    values += read(reader, sent - 40)
    assert reader.assignment() == frozenset(range(4))
    assert sorted(values) == sorted(entry.value for entry in numbered(sent))
    (late,) = log.append("events", numbered(1, first=sent))
    assert isinstance(late, Position)
    assert late.partition == partition_of(b"user-%d" % sent, 4)
    assert sum(reader.lag().values()) == 1
    reader.close()

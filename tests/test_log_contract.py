"""What `stream.log.Log` promises, kept by every backend: memory, Redis Streams on Valkey and on Redis, Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from store.connection import connect
from stream.confluent_log import ConfluentLog
from stream.kafka_log import KafkaLog
from stream.log import Entry, Log, LogUnavailable, Position, Reader, Record, UnknownTopic, partition_of
from stream.memory_log import MemoryLog
from stream.redis_log import RedisLog

PARTITIONS = 4
BACKENDS = [
    *("memory", "valkey", "redis"),
    pytest.param("kafka", marks=pytest.mark.kafka),
    pytest.param("confluent", marks=pytest.mark.kafka),
]


@pytest.fixture(params=BACKENDS)
def log(request: pytest.FixtureRequest, namespace: str) -> Iterator[Log]:
    """An empty log with the topic "events" of four partitions."""
    made: Log
    if request.param == "memory":
        made = MemoryLog()
    elif request.param in ("kafka", "confluent"):
        kind = KafkaLog if request.param == "kafka" else ConfluentLog
        made = kind([request.getfixturevalue("kafka_bootstrap")], namespace)
    else:
        server = "redis_address" if request.param == "valkey" else "original_redis_address"
        made = RedisLog(connect(request.getfixturevalue(server)), namespace)
    made.create_topic("events", PARTITIONS)
    yield made
    made.close()


@pytest.fixture
def join(log: Log) -> Iterator[Callable[[str], Reader]]:
    """Makes readers of "events", by group, and closes them."""
    joined: list[Reader] = []

    def reader(group: str = "g") -> Reader:
        joined.append(log.reader("events", group))
        return joined[-1]

    yield reader
    for one in joined:
        one.close()


def entries(how_many: int, *, keys: int = 20, first: int = 0) -> list[Entry]:
    numbers = range(first, first + how_many)
    return [Entry(b"user-%d" % (n % keys), b"event-%d" % n, 1_700_000_000_000 + n) for n in numbers]


def stored(results: Sequence[Position | LogUnavailable]) -> list[Position]:
    for result in results:
        assert isinstance(result, Position), result
    return [result for result in results if isinstance(result, Position)]


def take(reader: Reader, how_many: int, *, within_s: float = 15.0) -> list[tuple[int, Record]]:
    """Records with their partitions, as polled, until there are how_many."""
    taken: list[tuple[int, Record]] = []
    deadline = time.monotonic() + within_s
    while len(taken) < how_many and time.monotonic() < deadline:
        for batch in reader.poll(max_records=how_many - len(taken), timeout_s=0.5):
            taken += [(batch.partition, record) for record in batch.records]
    assert len(taken) == how_many
    return taken


def values(taken: Sequence[tuple[int, Record]]) -> list[bytes]:
    return sorted(record.value for _, record in taken)


def share_out(readers: Sequence[Reader], *, within_s: float = 15.0) -> list[tuple[int, Record]]:
    """Polls, as members do: all at once, and commits until they hold all partitions; what was read meanwhile."""
    taken: list[tuple[int, Record]] = []
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with ThreadPoolExecutor(len(readers)) as threads:
            polls = list(threads.map(lambda reader: reader.poll(max_records=1000, timeout_s=0.1), readers))
        for reader, batches in zip(readers, polls, strict=True):
            for batch in batches:
                taken += [(batch.partition, record) for record in batch.records]
                reader.commit({batch.partition: batch.next_offset})
        held = sorted(number for reader in readers for number in reader.assignment())
        if held == list(range(PARTITIONS)) and all(reader.assignment() for reader in readers):
            return taken
    pytest.fail(f"after {within_s} s the readers hold {[sorted(reader.assignment()) for reader in readers]}")


def test_entries_of_a_key_stay_in_order_in_the_partition_every_producer_agrees_on(
    log: Log, join: Callable[..., Reader]
) -> None:
    sent = entries(200)
    positions = stored(log.append("events", sent))
    assert [at.partition for at in positions] == [partition_of(entry.key, PARTITIONS) for entry in sent]
    taken = take(join(), 200)
    for key in {entry.key for entry in sent}:
        assert [r.value for _, r in taken if r.key == key] == [entry.value for entry in sent if entry.key == key]
    found = {(number, record.offset): record for number, record in taken}
    assert all(
        found[at][1:] == (entry.time_ms, entry.key, entry.value) for at, entry in zip(positions, sent, strict=True)
    )


def test_poll_gives_consecutive_records_once_and_no_more_than_asked_for(log: Log, join: Callable[..., Reader]) -> None:
    log.append("events", entries(100))
    reader = join()
    expected = dict.fromkeys(range(PARTITIONS), 0)
    read = 0
    for _ in range(200):
        batches = reader.poll(max_records=7, timeout_s=0.2)
        assert len({batch.partition for batch in batches}) == len(batches)
        assert sum(len(batch.records) for batch in batches) <= 7
        for batch in batches:
            offsets = [record.offset for record in batch.records]
            assert offsets == list(range(expected[batch.partition], batch.next_offset))
            expected[batch.partition] = batch.next_offset
            read += len(offsets)
        if read == 100 and not batches:
            break
    assert read == 100
    assert expected == log.end_offsets("events") == reader.positions()


def test_an_empty_poll_answers_with_nothing_when_its_time_is_over(join: Callable[..., Reader]) -> None:
    reader = join()
    share_out([reader])
    started = time.monotonic()
    assert reader.poll(max_records=10, timeout_s=0.3) == []
    assert 0.2 < time.monotonic() - started < 2.0
    started = time.monotonic()
    assert reader.poll(max_records=10, timeout_s=0.0) == []
    assert time.monotonic() - started < 1.0


def test_a_new_reader_goes_on_where_the_group_committed(log: Log, join: Callable[..., Reader]) -> None:
    log.append("events", entries(60))
    first = join()
    read = take(first, 60)
    first.commit(first.positions())
    assert log.committed("events", "g") == log.end_offsets("events")
    first.close()
    log.append("events", entries(40, first=60))
    assert values(read + take(join(), 40)) == sorted(entry.value for entry in entries(100))


def test_what_was_read_but_not_committed_is_read_again(log: Log, join: Callable[..., Reader]) -> None:
    log.append("events", entries(50))
    first = join()
    taken = take(first, 50)
    first.close()
    assert log.committed("events", "g") == {}
    assert values(take(join(), 50)) == values(taken)


def test_groups_do_not_disturb_each_other(log: Log, join: Callable[..., Reader]) -> None:
    log.append("events", entries(30))
    first = join("one")
    take(first, 30)
    first.commit(first.positions())
    assert len(take(join("other"), 30)) == 30
    assert log.committed("events", "other") == {}


def test_seek_reads_again_from_there_and_a_commit_there_holds(log: Log, join: Callable[..., Reader]) -> None:
    log.append("events", entries(100))
    reader = join()
    take(reader, 100)
    reader.commit(reader.positions())
    end = log.end_offsets("events")[2]
    reader.seek(2, end - 3)
    reader.commit({2: end - 3})
    assert reader.positions()[2] == end - 3
    assert log.committed("events", "g")[2] == end - 3
    assert [(number, record.offset) for number, record in take(reader, 3)] == [(2, end - 3), (2, end - 2), (2, end - 1)]


def test_seeking_in_a_partition_that_is_not_assigned_is_a_mistake(join: Callable[..., Reader]) -> None:
    reader = join()
    share_out([reader])
    with pytest.raises(ValueError, match="partition 99"):
        reader.seek(99, 0)


def test_offsets_and_lag_count_the_records(log: Log, join: Callable[..., Reader]) -> None:
    nothing = dict.fromkeys(range(PARTITIONS), 0)
    assert log.start_offsets("events") == log.end_offsets("events") == nothing
    log.append("events", entries(80))
    reader = join()
    taken = take(reader, 50)
    assert sum(log.end_offsets("events").values()) == 80
    assert log.start_offsets("events") == nothing
    lag = reader.lag()
    assert sum(lag.values()) == 30
    assert lag == {n: end - sum(number == n for number, _ in taken) for n, end in log.end_offsets("events").items()}


def test_reading_without_a_group_starts_anywhere(log: Log) -> None:
    log.append("events", entries(80, keys=1))
    number = partition_of(b"user-0", PARTITIONS)
    assert [r.value for r in log.read("events", number, 0, 3)] == [b"event-0", b"event-1", b"event-2"]
    assert [r.offset for r in log.read("events", number, 77, 100)] == [77, 78, 79]
    assert log.read("events", number, 80, 100) == []
    assert log.read("events", (number + 1) % PARTITIONS, 0, 100) == []


def test_two_readers_share_the_partitions_and_give_no_record_twice(log: Log, join: Callable[..., Reader]) -> None:
    log.append("events", entries(200))
    first = join()
    before = take(first, 200)
    first.commit(first.positions())
    readers = [first, join()]
    assert share_out(readers) == []
    assert sorted(len(reader.assignment()) for reader in readers) == [2, 2]
    log.append("events", entries(200, first=200))
    after: list[tuple[int, Record]] = []
    deadline = time.monotonic() + 15
    while len(after) < 200 and time.monotonic() < deadline:
        for reader in readers:
            for batch in reader.poll(max_records=50, timeout_s=0.1):
                assert batch.partition in reader.assignment()
                after += [(batch.partition, record) for record in batch.records]
                reader.commit({batch.partition: batch.next_offset})
    assert values(before + after) == sorted(entry.value for entry in entries(400))
    assert log.committed("events", "g") == log.end_offsets("events")


def test_a_reader_that_leaves_hands_over_promptly_and_what_it_did_not_commit(
    log: Log, join: Callable[..., Reader]
) -> None:
    staying, leaving = join(), join()
    share_out([staying, leaving])
    log.append("events", entries(100))
    taken = leaving.poll(max_records=1000, timeout_s=5.0)
    assert taken
    leaving.close()
    assert leaving.assignment() == frozenset()
    left_at = time.monotonic()
    assert values(take(staying, 100)) == sorted(entry.value for entry in entries(100))
    assert staying.assignment() == frozenset(range(PARTITIONS))
    assert time.monotonic() - left_at < 6.0


def test_a_commit_for_partitions_of_another_reader_is_left_to_that_reader(
    log: Log, join: Callable[..., Reader]
) -> None:
    log.append("events", entries(40))
    readers = [join(), join()]
    share_out(readers)
    take_back = log.committed("events", "g")
    readers[0].commit(dict.fromkeys(readers[1].assignment(), 0))
    assert log.committed("events", "g") == take_back


def test_keep_alive_keeps_the_partitions_and_reads_nothing(log: Log, join: Callable[..., Reader]) -> None:
    waiting, busy = join(), join()
    share_out([waiting, busy])
    held = waiting.assignment()
    log.append("events", entries(100))
    expected = sum(partition_of(entry.key, PARTITIONS) in held for entry in entries(100))
    for _ in range(10):
        waiting.keep_alive()
        busy.poll(max_records=1000, timeout_s=0.1)
    assert waiting.assignment() == held
    assert {number for number, _ in take(waiting, expected)} <= held


def test_a_topic_keeps_its_number_and_another_topic_has_another(log: Log) -> None:
    number = log.identity("events")
    assert 0 <= number < 1 << 64
    log.create_topic("events", 9)
    log.create_topic("other", 2)
    assert log.identity("events") == number != log.identity("other")
    assert (log.partitions("events"), log.partitions("other")) == (PARTITIONS, 2)


def test_creating_a_topic_again_keeps_its_records(log: Log) -> None:
    log.append("events", entries(10))
    log.create_topic("events", PARTITIONS)
    assert sum(log.end_offsets("events").values()) == 10


@pytest.mark.parametrize(
    "use",
    [
        lambda log: log.partitions("nowhere"),
        lambda log: log.identity("nowhere"),
        lambda log: log.append("nowhere", entries(1)),
        lambda log: log.start_offsets("nowhere"),
        lambda log: log.end_offsets("nowhere"),
        lambda log: log.read("nowhere", 0, 0, 1),
        lambda log: log.committed("nowhere", "g"),
        lambda log: log.reader("nowhere", "g"),
    ],
    ids=["partitions", "identity", "append", "start_offsets", "end_offsets", "read", "committed", "reader"],
)
def test_a_topic_nobody_made_is_unknown(log: Log, use: Callable[[Log], object]) -> None:
    with pytest.raises(UnknownTopic, match="nowhere"):
        use(log)


def test_ten_thousand_entries_in_one_call_all_come_back(log: Log, join: Callable[..., Reader]) -> None:
    sent = entries(10_000, keys=500)
    assert len(stored(log.append("events", sent))) == 10_000
    assert log.append("events", []) == []
    assert values(take(join(), 10_000)) == sorted(entry.value for entry in sent)


def test_a_log_that_is_there_answers(log: Log) -> None:
    log.ping()

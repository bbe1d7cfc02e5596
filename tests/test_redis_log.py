"""What is particular to the log on Redis Streams: trimming, leases, a server that goes away."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from store.connection import Client, connect
from store.embedded import EmbeddedStore
from stream.backends import open_log
from stream.log import Entry, LogUnavailable, LogWentBack, Position, Reader, UnknownTopic
from stream.redis_log import RENEW_EVERY_S, RedisLog
from stream.topics import DEAD_LETTERS, KEPT_RECORDS


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedStore]:
    """A Valkey that the test may kill."""
    with EmbeddedStore(tmp_path) as store:
        yield store


def kill(server: EmbeddedStore) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    while server.is_alive():
        time.sleep(0.01)


def entries(how_many: int) -> list[Entry]:
    return [Entry(b"ana", b"event-%d" % n, n) for n in range(how_many)]


def drain(reader: Reader) -> list[int]:
    """Offsets of all there is, committed as they are read."""
    offsets: list[int] = []
    while batches := reader.poll(max_records=100, timeout_s=0.05):
        for batch in batches:
            offsets += [record.offset for record in batch.records]
            reader.commit({batch.partition: batch.next_offset})
    return offsets


def test_what_all_groups_committed_is_trimmed_but_for_the_newest(redis_client: Client, namespace: str) -> None:
    log = RedisLog(redis_client, namespace, retain_records=200)
    log.create_topic("events", 1)
    reader = log.reader("events", "g")
    log.append("events", entries(1000))
    assert drain(reader) == list(range(1000))
    start = log.start_offsets("events")[0]
    assert 500 <= start <= 800  # whole nodes of the stream go, a hundred records each
    assert log.end_offsets("events") == {0: 1000}
    assert [record.offset for record in log.read("events", 0, 0, 2)] == [start, start + 1]


def test_nothing_is_trimmed_that_a_known_group_has_not_committed(redis_client: Client, namespace: str) -> None:
    log = RedisLog(redis_client, namespace, retain_records=0)
    log.create_topic("events", 1)
    fast, slow = log.reader("events", "fast"), log.reader("events", "slow")
    log.append("events", entries(1000))
    drain(fast)
    assert log.start_offsets("events") == {0: 0}
    slow.poll(max_records=500, timeout_s=0.0)
    slow.commit({0: 500})
    assert 300 <= log.start_offsets("events")[0] <= 500
    assert drain(slow) == list(range(500, 1000))


def test_a_group_gone_for_too_long_holds_the_trimming_no_more_and_is_named(
    redis_client: Client, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = RedisLog(redis_client, namespace, retain_records=100, membership_s=0.5, forget_groups_after_s=1.0)
    log.create_topic("events", 1)
    alive, dead = log.reader("events", "alive"), log.reader("events", "dead")
    log.append("events", entries(1000))
    dead.poll(max_records=10, timeout_s=0.0)
    dead.commit({0: 10})
    dead.close()
    drain(alive)
    assert log.start_offsets("events")[0] <= 10, "a group just gone is waited for"
    _poll_for(alive, 1.5)
    log.append("events", entries(100))
    drain(alive)
    assert log.start_offsets("events")[0] > 500
    assert caplog.text.count("group dead had no member for 1 s") == 1

    back = log.reader("events", "dead")
    assert drain(back)[-1] == 1099, "one that comes back goes on with what is there"
    start = log.start_offsets("events")[0]
    back.close()
    log.append("events", entries(1000))
    drain(alive)
    assert log.start_offsets("events")[0] <= start + 100, "and holds the trimming again"


def test_a_group_that_only_waits_for_its_store_holds_the_trimming_however_long(
    redis_client: Client, namespace: str
) -> None:
    log = RedisLog(redis_client, namespace, retain_records=100, membership_s=0.5, forget_groups_after_s=0.6)
    log.create_topic("events", 1)
    alive, waiting = log.reader("events", "alive"), log.reader("events", "waiting")
    log.append("events", entries(1000))
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        waiting.keep_alive()
        alive.poll(max_records=1, timeout_s=0.1)
    alive.seek(0, 0)
    drain(alive)
    assert log.start_offsets("events") == {0: 0}


def test_time_in_which_the_whole_system_was_down_makes_no_group_older(redis_client: Client, namespace: str) -> None:
    log = RedisLog(redis_client, namespace, retain_records=100, membership_s=0.2, forget_groups_after_s=1.0)
    log.create_topic("events", 1)
    for group in ("first", "second"):
        reader = log.reader("events", group)
        log.append("events", entries(500))
        reader.poll(max_records=10, timeout_s=0.0)
        reader.close()
    time.sleep(1.2)
    assert drain(log.reader("events", "first"))[-1] == 999
    assert log.start_offsets("events") == {0: 0}, "the second has not begun yet"


def test_an_address_says_how_long_a_group_may_be_gone(redis_address: str, namespace: str) -> None:
    join = "&" if "?" in redis_address else "?"
    log = open_log(f"{redis_address}{join}forget_groups_after_s=60", namespace)
    assert isinstance(log, RedisLog)
    assert log.forget_groups_after_s == 60
    log.ping()
    log.close()
    for bad in ("0", "-1", "week", ""):
        with pytest.raises(ValueError, match=f"forget_groups_after_s = '{bad}' is not"):
            open_log(f"{redis_address}{join}forget_groups_after_s={bad}", namespace)


def test_letters_nobody_reads_as_a_group_do_not_fill_the_server(redis_client: Client, namespace: str) -> None:
    log = RedisLog(redis_client, namespace)
    log.create_topic(DEAD_LETTERS, 1)
    kept = KEPT_RECORDS[DEAD_LETTERS]
    for _ in range(6):
        log.append(DEAD_LETTERS, entries(kept // 4))
    ends, starts = log.end_offsets(DEAD_LETTERS)[0], log.start_offsets(DEAD_LETTERS)[0]
    assert ends == 6 * (kept // 4)
    assert kept <= ends - starts < kept + 200


def test_a_server_out_of_memory_still_takes_commits_and_makes_room_by_trimming(
    own_server: EmbeddedStore, namespace: str
) -> None:
    with connect(own_server.address) as client:
        log = RedisLog(client, namespace, retain_records=100, membership_s=0.5)
        log.create_topic("events", 1)
        reader = log.reader("events", "g")
        log.append("events", entries(1000))
        reader.poll(max_records=10, timeout_s=0.0)
        client.config_set("maxmemory", "1")
        _poll_for(reader, 1.0)
        assert reader.assignment() == {0}, "it stays a member"
        reader.seek(0, 0)
        assert drain(reader) == list(range(1000))
        assert log.committed("events", "g") == {0: 1000}
        assert log.start_offsets("events")[0] > 500
        again = RedisLog(client, namespace)
        again.create_topic("events", 1)
        assert drain(again.reader("events", "g")) == [], "a process may also start meanwhile"


def _poll_for(reader: Reader, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        reader.poll(max_records=10, timeout_s=0.1)


def test_an_emptied_stream_starts_where_it_ends(redis_client: Client, namespace: str) -> None:
    log = RedisLog(redis_client, namespace)
    log.create_topic("events", 1)
    log.append("events", entries(10))
    redis_client.xtrim(f"{namespace}:log:events:0", maxlen=0)
    assert log.start_offsets("events") == log.end_offsets("events") == {0: 10}
    assert log.append("events", entries(1)) == [Position(0, 10)]
    assert log.reader("events", "g").poll(max_records=10, timeout_s=0.0)[0].records[0].offset == 10


def test_a_reader_whose_position_was_trimmed_away_goes_on_at_the_oldest_record_and_says_so(
    redis_client: Client, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = RedisLog(redis_client, namespace)
    log.create_topic("events", 1)
    log.append("events", entries(10))
    reader = log.reader("events", "g")
    redis_client.xtrim(f"{namespace}:log:events:0", maxlen=4, approximate=False)
    with caplog.at_level(logging.WARNING, "stream.redis_log"):
        assert drain(reader) == [6, 7, 8, 9]
        reader.seek(0, 0)
        assert drain(reader) == [6, 7, 8, 9]
    assert caplog.text.count("were trimmed") == 1
    assert "records 0 to 5 were trimmed before group g read them" in caplog.text
    assert reader.lost() == 6


def test_a_reader_that_dies_in_silence_is_replaced_when_its_membership_runs_out(
    redis_client: Client, namespace: str
) -> None:
    log = RedisLog(redis_client, namespace, membership_s=1.0)
    log.create_topic("events", 2)
    dead, alive = log.reader("events", "g"), log.reader("events", "g")
    for reader in (dead, alive, dead, alive):
        reader.poll(max_records=10, timeout_s=0.3)
    assert (len(dead.assignment()), len(alive.assignment())) == (1, 1)
    deadline = time.monotonic() + 5
    while len(alive.assignment()) < 2 and time.monotonic() < deadline:
        alive.poll(max_records=10, timeout_s=0.1)
    assert alive.assignment() == {0, 1}
    dead.commit({0: 7, 1: 7})
    assert log.committed("events", "g") == {}


def test_a_reader_that_keeps_alive_is_not_replaced(redis_client: Client, namespace: str) -> None:
    log = RedisLog(redis_client, namespace, membership_s=1.0)
    log.create_topic("events", 1)
    waiting, other = log.reader("events", "g"), log.reader("events", "g")
    waiting.poll(max_records=10, timeout_s=0.0)
    deadline = time.monotonic() + 2.0
    held = set(waiting.assignment())
    while time.monotonic() < deadline:
        waiting.keep_alive()
        other.poll(max_records=10, timeout_s=0.1)
        assert waiting.assignment() == held


def test_three_readers_get_shares_that_differ_by_one_at_most(redis_client: Client, namespace: str) -> None:
    log = RedisLog(redis_client, namespace)
    log.create_topic("events", 4)
    readers = [log.reader("events", "g") for _ in range(3)]
    for _ in range(4):
        for reader in readers:
            reader.poll(max_records=10, timeout_s=0.3)
    assert sorted(len(reader.assignment()) for reader in readers) == [1, 1, 2]
    assert frozenset().union(*(reader.assignment() for reader in readers)) == {0, 1, 2, 3}


def test_a_server_that_is_gone_makes_the_log_unavailable_and_nothing_is_lost_when_it_is_back(
    own_server: EmbeddedStore, namespace: str
) -> None:
    log = RedisLog(connect(own_server.address), namespace)
    log.create_topic("events", 1)
    reader = log.reader("events", "g")
    log.append("events", entries(10))
    (batch,) = reader.poll(max_records=5, timeout_s=1.0)
    reader.commit({0: 5})
    time.sleep(1.5)  # the append-only file is synced every second
    kill(own_server)

    results = log.append("events", entries(3))
    assert [type(result) for result in results] == [LogUnavailable] * 3
    for use in (
        log.ping,
        lambda: log.end_offsets("events"),
        lambda: log.identity("events"),
        lambda: reader.poll(max_records=5, timeout_s=0.2),
        lambda: reader.commit({0: 6}),
        reader.keep_alive,
    ):
        with pytest.raises(LogUnavailable):
            use()

    own_server.start()
    assert batch.next_offset == 5
    assert drain(reader) == [5, 6, 7, 8, 9]
    reader.close()
    log.close()


def test_closing_a_reader_while_the_server_is_gone_is_no_error(
    own_server: EmbeddedStore, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = RedisLog(connect(own_server.address), namespace)
    log.create_topic("events", 1)
    reader = log.reader("events", "g")
    kill(own_server)
    reader.close()
    assert "stay taken until its lease ends" in caplog.text
    log.close()


def test_a_full_server_refuses_entries_and_stays_readable(own_server: EmbeddedStore, namespace: str) -> None:
    client = connect(own_server.address)
    log = RedisLog(client, namespace)
    log.create_topic("events", 1)
    log.append("events", entries(5))
    client.config_set("maxmemory", "1")
    refused = log.append("events", entries(2))
    assert all(isinstance(result, LogUnavailable) for result in refused)
    assert len(log.read("events", 0, 0, 10)) == 5
    log.close()


def test_a_reader_of_a_log_that_was_lost_whole_ends_instead_of_skipping_what_is_new(own_server: EmbeddedStore) -> None:
    with connect(own_server.address) as client:
        log = RedisLog(client, "t")
        log.create_topic("events", 1)
        reader = log.reader("events", "g")
        log.append("events", entries(5))
        assert drain(reader) == [0, 1, 2, 3, 4]
        client.flushall()
        time.sleep(RENEW_EVERY_S)
        with pytest.raises(UnknownTopic):
            reader.poll(max_records=10, timeout_s=0)
        log.create_topic("events", 1)
        log.append("events", entries(2))
        with pytest.raises(UnknownTopic, match="begin anew"):
            reader.poll(max_records=10, timeout_s=0)
        reader.commit({0: 5})
        assert log.committed("events", "g") == {}, "the lost log's offsets mean nothing here"
        assert drain(log.reader("events", "g")) == [0, 1]


def test_a_reader_sent_behind_the_end_of_a_restored_log_ends_instead_of_skipping_what_is_new(tmp_path: Path) -> None:
    """As whoever holds the effect of the lost records sends it: the archive, or a store on another server."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    with EmbeddedStore(data) as server, connect(server.address) as client:
        log = RedisLog(client, "t")
        log.create_topic("events", 1)
        log.append("events", entries(5))
        assert drain(log.reader("events", "g")) == [0, 1, 2, 3, 4]
        server.stop()
        shutil.copytree(data, copy)
        server.start()
        log.append("events", entries(3))
        reader = log.reader("events", "h")
        assert drain(reader) == list(range(8))
        server.stop()
        shutil.rmtree(data)
        copy.rename(data)
        server.start()
        client.connection_pool.disconnect()  # connections of the server before tell of it one by one
        with suppress(LogUnavailable, LogWentBack):
            reader.poll(max_records=10, timeout_s=0)
        while not reader.assignment():
            with suppress(LogUnavailable, LogWentBack):
                reader.poll(max_records=10, timeout_s=0)
        reader.seek(0, 8)
        for _ in range(2):
            with pytest.raises(LogWentBack, match="next record is 8, the log ends at 5: begin anew"):
                reader.poll(max_records=10, timeout_s=0)
        reader.seek(0, 5)
        log.append("events", entries(1))
        assert drain(reader)[-1] == 5  # with what the group never committed before it, should the reader begin anew

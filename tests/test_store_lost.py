"""A store that is not what it was: emptied, or an older copy. It says so itself, and is caught up."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.archive import ArchiveConsumer
from consumers.timelines import FEW, TimelineConsumer
from store.archive import Archive
from store.connection import Client, StoreUnavailable, connect
from store.embedded import EmbeddedStore
from store.user_record import source_of
from store.user_state import USERS_PER_CALL, UserStates
from stream.events import encode_event
from stream.log import Entry, LogWentBack, partition_of
from stream.loop import Progress
from stream.redis_log import RedisLog
from stream.topics import EVENTS, topics
from tests.records import lengths
from tests.store_proxy import Command, Cut, StoreProxy
from tests.timeline_world import consumer, forget_all, seen, stretch, viewed
from tests.troubled_log import TroubledLog, consume


def test_a_store_flushed_under_a_running_consumer_is_filled_again_from_the_log(
    log: TroubledLog, states: UserStates, redis_client: Client, namespace: str
) -> None:
    """Users of the other partition, where no events come to show it, included."""
    log.send(viewed("ana", "hat", 1), viewed("kim", "hat", 1))
    assert {partition_of(user.encode(), 2) for user in ("ana", "kim")} == {0, 1}
    handler = consumer(log, states)
    flushed = threading.Event()

    def flush_once(progress: Progress) -> bool:
        if sum(progress.lag.values()) or progress.consumed < 2:
            return False
        if flushed.is_set():
            return states.read(["kim"]) != [None] and progress.consumed > 3
        flushed.set()
        forget_all(redis_client, namespace)
        log.send(viewed("ana", "belt", 2))
        return False

    progress = consume(log, handler, until=flush_once)
    assert seen(states, "ana") == ["hat", "belt"]
    assert seen(states, "kim") == ["hat"]
    assert progress.rewinds == 2
    assert log.committed(EVENTS, "g") == {0: 2, 1: 1}


@pytest.mark.parametrize("after_reads", [1, 2, 3, 4])
def test_a_store_flushed_in_the_middle_of_a_batch_loses_no_event_of_those_not_read_yet(
    redis_client: Client, redis_address: str, namespace: str, after_reads: int
) -> None:
    """Some users were looked up, and when it comes to the others, all of them are gone."""
    log, states = TroubledLog(), UserStates(redis_client, namespace, lengths)
    users = [f"user-{n}" for n in range(4 * USERS_PER_CALL)]
    log.send(*[viewed(user, "hat", 1) for user in users])
    consume(log, consumer(log, states))
    log.send(*[viewed(user, "belt", 2) for user in users])
    reads: list[Command] = []

    def flush_after_some_reads(command: Command) -> None:
        if command.reads(b":u:") or command.writes(b":u:"):
            if len(reads) == after_reads:
                forget_all(redis_client, namespace)
            reads.append(command)

    with StoreProxy(redis_address, flush_after_some_reads) as proxy, connect(proxy.address) as client:
        consume(log, consumer(log, UserStates(client, namespace, lengths)))
    consume(log, consumer(log, states))  # it may have stopped before it could begin anew
    assert [user for user in users if seen(states, user) != ["hat", "belt"]] == []


def test_a_store_restored_from_an_older_copy_catches_up_by_itself(tmp_path: Path, log: TroubledLog) -> None:
    with EmbeddedStore(tmp_path / "data") as server, connect(server.address) as client:
        states = UserStates(client, "ns", lengths)
        handler = consumer(log, states)
        log.send(*[viewed("ana", f"item-{n}", n) for n in range(3)], viewed("kim", "hat", 1))
        consume(log, handler)
        server.stop()
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
        server.start()
        log.send(viewed("ana", "item-3", 3), viewed("kim", "belt", 2), viewed("bob", "hat", 3))
        consume(log, handler)
        assert seen(states, "kim") == ["hat", "belt"]
        restored = threading.Event()

        def restore_once(progress: Progress) -> bool:
            if not restored.is_set():
                restored.set()
                server.stop()
                shutil.rmtree(tmp_path / "data")
                shutil.copytree(tmp_path / "copy", tmp_path / "data")
                server.start()
                log.send(viewed("ana", "item-4", 4))
                return False
            return sum(progress.lag.values()) == 0 and states.read(["bob"]) != [None] and len(seen(states, "kim")) == 2

        consume(log, handler, until=restore_once)
        assert seen(states, "ana") == [f"item-{n}" for n in range(5)]
        assert seen(states, "kim") == ["hat", "belt"]
        assert seen(states, "bob") == ["hat"]


def test_a_store_that_came_back_between_the_records_and_the_position_takes_no_position(tmp_path: Path) -> None:
    """It may have lost the records: its file is synced every second."""
    with EmbeddedStore(tmp_path) as store, connect(store.address) as client:
        states = UserStates(client, "led", lengths)
        assert states.advance(1, None, 0)
        with states.update(1) as update:
            update.ask(states.keys(["ana"]))
            assert (update.records(), update.position) == ([b""], 0)
            update.replace(states.keys(["ana"]), [b""], [b"a record"])
            assert update.refused() == []
            store.stop()
            store.start()
            with pytest.raises(StoreUnavailable):
                update.advance(0, 5)
        assert states.position(1) == 0
        with states.update(1) as update:
            update.ask([])
            update.records()
            assert update.advance(0, 5)
            assert not update.advance(0, 6)
        assert states.position(1) == 5


def test_a_store_emptied_before_the_last_batch_was_stored_is_left_to_whoever_comes_next(
    tmp_path: Path, log: TroubledLog
) -> None:
    with EmbeddedStore(tmp_path / "data") as server, connect(server.address) as client:
        log.send(
            *[viewed("ana", f"item-{n % 20}", n) for n in range(FEW)]
        )  # of fewer it would wait for the store's answers
        states = UserStates(client, "ns", lengths)
        handler = consumer(log, states)
        partition = partition_of(b"ana", 2)
        assert handler.assigned(partition) == 0
        assert handler.handle([stretch(log, partition, 0, FEW)]) == {}
        server.stop()
        shutil.rmtree(tmp_path / "data")
        server.start()
        assert handler.drain() == {}
        assert states.position(source_of(log.identity(EVENTS), partition)) is None
        consume(log, consumer(log, states))
        assert seen(states, "ana") == [f"item-{n % 20}" for n in range(FEW - 5, FEW)]


def test_a_store_that_takes_connections_and_nothing_else_is_left_none_of_them(
    redis_address: str, namespace: str
) -> None:
    def refuse_scripts(command: Command) -> None:
        if command.words[0] == b"SCRIPT":
            raise Cut

    with StoreProxy(redis_address, refuse_scripts) as proxy, connect(f"{proxy.address}?max_connections=2") as client:
        states = UserStates(client, namespace, lengths)
        for _ in range(3):
            with pytest.raises(StoreUnavailable), states.update(1) as update:
                update.advance(None, 1)
        proxy.before = lambda _: None
        states.update(1).close()


class Box:
    """Log and store on one server, whose data may go back to what they were."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder, EmbeddedStore(folder / "data")
        self.server.start()
        self.client = connect(self.server.address)
        self.log, self.states = RedisLog(self.client, "box"), UserStates(self.client, "box", lengths)
        for topic, partitions in topics(1).items():
            self.log.create_topic(topic, partitions)

    def send(self, first: int, last: int) -> None:
        events = [viewed("ana", f"item-{n}", n) for n in range(first, last)]
        self.log.append(EVENTS, [Entry(b"ana", encode_event(event), event.time_ms) for event in events])

    def copy(self) -> None:
        self.server.stop()
        shutil.copytree(self.folder / "data", self.folder / "copy")
        self.server.start()

    def restore(self) -> None:
        self.server.stop()
        shutil.rmtree(self.folder / "data")
        shutil.copytree(self.folder / "copy", self.folder / "data")
        self.server.start()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    box = Box(tmp_path)
    yield box
    box.client.close()
    box.server.stop()


def test_a_running_consumer_goes_back_with_log_and_store(box: Box) -> None:
    source = source_of(box.log.identity(EVENTS), 0)
    handler = TimelineConsumer(box.states, lambda: None, box.log.identity(EVENTS), max_events=5)
    box.send(0, 3)
    consume(box.log, handler)
    box.copy()
    box.send(10, 14)
    restored = threading.Event()

    def restore_once(_: Progress) -> bool:
        try:
            position = box.states.position(source)
        except StoreUnavailable:
            return False
        if position == 7 and not restored.is_set():
            restored.set()
            box.restore()
            box.send(20, 22)
        return restored.is_set() and position == 5

    consume(box.log, handler, until=restore_once)
    assert seen(box.states, "ana") == ["item-0", "item-1", "item-2", "item-20", "item-21"]


def test_an_archive_beyond_the_end_of_a_restored_log_takes_nothing_new_for_what_it_has(box: Box) -> None:
    def archive(*, stops: bool = True) -> None:
        files = Archive(box.folder / "archive", box.log.identity(EVENTS))
        consume(box.log, ArchiveConsumer(files, time.monotonic), until=lambda progress: stops and not progress.lag[0])

    box.send(0, 3)
    archive()
    box.copy()
    box.send(10, 14)
    archive()
    box.restore()
    box.send(20, 22)
    with pytest.raises(LogWentBack, match="next record is 7, the log ends at 5: begin anew"):
        archive(stops=False)

"""A store that is not what it was: emptied, or an older copy. It says so itself, and is caught up."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from store.connection import Client, StoreUnavailable, connect
from store.embedded import EmbeddedStore
from store.user_state import USERS_PER_CALL, UserStates
from stream.log import partition_of
from stream.loop import Progress
from stream.topics import EVENTS
from tests.records import lengths
from tests.store_proxy import Command, StoreProxy
from tests.timeline_world import consumer, forget_all, seen, viewed
from tests.troubled_log import TroubledLog, consume


@pytest.fixture
def log() -> TroubledLog:
    return TroubledLog(partitions=2)


@pytest.fixture
def states(redis_client: Client, namespace: str) -> UserStates:
    return UserStates(redis_client, namespace, lengths)


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

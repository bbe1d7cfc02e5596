"""Events to user records over a real store: whatever dies or goes away, the effect of an event is there once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from consumers.timelines import TimelineConsumer
from store.connection import Client, StoreUnavailable, connect
from store.embedded import EmbeddedStore
from store.releases import Release
from store.user_record import DamagedRecord, source_of
from store.user_state import USERS_PER_CALL, UserStates
from stream.events import erasure
from stream.loop import Elsewhere
from stream.topics import EVENTS
from tests.records import items, lengths, model, published
from tests.store_proxy import Command, Cut, StoreProxy
from tests.timeline_world import (
    consumer,
    encoded_afresh,
    forget_positions,
    record_of,
    seen,
    stretch,
    viewed,
)
from tests.troubled_log import Crash, TroubledLog, consume


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return published(tmp_path_factory.mktemp("releases"), model(items(20)))


@pytest.fixture(scope="module")
def other_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return published(tmp_path_factory.mktemp("releases"), model(items(20)[::-1], seed=7, dim=6))


def test_a_crash_before_the_commit_costs_a_second_read_and_nothing_else(log: TroubledLog, states: UserStates) -> None:
    log.send(viewed("ana", "hat", 1), viewed("ana", "hat", 2), viewed("bob", "belt", 3))
    log.troubles.crash_before_commit = 1
    died, lives = consumer(log, states), consumer(log, states)
    with pytest.raises(Crash):
        consume(log, died)
    log.send(viewed("ana", "belt", 4))
    consume(log, lives)
    assert seen(states, "ana") == ["hat", "hat", "belt"]
    assert seen(states, "bob") == ["belt"]
    assert (died.counts.applied, lives.counts.applied, lives.counts.replayed) == (3, 1, 0), "the store knew"
    assert sum(log.committed(EVENTS, "g").values()) == 4


def test_a_crash_before_the_position_moved_costs_a_second_look_and_nothing_else(
    log: TroubledLog, states: UserStates, redis_address: str, namespace: str
) -> None:
    log.send(viewed("ana", "hat", 1), viewed("ana", "hat", 2), viewed("bob", "belt", 3))
    stop = threading.Event()

    def die_when_the_records_are_written(command: Command) -> None:
        if command.writes(b":position:") and states.read(["ana"]) != [None]:
            stop.set()
            raise Cut

    with StoreProxy(redis_address, die_when_the_records_are_written) as proxy, connect(proxy.address) as client:
        dies = consumer(log, UserStates(client, namespace, lengths))
        with pytest.raises(StoreUnavailable):
            consume(log, dies, stop=stop)
    assert (seen(states, "ana"), log.committed(EVENTS, "g")) == (["hat", "hat"], {})
    log.send(viewed("ana", "belt", 4))
    lives = consumer(log, states)
    consume(log, lives)
    assert seen(states, "ana") == ["hat", "hat", "belt"]
    assert (lives.counts.applied, lives.counts.replayed) == (1, 3)


def test_reading_the_whole_log_again_changes_not_one_byte(
    log: TroubledLog, states: UserStates, redis_client: Client, namespace: str, release: Release
) -> None:
    log.send(*[viewed(f"user-{n % 7}", f"item-{n % 20}", n) for n in range(200)])
    consume(log, consumer(log, states, release), max_records=9)
    forget_positions(redis_client, namespace)
    before = redis_client.mget([states.key(f"user-{n}") for n in range(7)])
    again = consumer(log, states, release)
    consume(log, again, group="another")
    assert redis_client.mget([states.key(f"user-{n}") for n in range(7)]) == before
    assert (again.counts.applied, again.counts.replayed, again.refused) == (0, 200, 0)
    encoded_afresh(states, [f"user-{n}" for n in range(7)], release)


def test_a_damaged_record_is_set_aside_once_and_rebuilt_from_later_events(
    log: TroubledLog, states: UserStates, redis_client: Client, namespace: str, release: Release
) -> None:
    log.send(viewed("ana", "hat", 1), viewed("bob", "hat", 1))
    consume(log, consumer(log, states, release))
    redis_client.set(states.key("ana"), (redis_client.get(states.key("ana")) or b"")[:-3])
    assert isinstance(states.read(["ana"])[0], DamagedRecord)
    log.send(viewed("ana", "belt", 2), viewed("bob", "belt", 2))
    log.troubles.crash_before_commit = 1
    first, second = consumer(log, states, release), consumer(log, states, release)
    with pytest.raises(Crash):
        consume(log, first)
    log.send(viewed("ana", "shoe", 3))
    consume(log, second)
    assert (first.damaged, second.damaged) == (1, 0)
    assert seen(states, "ana") == ["belt", "shoe"]
    assert seen(states, "bob") == ["hat", "belt"]
    assert redis_client.exists(f"{namespace}:damaged:{{3}}:ana") == 1


def test_a_store_that_dies_is_waited_for_and_nothing_is_lost(tmp_path: Path, log: TroubledLog, namespace: str) -> None:
    with EmbeddedStore(tmp_path) as server, connect(server.address) as client:
        states = UserStates(client, namespace, lengths)
        log.send(viewed("ana", "hat", 1))
        consume(log, consumer(log, states))
        log.send(viewed("ana", "belt", 2))
        server.stop()
        back = threading.Timer(0.3, server.start)
        back.start()
        progress = consume(log, consumer(log, states))
        back.join()
        assert progress.waits > 0
        assert seen(states, "ana") == ["hat", "belt"]


def test_a_write_that_stopped_half_way_is_completed_by_writing_again(
    log: TroubledLog, redis_address: str, namespace: str, release: Release
) -> None:
    users = [f"user-{n}" for n in range(2 * USERS_PER_CALL)]
    log.send(*[viewed(user, f"item-{(n + m) % 20}", m) for m in range(3) for n, user in enumerate(users)])
    writes: list[Command] = []

    def lose_the_connection_at_the_second_write(command: Command) -> None:
        if command.writes(b":u:"):
            writes.append(command)
            if len(writes) == 2:
                raise Cut

    with StoreProxy(redis_address, lose_the_connection_at_the_second_write) as proxy, connect(proxy.address) as client:
        states = UserStates(client, namespace, lengths)
        handler = consumer(log, states, release)
        consume(log, handler)
        assert (len(writes) > 2, handler.counts.applied, handler.refused) == (True, 3 * len(users), 0)
        for n in range(0, len(users), 7):
            assert seen(states, users[n]) == [f"item-{(n + m) % 20}" for m in range(3)]
        encoded_afresh(states, users[::7], release)


def test_a_zombie_s_write_changes_nothing(
    log: TroubledLog, states: UserStates, redis_address: str, namespace: str, release: Release
) -> None:
    """It read its records, fell asleep, and wakes when another has gone on from the same place."""
    awake = consumer(log, states, release)
    slept = threading.Event()

    def sleep_over_the_write(command: Command) -> None:
        if command.writes(b":u:") and not slept.is_set():
            slept.set()
            log.send(viewed("ana", "shoe", 3))
            consume(log, awake, group="awake")

    log.send(viewed("ana", "hat", 1), viewed("ana", "belt", 2))
    with StoreProxy(redis_address, sleep_over_the_write) as proxy, connect(proxy.address, timeout_s=30) as client:
        zombie = consumer(log, UserStates(client, namespace, lengths), release)
        progress = consume(log, zombie, group="zombie", until=lambda p: p.rewinds > 0 and sum(p.lag.values()) == 0)
    assert (zombie.refused, zombie.counts.applied, progress.rewinds) == (1, 0, 1)
    assert awake.counts.applied == 3
    assert seen(states, "ana") == ["hat", "belt", "shoe"]
    encoded_afresh(states, ["ana"], release)


def test_a_release_swapped_in_the_middle_encodes_each_user_anew_at_the_next_event(
    log: TroubledLog, states: UserStates, release: Release, other_release: Release
) -> None:
    current: list[Release | None] = [None, release, other_release, release]
    handler = TimelineConsumer(states, lambda: current[0], log.identity(EVENTS), max_events=5)
    for turn in range(4):
        log.send(*[viewed(user, f"item-{n + turn}", n + turn) for n, user in enumerate(["ana", "bob", "eve"])])
        consume(log, handler)
        if current[0] is not None:
            encoded_afresh(states, ["ana", "bob", "eve"], current[0])
        else:
            assert (record_of(states, "ana").release, len(record_of(states, "ana").total)) == (0, 0)
        current.pop(0) if turn < 3 else None
    assert len(seen(states, "eve")) == 4


def test_an_erased_user_stays_erased_through_a_replay_and_may_come_back(
    log: TroubledLog, states: UserStates, redis_client: Client, namespace: str
) -> None:
    log.send(viewed("ana", "hat", 1), erasure("ana", 2))
    consume(log, consumer(log, states))
    forget_positions(redis_client, namespace)
    consume(log, consumer(log, states), group="replay")
    assert seen(states, "ana") == []
    log.send(viewed("ana", "belt", 3))
    consume(log, consumer(log, states))
    assert seen(states, "ana") == ["belt"]


def test_a_log_made_anew_begins_at_offset_nought_and_is_applied(states: UserStates) -> None:
    for item in ("hat", "belt"):
        log = TroubledLog()
        log.send(viewed("ana", item, 1))
        consume(log, consumer(log, states))
    assert seen(states, "ana") == ["hat", "belt"]


def test_an_unreadable_record_between_two_events_of_a_user_costs_neither(log: TroubledLog, states: UserStates) -> None:
    log.send(viewed("ana", "hat", 1), b"\xc1", viewed("ana", "belt", 2))
    progress = consume(log, consumer(log, states))
    assert seen(states, "ana") == ["hat", "belt"]
    assert progress.dead_letters == 1


def test_the_position_passes_what_nobody_can_read(log: TroubledLog, states: UserStates) -> None:
    """So that whoever waits for what was sent before it, or for it, does not wait for ever."""
    log.send(viewed("ana", "hat", 1), b"no event")
    handler = consumer(log, states)
    consume(log, handler)
    ends = log.end_offsets(EVENTS)
    assert {number: states.position(source_of(log.identity(EVENTS), number)) or 0 for number in ends} == ends


def test_a_stretch_handed_out_twice_is_passed_over_unread(log: TroubledLog, states: UserStates) -> None:
    log.send(*[viewed("ana", f"item-{n}", n) for n in range(5)])
    handler = consumer(log, states)
    handler.assigned(0)
    for start, stop in [(0, 2), (0, 2), (1, 3), (0, 5), (2, 4)]:
        handler.handle([stretch(log, 0, start, stop)])
    assert seen(states, "ana") == [f"item-{n}" for n in range(5)]
    assert (handler.counts.applied, handler.counts.replayed) == (5, 4)


@pytest.mark.parametrize("offset", [0, 1, 4, 6])
def test_a_commit_moved_by_an_operator_changes_nothing_of_what_is_applied(
    log: TroubledLog, states: UserStates, offset: int
) -> None:
    log.send(*[viewed("ana", f"item-{n}", n) for n in range(4)])
    consume(log, consumer(log, states))
    log.send(*[viewed("ana", f"item-{n}", n) for n in range(4, 6)])
    operator = log.reader(EVENTS, "g")
    operator.commit({0: offset})
    operator.close()
    later = consumer(log, states)
    consume(log, later)
    assert seen(states, "ana") == [f"item-{n}" for n in range(1, 6)]
    assert (later.counts.applied, later.counts.replayed) == (2, 0)
    assert log.committed(EVENTS, "g")[0] == 6


def test_partitions_added_to_the_log_move_users_and_a_replay_of_their_old_ones_doubles_nothing(
    states: UserStates, redis_client: Client, namespace: str
) -> None:
    log = TroubledLog(partitions=1)
    log.send(viewed("kim", "hat", 1), viewed("ana", "hat", 1))
    consume(log, consumer(log, states))
    log.add_partition()
    log.send(viewed("kim", "belt", 2), viewed("ana", "belt", 2))
    assert log.end_offsets(EVENTS) == {0: 3, 1: 1}
    consume(log, consumer(log, states))
    for _ in range(2):
        forget_positions(redis_client, namespace)
        again = consumer(log, states)
        consume(log, again, group="again")
        assert (again.counts.applied, again.counts.replayed) == (0, 4)
        assert seen(states, "kim") == seen(states, "ana") == ["hat", "belt"]
    assert [one.offset for one in record_of(states, "kim").earlier] == [1 - 1]


def test_a_batch_that_another_process_has_done_meanwhile_is_left_to_it(log: TroubledLog, states: UserStates) -> None:
    log.send(*[viewed("ana", f"item-{n}", n) for n in range(4)])
    one, other = consumer(log, states), consumer(log, states)
    for handler in (one, other):
        handler.assigned(0)
    assert one.handle([stretch(log, 0, 0, 2)]) == {0: 2}
    with pytest.raises(Elsewhere, match="this process was at 0, the store is at 2") as raised:
        other.handle([stretch(log, 0, 0, 3)])
    assert raised.value.next_offsets == {0: 2}
    other.handle([stretch(log, 0, 2, 4)])
    assert other.drain() == {0: 4}
    assert seen(states, "ana") == [f"item-{n}" for n in range(4)]
    assert (one.counts.applied, other.counts.applied, other.counts.replayed) == (2, 2, 0)

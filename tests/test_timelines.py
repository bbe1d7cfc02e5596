"""Events to user records over a real store: whatever dies or goes away, the effect of an event is there once."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from consumers.timelines import TimelineConsumer
from store.connection import Client, StoreUnavailable, connect
from store.embedded import EmbeddedStore
from store.releases import Release
from store.user_state import DamagedRecord, UserRecord, UserStates, encode_timelines
from stream.events import Event, erasure, item_key
from stream.topics import EVENTS
from tests.records import items, model, published
from tests.troubled_log import Crash, TroubledLog, consume


@pytest.fixture
def log() -> TroubledLog:
    return TroubledLog(partitions=2)


@pytest.fixture
def states(redis_client: Client, namespace: str) -> UserStates:
    return UserStates(redis_client, namespace, len)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return published(tmp_path_factory.mktemp("releases"), model(items(20)))


@pytest.fixture(scope="module")
def other_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return published(tmp_path_factory.mktemp("releases"), model(items(20)[::-1], seed=7, dim=6))


def consumer(log: TroubledLog, states: UserStates, release: Release | None = None) -> TimelineConsumer:
    return TimelineConsumer(states, lambda: release, log.identity(EVENTS), max_events=5)


def viewed(user: str, item: str, at: int) -> Event:
    return Event(user, item, "view", at)


def record_of(states: UserStates, user: str) -> UserRecord:
    (found,) = states.read([user])
    assert isinstance(found, UserRecord), found
    return found


def seen(states: UserStates, user: str) -> list[str]:
    """Items in the user's timeline, oldest first."""
    names = {item_key(name): name for name in [*items(40), "hat", "belt", "shoe"]}
    return [names[key] for key in record_of(states, user).timeline["item"].tolist()]


def encoded_afresh(states: UserStates, users: Sequence[str], release: Release) -> None:
    for user in users:
        record = record_of(states, user)
        fresh = encode_timelines([record.timeline], release)
        assert record.release == release.key
        np.testing.assert_allclose(record.total, fresh.totals[0], atol=1e-5)
        assert record.weight == pytest.approx(fresh.weights[0])


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
    assert (died.counts.applied, lives.counts.applied, lives.counts.replayed) == (3, 1, 3)
    assert sum(log.committed(EVENTS, "g").values()) == 4


def test_reading_the_whole_log_again_changes_not_one_byte(
    log: TroubledLog, states: UserStates, redis_client: Client, release: Release
) -> None:
    log.send(*[viewed(f"user-{n % 7}", f"item-{n % 20}", n) for n in range(200)])
    consume(log, consumer(log, states, release), max_records=9)
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
        states = UserStates(client, namespace, len)
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


class HalfWritten(UserStates):
    """Stores part of what it is given, then loses the connection; once."""

    died = False

    def write(self, records: Mapping[str, UserRecord]) -> set[str]:
        if not self.died:
            self.died = True
            super().write(dict(list(records.items())[: len(records) // 2]))
            raise StoreUnavailable("connection lost half-way")
        return super().write(records)


def test_a_write_that_stopped_half_way_is_completed_by_writing_again(
    log: TroubledLog, redis_client: Client, namespace: str, release: Release
) -> None:
    log.send(*[viewed(f"user-{n % 30}", f"item-{n % 20}", n) for n in range(90)])
    states = HalfWritten(redis_client, namespace, len)
    handler = consumer(log, states, release)
    consume(log, handler)
    for n in range(30):
        assert seen(states, f"user-{n}") == [f"item-{m % 20}" for m in (n, n + 30, n + 60)]
    encoded_afresh(states, [f"user-{n}" for n in range(30)], release)


def test_a_zombie_s_write_changes_nothing(log: TroubledLog, states: UserStates, release: Release) -> None:
    """It read its records, fell asleep, and wakes when another has gone on from the same place."""

    class Sleepy(UserStates):
        def write(self, records: Mapping[str, UserRecord]) -> set[str]:
            log.send(viewed("ana", "shoe", 3))
            consume(log, awake, group="awake")
            return super().write(records)

    awake = consumer(log, states, release)
    zombie = consumer(log, Sleepy(states._client, states._namespace, len), release)
    log.send(viewed("ana", "hat", 1), viewed("ana", "belt", 2))
    consume(log, zombie, group="zombie", until=lambda progress: progress.consumed == 2)
    assert zombie.refused == 1
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


def test_an_erased_user_stays_erased_through_a_replay_and_may_come_back(log: TroubledLog, states: UserStates) -> None:
    log.send(viewed("ana", "hat", 1), erasure("ana", 2))
    consume(log, consumer(log, states))
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

"""User records in a real store: a write takes where nothing changed since the read, and so does a position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from led.encoder import NEVER_MS
from store.connection import Client, StoreUnavailable, connect
from store.embedded import EmbeddedStore
from store.user_record import FENCE_BYTES, Applied, DamagedRecord, UserRecord, encode_record, source_of
from store.user_state import DAMAGED_KEPT_S, NOTHING, USERS_PER_CALL, UserStates
from tests.records import LOG, NOW, lengths, put, record, same

IDLE_AFTER_S = 1000
SOURCE = source_of(LOG, 0)


@pytest.fixture
def states(redis_client: Client, namespace: str) -> UserStates:
    return UserStates(redis_client, namespace, lengths, idle_after_s=IDLE_AFTER_S)


def stored(states: UserStates, user: str) -> UserRecord:
    (found,) = states.read([user])
    assert isinstance(found, UserRecord)
    return found


def refused(states: UserStates, old: Mapping[str, UserRecord | None], new: Mapping[str, UserRecord]) -> set[str]:
    """Replace what was read as `old` by `new`; whose write was refused."""
    users = list(new)
    before = [old.get(user) for user in users]
    old_bytes = [NOTHING if one is None else encode_record(one) for one in before]
    places = states.replace(states.keys(users), old_bytes, [encode_record(new[user]) for user in users])
    return {users[place] for place in places}


def test_unknown_users_are_none_and_answers_keep_the_order_asked(states: UserStates) -> None:
    put(states, {"ana": record(("hat", NOW), offset=1), "bob": record(offset=2)})
    bob, nobody, ana = states.read(["bob", "nobody", "ana"])
    assert isinstance(bob, UserRecord)
    assert isinstance(ana, UserRecord)
    assert nobody is None
    assert (bob.as_of, ana.as_of) == (None, NOW)
    assert states.read([]) == []


def test_bytes_come_back_in_the_order_asked_however_many_with_the_position_beside_them(states: UserStates) -> None:
    users = [f"user-{n}" for n in range(2 * USERS_PER_CALL + 3)]
    put(states, {user: record(offset=n) for n, user in enumerate(users) if n % 2})
    found, position = states.read_bytes(states.keys(users), SOURCE)
    assert found == [encode_record(record(offset=n)) if n % 2 else NOTHING for n in range(len(users))]
    assert position is None
    assert states.advance(SOURCE, None, 7)
    assert states.read_bytes([], SOURCE) == ([], 7)


def test_a_record_is_replaced_only_where_what_was_read_is_what_is_stored(states: UserStates) -> None:
    first, second, third = (record(("hat", NOW), offset=n) for n in range(3))
    assert refused(states, {"ana": first}, {"ana": second}) == {"ana"}, "there is no record"
    assert refused(states, {}, {"ana": first}) == set()
    assert refused(states, {}, {"ana": second}) == {"ana"}, "there is one by now"
    assert refused(states, {"ana": first}, {"ana": second}) == set()
    assert refused(states, {"ana": first}, {"ana": third}) == {"ana"}, "another went on from there"
    assert same(stored(states, "ana"), second)


def test_a_record_of_the_same_place_but_of_other_content_is_another_record(states: UserStates) -> None:
    """A log made anew, another release, a damaged record begun anew: the offset alone would not tell."""
    one = record(("hat", NOW), offset=5)
    put(states, {"ana": one})
    others = [record(("belt", NOW), offset=5), record(("hat", NOW), offset=5, partition=1)]
    for other in [*others, record(("hat", NOW), offset=5, log=LOG ^ 1), replace(one, release=1)]:
        assert refused(states, {"ana": other}, {"ana": record(offset=6)}) == {"ana"}
    assert same(stored(states, "ana"), one)


def test_of_many_writes_those_that_another_overtook_are_refused_and_no_others(states: UserStates) -> None:
    users = [f"user-{n}" for n in range(1000)]
    before = {user: record(offset=3) for user in users}
    put(states, before)
    overtaken = set(users[::7])
    put(states, {user: record(offset=9) for user in overtaken})
    assert refused(states, before, {user: record(offset=5) for user in users}) == overtaken
    for user in users:
        assert stored(states, user).position == Applied(SOURCE, 9 if user in overtaken else 5)


def test_a_fence_may_hold_any_byte(states: UserStates) -> None:
    """Positions and checksums are binary: nothing on the way to the server may take them for text or numbers."""
    offsets = [0, 10, 13, 32, 255, (1 << 32) - 1, 1 << 53, (1 << 63) - 1, 0x0A0D_0A0D_0A0D]
    for offset in offsets:
        one, next_one = record(offset=offset), replace(record(offset=offset), applied=1)
        put(states, {"ana": one})
        assert refused(states, {"ana": next_one}, {"ana": next_one}) == {"ana"}
        assert refused(states, {"ana": one}, {"ana": next_one}) == set()


def test_a_position_moves_only_from_what_was_read(states: UserStates) -> None:
    other = source_of(LOG, 1)
    assert states.position(SOURCE) is None
    assert not states.advance(SOURCE, 0, 5), "nothing is not nought"
    assert states.advance(SOURCE, None, 0)
    assert not states.advance(SOURCE, None, 5)
    assert states.advance(SOURCE, 0, 1 << 53)
    assert not states.advance(SOURCE, (1 << 53) + 1, 5), "compared as text: no digit is lost"
    assert states.advance(SOURCE, 1 << 53, 3), "a log may be read again from an earlier place"
    assert (states.position(SOURCE), states.position(other)) == (3, None)


def test_a_position_does_not_expire(states: UserStates, redis_client: Client, namespace: str) -> None:
    states.advance(SOURCE, None, 5)
    assert redis_client.ttl(f"{namespace}:position:{SOURCE:016x}") == -1


def test_users_are_counted_and_what_stays_in_the_store_for_good_is_not(
    states: UserStates, redis_client: Client, namespace: str
) -> None:
    before = states.count()
    states.advance(SOURCE, None, 5)
    redis_client.hset(f"{namespace}:items", "hat", "{}")
    assert states.count() == before
    put(states, {"ana": record(offset=1), "bob": record(offset=2)})
    assert states.count() == before + 2


def test_every_write_lets_an_idle_user_expire_later(states: UserStates, redis_client: Client) -> None:
    first, second = record(offset=1), record(offset=2)
    put(states, {"ana": first})
    assert 0 < int(redis_client.ttl(states.key("ana"))) <= IDLE_AFTER_S
    redis_client.expire(states.key("ana"), 5)
    assert refused(states, {"ana": second}, {"ana": second}) == {"ana"}
    assert int(redis_client.ttl(states.key("ana"))) <= 5
    assert refused(states, {"ana": first}, {"ana": second}) == set()
    assert IDLE_AFTER_S - 5 <= int(redis_client.ttl(states.key("ana"))) <= IDLE_AFTER_S


def test_a_user_who_expired_between_read_and_write_is_begun_anew(states: UserStates, redis_client: Client) -> None:
    first, second = record(offset=1), record(offset=2)
    put(states, {"ana": first})
    redis_client.pexpire(states.key("ana"), 1)
    while states.read(["ana"]) != [None]:
        pass
    assert refused(states, {"ana": first}, {"ana": second}) == {"ana"}
    assert refused(states, {}, {"ana": second}) == set()


def test_only_a_damaged_record_is_set_aside(states: UserStates, redis_client: Client, namespace: str) -> None:
    put(states, {"ana": record(("hat", NOW), offset=8), "bob": record(offset=8)})
    damaged = encode_record(record(("hat", NOW), offset=8))[:-1]
    redis_client.set(states.key("ana"), damaged)
    (found,) = states.read(["ana"])
    assert isinstance(found, DamagedRecord)
    for user in ("ana", "ana", "bob", "nobody"):
        states.set_aside(user)
    assert states.read(["ana"]) == [None]
    assert stored(states, "bob").position.offset == 8
    aside = f"{namespace}:damaged:{{3}}:ana"
    assert redis_client.get(aside) == damaged
    assert DAMAGED_KEPT_S - 5 <= int(redis_client.ttl(aside)) <= DAMAGED_KEPT_S
    assert refused(states, {}, {"ana": record(offset=1)}) == set()


def test_damage_in_the_fence_never_stops_a_consumer_that_sets_it_aside(
    states: UserStates, redis_client: Client
) -> None:
    whole = encode_record(record(offset=8))
    for place in range(FENCE_BYTES):
        altered = bytearray(whole)
        altered[place] ^= 0xFF
        redis_client.set(states.key("ana"), bytes(altered))
        assert isinstance(states.read(["ana"])[0], DamagedRecord)
        states.set_aside("ana")
        assert refused(states, {}, {"ana": record(offset=9)}) == set()


def test_keys_carry_the_virtual_partition_as_their_hash_tag(states: UserStates, namespace: str) -> None:
    assert states.key("ana") == f"{namespace}:u:{{3}}:ana".encode()
    assert states.key("ä{b}") == f"{namespace}:u:{{5}}:ä{{b}}".encode()
    assert states.keys(["bob", "ana"]) == [states.key("bob"), states.key("ana")]


def test_a_store_that_is_away_or_full_says_so_and_takes_the_same_records_later(tmp_path: Path, namespace: str) -> None:
    first, second = record(offset=1), record(offset=2)
    third = replace(record(offset=3), at_ms=NEVER_MS)
    with EmbeddedStore(tmp_path) as server, connect(server.address) as client:
        states = UserStates(client, namespace, lengths)
        put(states, {"ana": first})
        assert states.advance(SOURCE, None, 2)
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            refused(states, {"ana": first}, {"ana": second})
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            states.advance(SOURCE, 2, 3)
        assert states.read_bytes(states.keys(["ana"]), SOURCE) == ([encode_record(first)], 2)
        client.config_set("maxmemory", 0)
        client.script_flush()  # as after a restart
        assert refused(states, {"ana": first}, {"ana": second}) == set()
        server.stop()
        with pytest.raises(StoreUnavailable):
            states.read(["ana"])
        with pytest.raises(StoreUnavailable):
            states.read_bytes(states.keys(["ana"]), SOURCE)
        with pytest.raises(StoreUnavailable):
            refused(states, {"ana": second}, {"ana": third})
        with pytest.raises(StoreUnavailable):
            states.advance(SOURCE, 2, 3)
        server.start()
        assert refused(states, {"ana": second}, {"ana": third}) == set()
        assert states.advance(SOURCE, 2, 3)
        assert stored(states, "ana").position.offset == 3

"""User records: every bit survives, no damage passes, and the server refuses what is not newer."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from led.encoder import NEVER_MS
from store.connection import Client, StoreUnavailable, connect
from store.embedded import EmbeddedStore
from store.user_state import (
    DAMAGED_KEPT_S,
    HEADER,
    TIMELINE,
    Applied,
    DamagedRecord,
    UserRecord,
    UserStates,
    decode_record,
    encode_record,
)
from tests.records import LOG, NOW, record, same, timeline

IDLE_AFTER_S = 1000
GOLDEN = UserRecord(
    Applied(LOG, 3, 0x1_0000_0002),
    timeline(("hat", NOW), ("belt", NOW + 1, "order-7")),
    7,
    0x0123456789ABCDEF,
    np.array([1.5, -2.0], np.float32),
    2.5,
    NOW + 1,
    3.25,
)
GOLDEN_BYTES = (
    "4c31" "{crc}" "fedcba9876543210" "00000003" "0000000100000002"
    "0123456789abcdef" "00000007" "0002" "0002" "4004000000000000" "0000018bcfe56801" "400a000000000000"
    "0000c03f" "000000c0"
    "0563d5c503168965" "0068e5cf8b010000" "00000000" "d3"
    "3b24317563de97c3" "0168e5cf8b010000" "31e08496" "d3"
)  # fmt: skip


@pytest.fixture
def states(redis_client: Client, namespace: str) -> UserStates:
    return UserStates(redis_client, namespace, len, idle_after_s=IDLE_AFTER_S)


def position_of(states: UserStates, user: str) -> Applied:
    (found,) = states.read([user])
    assert isinstance(found, UserRecord)
    return found.position


i64 = st.integers(-(1 << 63), (1 << 63) - 1)
u64 = st.integers(0, (1 << 64) - 1)
entries = st.tuples(u64, i64, st.integers(0, (1 << 32) - 1), st.integers(0, 255))


@given(
    position=st.builds(Applied, u64, st.integers(0, (1 << 32) - 1), i64),
    rows=st.lists(entries, max_size=60),
    total=st.lists(st.floats(width=32), max_size=9),
    numbers=st.tuples(st.integers(0, (1 << 32) - 1), u64, st.floats(), i64, st.floats()),
)
def test_a_record_comes_back_to_the_last_bit(
    position: Applied, rows: list[tuple[int, ...]], total: list[float], numbers: tuple[int, int, float, int, float]
) -> None:
    applied, release, weight, at_ms, mass = numbers
    made = UserRecord(
        position, np.array(rows, TIMELINE), applied, release, np.array(total, np.float32), weight, at_ms, mass
    )
    data = encode_record(made)
    assert len(data) == HEADER.size + 4 * len(total) + TIMELINE.itemsize * len(rows)
    assert same(decode_record(data), made)


def test_the_bytes_of_a_record_are_these_for_ever() -> None:
    data = encode_record(GOLDEN)
    crc = zlib.crc32(data[6:]).to_bytes(4, "big").hex()
    assert data.hex() == GOLDEN_BYTES.format(crc=crc)


def test_a_record_cut_short_anywhere_is_damaged() -> None:
    data = encode_record(GOLDEN)
    for length in range(len(data)):
        with pytest.raises(DamagedRecord):
            decode_record(data[:length])
    for more in (b"\x00", data):
        with pytest.raises(DamagedRecord):
            decode_record(data + more)


def test_a_record_with_any_bit_flipped_is_damaged() -> None:
    data = encode_record(GOLDEN)
    for place in range(len(data)):
        for bit in range(8):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            with pytest.raises(DamagedRecord):
                decode_record(bytes(altered))


@given(st.binary(max_size=200) | st.binary(max_size=120).map(lambda tail: b"L1" + tail))
def test_no_bytes_make_reading_worse_than_damaged(data: bytes) -> None:
    with pytest.raises(DamagedRecord):
        decode_record(data)


def test_unknown_users_are_none_and_answers_keep_the_order_asked(states: UserStates) -> None:
    states.write({"ana": record(("hat", NOW), offset=1), "bob": record(offset=2)})
    bob, nobody, ana = states.read(["bob", "nobody", "ana"])
    assert isinstance(bob, UserRecord)
    assert isinstance(ana, UserRecord)
    assert nobody is None
    assert (bob.as_of, ana.as_of) == (None, NOW)
    assert states.read([]) == []


@pytest.mark.parametrize("offset", [0, 5, (1 << 32) - 1, 1 << 32, (1 << 32) + 5, (1 << 53) + 1, (1 << 62) + 1])
def test_the_server_refuses_what_is_not_beyond_the_stored_offset(states: UserStates, offset: int) -> None:
    assert states.write({"ana": record(("hat", NOW), offset=offset)}) == set()
    for stale in {offset, offset - 1, offset - (1 << 32), 0}:
        if 0 <= stale <= offset:
            assert states.write({"ana": record(("belt", NOW), offset=stale)}) == {"ana"}
    (found,) = states.read(["ana"])
    assert isinstance(found, UserRecord)
    assert same(found, record(("hat", NOW), offset=offset))
    assert states.write({"ana": record(offset=offset + 1)}) == set()
    assert position_of(states, "ana").offset == offset + 1


@given(stored=st.integers(0, (1 << 63) - 1), new=st.integers(0, (1 << 63) - 1))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_server_compares_offsets_as_we_do(states: UserStates, stored: int, new: int) -> None:
    user = f"{stored}-{new}"
    states.write({user: record(offset=stored)})
    assert states.write({user: record(offset=new)}) == (set() if new > stored else {user})


def test_offsets_of_another_log_or_partition_are_not_compared(states: UserStates) -> None:
    states.write({"ana": record(offset=100)})
    assert states.write({"ana": record(offset=5, partition=1)}) == set()
    assert states.write({"ana": record(offset=5, partition=1)}) == {"ana"}
    assert states.write({"ana": record(offset=0, partition=1, log=LOG ^ 1)}) == set()
    assert states.write({"ana": record(offset=0, partition=1, log=LOG ^ (1 << 63))}) == set()
    assert position_of(states, "ana") == Applied(LOG ^ (1 << 63), 1, 0)


def test_only_the_stale_ones_of_many_writes_are_refused(states: UserStates) -> None:
    users = [f"user-{n}" for n in range(1000)]
    stale = set(users[::7])
    states.write({user: record(offset=9 if user in stale else 3) for user in users})
    assert states.write({user: record(offset=5) for user in users}) == stale
    assert {position_of(states, user).offset for user in users if user in stale} == {9}
    assert {position_of(states, user).offset for user in users if user not in stale} == {5}


def test_every_write_lets_an_idle_user_expire_later(states: UserStates, redis_client: Client) -> None:
    states.write({"ana": record(offset=1)})
    assert 0 < int(redis_client.ttl(states.key("ana"))) <= IDLE_AFTER_S
    redis_client.expire(states.key("ana"), 5)
    states.write({"ana": record(offset=1)})  # refused: nothing changes
    assert int(redis_client.ttl(states.key("ana"))) <= 5
    states.write({"ana": record(offset=2)})
    assert IDLE_AFTER_S - 5 <= int(redis_client.ttl(states.key("ana"))) <= IDLE_AFTER_S


def test_a_user_is_forgotten_after_the_idle_time(redis_client: Client, namespace: str) -> None:
    states = UserStates(redis_client, namespace, len, idle_after_s=1)
    states.write({"ana": record(offset=1)})
    redis_client.pexpire(states.key("ana"), 1)
    while states.read(["ana"]) != [None]:
        pass
    assert states.write({"ana": record(offset=0)}) == set()


def test_only_a_damaged_record_is_set_aside(states: UserStates, redis_client: Client, namespace: str) -> None:
    states.write({"ana": record(("hat", NOW), offset=8), "bob": record(offset=8)})
    damaged = encode_record(record(("hat", NOW), offset=8))[:-1]
    redis_client.set(states.key("ana"), damaged)
    (found,) = states.read(["ana"])
    assert isinstance(found, DamagedRecord)
    for user in ("ana", "ana", "bob", "nobody"):
        states.set_aside(user)
    assert states.read(["ana"]) == [None]
    assert position_of(states, "bob").offset == 8
    aside = f"{namespace}:damaged:{{3}}:ana"
    assert redis_client.get(aside) == damaged
    assert DAMAGED_KEPT_S - 5 <= int(redis_client.ttl(aside)) <= DAMAGED_KEPT_S
    assert states.write({"ana": record(offset=1)}) == set(), "a damaged fence holds nobody back"


def test_damage_in_the_fence_never_stops_a_consumer_that_sets_it_aside(
    states: UserStates, redis_client: Client
) -> None:
    stored = encode_record(record(offset=8))
    for place in range(26):
        altered = bytearray(stored)
        altered[place] ^= 0xFF
        redis_client.set(states.key("ana"), bytes(altered))
        assert isinstance(states.read(["ana"])[0], DamagedRecord)
        states.set_aside("ana")
        assert states.write({"ana": record(offset=9)}) == set()


def test_keys_carry_the_virtual_partition_as_their_hash_tag(states: UserStates, namespace: str) -> None:
    assert states.key("ana") == f"{namespace}:u:{{3}}:ana".encode()
    assert states.key("ä{b}") == f"{namespace}:u:{{4}}:ä{{b}}".encode()


def test_a_store_that_is_away_or_full_says_so_and_takes_the_same_records_later(tmp_path: Path, namespace: str) -> None:
    with EmbeddedStore(tmp_path) as server, connect(server.address) as client:
        states = UserStates(client, namespace, len)
        states.write({"ana": record(offset=1)})
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            states.write({"ana": record(offset=2)})
        client.config_set("maxmemory", 0)
        client.script_flush()  # as after a restart
        assert states.write({"ana": record(offset=2)}) == set()
        server.stop()
        with pytest.raises(StoreUnavailable):
            states.read(["ana"])
        with pytest.raises(StoreUnavailable):
            states.write({"ana": record(offset=3)})
        server.start()
        assert states.write({"ana": replace(record(offset=3), at_ms=NEVER_MS)}) == set()
        assert position_of(states, "ana").offset == 3

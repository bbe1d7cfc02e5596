"""User records as bytes: what the format promises survives, no damage passes, and the fast ways are the slow ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from led.encoder import I64
from store.user_record import (
    EARLIER_KEPT,
    ENTRY,
    FENCE_BYTES,
    HEAD,
    IDS_KEPT,
    LONGEST_STEP_MS,
    POSITION,
    STRUCK_KEPT,
    TIMELINE,
    Applied,
    DamagedRecord,
    UserRecord,
    decode_record,
    encode_record,
    gap_codes,
    gaps_of,
    head_of,
    heads_of,
    sealed,
    source_of,
    steps_from,
)
from tests.records import LOG, NOW, record, same, timeline

DAY_MS = 86_400_000
GOLDEN = UserRecord(
    Applied(0xFEDCBA9876543210, 0x1_0000_0002),
    timeline(("hat", NOW), ("belt", NOW + 3001, "order-7")),
    7,
    0x0123456789ABCDEF,
    np.array([1.5, -3.0], np.float32),
    2.5,
    NOW + 1,
    3.25,
    (Applied(0x1111111111111111, 5),),
)
GOLDEN_BYTES = (
    "4c32" "48903564" "1032547698badcfe" "0200000001000000"
    "efcdab8967452301" "07000000" "0200" "0200" "02" "01" "00002040" "00005040" "0168e5cf8b010000"
    "ba73e5cf8b010000" "ffffffff" "8001c038"
    "0040" "0180"
    "00000000" "dadad009"
    "1111111111111111" "0500000000000000"
    "d3" "18c18c0ac33db0" "0000"
    "d3" "3f81bfe7f4ab0b" "dd09"
)  # fmt: skip

u32, u64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
i64 = st.integers(-(1 << 63), (1 << 63) - 1)
floats = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda one: one == 0 or abs(one) > 2.0**-100)
applied = st.builds(Applied, u64, i64)
earlier = st.builds(Applied, st.integers(1, (1 << 64) - 1), i64)
moments = st.integers(0, 400 * DAY_MS) | st.integers(0, 5000)
entries = st.tuples(st.integers(0, (1 << 56) - 1), moments, u32, st.integers(0, 255))


@st.composite
def records(draw: st.DrawFn) -> UserRecord:
    return UserRecord(
        draw(applied),
        np.array(draw(st.lists(entries, max_size=60)), TIMELINE),
        draw(u32),
        draw(u64),
        np.array(draw(st.lists(floats, max_size=9)), np.float32),
        draw(st.floats(width=32)),
        draw(i64),
        draw(st.floats(width=32)),
        tuple(draw(st.lists(earlier, max_size=EARLIER_KEPT))),
        struck=tuple(draw(st.lists(st.integers(0, (1 << 63) - 1), max_size=STRUCK_KEPT))),
    )


@given(records())
def test_a_record_comes_back_as_the_format_promises(made: UserRecord) -> None:
    found = decode_record(encode_record(made))
    assert same(replace(found, timeline=made.timeline, total=made.total, late=0), made)
    for name in ("item", "kind"):
        assert found.timeline[name].tolist() == made.timeline[name].tolist()
    assert found.timeline["event"][-IDS_KEPT:].tolist() == made.timeline["event"][-IDS_KEPT:].tolist()
    assert not found.timeline["event"][:-IDS_KEPT].any()
    assert len(found.total) == len(made.total)
    step = np.abs(made.total).max(initial=0) / 32767
    assert (np.abs(found.total - made.total) <= 0.501 * step).all()
    assert found.as_of == made.as_of
    off = np.abs(found.timeline["time_ms"] - made.timeline["time_ms"])
    steps = np.abs(np.diff(made.timeline["time_ms"])) + off[:-1]  # from the time before, as it was kept
    assert not off[:1].any()
    assert (2048 * off[1:] <= steps).all()


@given(records())
def test_a_record_read_and_written_again_is_the_same_bytes(made: UserRecord) -> None:
    data = encode_record(made)
    assert encode_record(decode_record(data)) == data
    positions = len(made.earlier) + len(made.struck)
    variable = 2 * len(made.total) + 4 * min(len(made.timeline), IDS_KEPT) + POSITION.itemsize * positions
    assert len(data) == HEAD.itemsize + variable + ENTRY.itemsize * len(made.timeline)


@given(records())
def test_one_head_read_alone_is_what_arrays_of_heads_hold(made: UserRecord) -> None:
    data = encode_record(made)
    head = head_of(data)
    assert head._fields == HEAD.names
    assert repr(tuple(head)) == repr(heads_of([data])[0].item())  # NaN is no equal of itself


def test_the_bytes_of_a_record_are_these_for_ever() -> None:
    assert encode_record(GOLDEN).hex() == GOLDEN_BYTES


def test_a_source_is_one_partition_of_one_log() -> None:
    names = {source_of(log, partition) for log in (LOG, LOG ^ 1, LOG ^ (1 << 63), 0) for partition in range(100)}
    assert len(names) == 400
    assert source_of(LOG, 3) == 13400100004972221092, "under other names stored positions would be lost"


def test_a_record_cut_short_anywhere_is_damaged() -> None:
    data = encode_record(GOLDEN)
    for length in range(len(data)):
        with pytest.raises(DamagedRecord):
            decode_record(data[:length])
    for more in (b"\x00", data):
        with pytest.raises(DamagedRecord):
            decode_record(data + more)
        with pytest.raises(DamagedRecord):
            decode_record(sealed(data + more))  # even where the checksum is right


def test_a_record_with_any_bit_flipped_is_damaged() -> None:
    data = encode_record(GOLDEN)
    for place in range(len(data)):
        for bit in range(8):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            with pytest.raises(DamagedRecord):
                decode_record(bytes(altered))


def test_a_record_of_the_layout_before_is_damaged_and_says_so() -> None:
    with pytest.raises(DamagedRecord, match=r"begins with b'L1', b'L2' expected"):
        decode_record(b"L1" + encode_record(GOLDEN)[2:])


@given(st.binary(max_size=200) | st.binary(max_size=150).map(lambda tail: b"L2" + tail))
def test_no_bytes_make_reading_worse_than_damaged(data: bytes) -> None:
    with pytest.raises(DamagedRecord):
        decode_record(data)


def test_two_records_of_a_user_never_share_a_fence() -> None:
    one = record(("hat", NOW), offset=8)
    others = [record(("hat", NOW), offset=9), record(("hat", NOW), offset=8, partition=1)]
    others += [record(("belt", NOW), offset=8), replace(one, applied=2), replace(one, weight=0.5)]
    fences = {encode_record(each)[:FENCE_BYTES] for each in [one, *others]}
    assert len(fences) == 6


@given(st.lists(st.integers(-2 * LONGEST_STEP_MS, 2 * LONGEST_STEP_MS) | st.integers(-5000, 5000)))
def test_a_step_in_time_is_good_to_a_2048th_of_itself(gaps: list[int]) -> None:
    size = np.array(gaps, np.int64)
    kept = gaps_of(gap_codes(size))
    within = np.clip(size, -LONGEST_STEP_MS, LONGEST_STEP_MS)
    assert (2048 * np.abs(kept - within) <= np.abs(within)).all()
    assert (kept == size)[np.abs(size) < 2048].all()
    assert (np.sign(kept) == np.sign(size)).all()
    in_order = np.sort(size)
    assert (np.diff(gaps_of(gap_codes(in_order))) >= 0).all()


def test_every_code_is_a_step_of_its_own() -> None:
    codes = np.delete(np.arange(1 << 16), 1 << 15).astype(np.uint16)  # there is one nought
    gaps: I64 = gaps_of(codes)
    assert len(np.unique(gaps)) == len(codes)
    assert (gap_codes(gaps) == codes).all()
    assert (gaps.min(), gaps.max()) == (-LONGEST_STEP_MS, LONGEST_STEP_MS)


@given(start=st.integers(0, 1 << 42), times=st.lists(st.integers(0, 1 << 42) | moments, max_size=20))
def test_steps_one_by_one_are_the_steps_of_arrays(start: int, times: list[int]) -> None:
    codes, kept = steps_from(start, times)
    at = start
    for code, time_ms, kept_ms in zip(codes, times, kept, strict=True):
        wanted = gap_codes(np.array([time_ms - at]))
        at += int(gaps_of(wanted)[0])
        assert (code, kept_ms) == (int(wanted[0]), at)


def test_what_a_step_misses_the_next_makes_up_for() -> None:
    """A day, then clicks a second apart: all of them stay within the day's error, and the last knows its own time."""
    times = [NOW, NOW + DAY_MS + 12_351, *[NOW + DAY_MS + 12_351 + 1000 * n for n in range(1, 40)]]
    found = decode_record(encode_record(replace(GOLDEN, timeline=timeline(*[("hat", at) for at in times]))))
    off = np.abs(found.timeline["time_ms"] - np.array(times))
    assert 0 < off.max() <= 42_500
    assert off[3:].max() == 0
    assert found.as_of == times[-1]

"""Batches to columns: the quick way gives what the slow one gives, and one bad record costs one."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.decoding import Decoder
from stream.events import Event, encode_event
from stream.log import Batch, Record

NOW = 1_790_000_000_000
EVENT = Event("ana", "hat", "view", NOW, "e-1", 9.5, {"page": "home"})
BAD = {
    "not msgpack": b"\xc1",
    "not an event array": msgpack.packb({"a": 1}),
    "wire version": msgpack.packb([2, *EVENT]),
    "fields, at least": msgpack.packb([1, "ana"]),
    "user_id = ": msgpack.packb([1, "", *EVENT[1:]]),
    "item_id = ": msgpack.packb([1, "ana", 7, *EVENT[2:]]),
    "kind = ": msgpack.packb([1, "ana", "hat", "k" * 33, *EVENT[3:]]),
    "time_ms = -1": msgpack.packb([1, "ana", "hat", "view", -1]),
    "too far in the future": encode_event(EVENT._replace(time_ms=NOW + 10_001)),
    "event_id = ": msgpack.packb([1, *EVENT[:4], "", None, None]),
    "value = ": msgpack.packb([1, *EVENT[:5], float("nan"), None]),
    "context = ": msgpack.packb([1, *EVENT[:6], {"a": 1}]),
    "context = 0": msgpack.packb([1, *EVENT[:6], 0]),
    "bytes, at most": msgpack.packb([1, "a" * 5000, *EVENT[1:]]),
}
DECODER = Decoder(lambda: NOW, max_ahead_s=10)


def batch(*values: bytes) -> Batch:
    return Batch.of(3, [Record(100 + place, NOW, b"key", value) for place, value in enumerate(values)])


@pytest.mark.parametrize("cause", BAD)
def test_one_bad_record_in_a_batch_costs_one_and_says_why(cause: str) -> None:
    good = [encode_event(EVENT._replace(item_id=f"item-{n}")) for n in range(4)]
    columns, refused = DECODER.decode(batch(*good[:2], BAD[cause], *good[2:]))
    assert list(refused) == [2]
    assert cause in refused[2]
    assert columns.items == ("item-0", "item-1", "item-2", "item-3")
    assert (columns.offsets.tolist(), columns.next_offset) == ([100, 101, 103, 104], 105)


def test_a_batch_of_nothing_readable_still_says_where_to_go_on() -> None:
    columns, refused = DECODER.decode(batch(b"", b"\xc1"))
    assert (len(columns), columns.rows(), len(refused), columns.next_offset) == (0, [], 2, 102)


ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
events = st.builds(
    Event,
    user_id=ids,
    item_id=ids,
    kind=st.sampled_from(["view", "click", "sale"]),
    time_ms=st.integers(0, NOW + 10_000),
    event_id=st.none() | ids,
    value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    context=st.none() | st.dictionaries(ids, ids, max_size=2),
)


@given(st.lists(events, min_size=1, max_size=5), st.booleans())
def test_what_was_encoded_comes_back_whichever_way_it_is_decoded(happened: list[Event], with_a_bad_one: bool) -> None:
    values = [encode_event(event) for event in happened] + [b"\xc1"] * with_a_bad_one
    columns, refused = DECODER.decode(batch(*values))
    assert columns.events() == happened
    assert [offset for offset, _, _ in columns.rows()] == list(range(100, 100 + len(happened)))
    assert len(refused) == with_a_bad_one


@given(st.lists(st.binary(max_size=40) | st.sampled_from(list(BAD.values())), min_size=1, max_size=5))
def test_no_bytes_break_the_decoder(values: list[bytes]) -> None:
    columns, refused = DECODER.decode(batch(*values))
    assert len(columns) + len(refused) == len(values)

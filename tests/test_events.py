"""Events: what the border lets in, what is on the wire, and that no bytes at all break a reader."""

from __future__ import annotations

import re
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events import (
    MAX_CONTEXT_BYTES,
    MAX_WIRE_BYTES,
    Border,
    DecodeError,
    Event,
    InvalidEvent,
    check_user_id,
    decode_event,
    encode_event,
    erasure,
    event_key,
    item_key,
    kind_code,
)

NOW = 1_700_000_000_000
BORDER = Border(frozenset({"view", "click", "sale"}), max_ahead_s=300, max_age_s=3600)
GOOD: dict[str, Any] = {"user_id": "ana", "item_id": "hat", "kind": "view"}

FULL = Event("ana", "hat", "sale", NOW, "order-7", 9.5, {"page": "home"})
FULL_BYTES = "9801a3616e61a3686174a473616c65cf0000018bcfe56800a76f726465722d37cb402300000000000081a470616765a4686f6d65"
MINIMAL = Event("ana", "hat", "view", NOW)
MINIMAL_BYTES = "9801a3616e61a3686174a476696577cf0000018bcfe56800c0c0c0"


def packed(*fields: object) -> bytes:
    return bytes(msgpack.packb(fields))


def test_the_wire_bytes_of_version_1_are_these_for_ever() -> None:
    assert encode_event(FULL).hex() == FULL_BYTES
    assert encode_event(MINIMAL).hex() == MINIMAL_BYTES
    assert decode_event(bytes.fromhex(FULL_BYTES)) == FULL
    assert decode_event(bytes.fromhex(MINIMAL_BYTES)) == MINIMAL


def test_keys_that_are_stored_somewhere_are_these_for_ever() -> None:
    assert [item_key("hat"), item_key("Ünïcode 🎩")] == [0xB03DC30A8CC118, 0xD3D10F48619A68]
    assert [kind_code("view"), kind_code("click"), kind_code("sale")] == [211, 115, 76]
    assert [event_key("order-7"), event_key(None)] == [164682458, 0]


def test_a_newer_writer_may_add_fields_at_the_end_and_an_older_one_may_lack_them() -> None:
    assert decode_event(packed(1, "ana", "hat", "view", NOW, None, None, None, "new", {"more": [1]})) == MINIMAL
    for missing in range(1, 4):
        assert decode_event(packed(1, *MINIMAL[: 7 - missing])) == MINIMAL


@pytest.mark.parametrize("version", [0, 2, -1, True, 1.0, "1", None, [1], {"v": 1}])
def test_a_record_of_another_version_is_refused_by_its_version(version: object) -> None:
    with pytest.raises(DecodeError, match="wire version"):
        decode_event(packed(version, *FULL))


@pytest.mark.parametrize(
    ("place", "field", "value"),
    [
        (0, "user_id", ""), (0, "user_id", "u" * 129), (0, "user_id", b"ana"), (0, "user_id", None),
        (1, "item_id", ""), (1, "item_id", 7), (2, "kind", ""), (2, "kind", "k" * 33), (2, "kind", ["view"]),
        (3, "time_ms", -1), (3, "time_ms", 1 << 62), (3, "time_ms", True), (3, "time_ms", 1.5), (3, "time_ms", None),
        (4, "event_id", ""), (4, "event_id", 7), (5, "value", float("nan")), (5, "value", float("inf")),
        (5, "value", True), (5, "value", "9"), (6, "context", [1]), (6, "context", {b"a": "b"}),
        (6, "context", {"a": b"b"}), (6, "context", {"a": {"b": "c"}}), (6, "context", {"a": 1}),
    ],
)  # fmt: skip
def test_a_record_outside_the_limits_is_refused_by_its_field(place: int, field: str, value: object) -> None:
    fields: list[object] = list(FULL)
    fields[place] = value
    with pytest.raises(DecodeError, match=f"^{field} = "):
        decode_event(packed(1, *fields))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 2000,  # nested too deep
        b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
        b"\x81\x90\xc0",  # a list as the key of a map
        b"\x92\x01\x81\x81\x01\x02\x03",
        b"\x95\x01\xa1\xff\xa1i\xa1v\x05",  # no UTF-8
        b"\x95\x01\xa3\xed\xa0\x80\xa1i\xa1v\x05",  # a lone surrogate
        b"\x95\x01\xc7\x00\xff",  # an empty timestamp
        b"\x95\x01\xd4\x07x\xa1i\xa1v\x05",  # somebody's extension type
        packed(1, "ana", "hat", "view", NOW) + b"\x00",
        packed(1, "ana", "hat", "view"),
        packed(),
        packed(1, "ana", "hat", "view", NOW, None, None, {"a": "b" * MAX_WIRE_BYTES}),
        b'{"user_id": "ana"}',
    ],
)
def test_bytes_that_are_no_event_are_refused_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_event(data)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.binary(), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=60) | st.lists(anything, max_size=9).map(lambda fields: packed(1, *fields)))
def test_whatever_the_bytes_a_reader_gets_an_event_or_a_decode_error(data: bytes) -> None:
    try:
        event = decode_event(data)
    except DecodeError:
        return
    assert decode_event(encode_event(event)) == event


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_event_is_an_event_or_a_decode_error(place: int, byte: int) -> None:
    data = bytearray(encode_event(FULL))
    data[place % len(data)] = byte
    try:
        decode_event(bytes(data))
    except DecodeError:
        return


ids = st.text(min_size=1, max_size=128).filter(lambda text: text.isprintable())
bodies = st.fixed_dictionaries(
    {"user_id": ids, "item_id": ids, "kind": st.sampled_from(sorted(BORDER.kinds))},
    optional={
        "time_ms": st.none() | st.integers(NOW - 3_600_000, NOW + 300_000),
        "event_id": st.none() | ids,
        "value": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6),
        "context": st.none() | st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=16),
    },
)


@given(bodies)
def test_what_the_border_lets_in_comes_out_of_the_log_as_it_was(raw: dict[str, Any]) -> None:
    try:
        event = BORDER.accept(raw, NOW)
    except InvalidEvent as refused:
        assert "bytes" in refused.reason or "Unicode" in refused.reason  # noqa: PT017
        return
    data = encode_event(event)
    assert len(data) <= MAX_WIRE_BYTES
    assert decode_event(data) == event


def test_the_largest_event_the_border_lets_in_fits_on_the_wire() -> None:
    longest = "🎩" * 32
    kind = "\U0001f3a9" * 32
    context = {f"{n:064d}": "" for n in range(16)}
    raw = {"user_id": longest, "item_id": longest, "kind": kind, "event_id": longest, "value": 1e308,
           "time_ms": NOW, "context": context}  # fmt: skip
    event = Border({kind}).accept(raw, NOW)
    assert decode_event(encode_event(event)) == event
    assert len(encode_event(event)) < MAX_WIRE_BYTES


LONG = "x" * 129
REFUSED: list[tuple[str, object, str, str]] = [
    ("user_id", "", "user_id", "at least 1"), ("user_id", LONG, "user_id", "at most 128"),
    ("user_id", "é" * 65, "user_id", "130 bytes"), ("user_id", "a\x00b", "user_id", "control"),
    ("user_id", "a\nb", "user_id", "control"), ("user_id", "\ud800", "user_id", "unicode"),
    ("user_id", 7, "user_id", "string"), ("user_id", None, "user_id", "string"),
    ("item_id", "", "item_id", "at least 1"), ("item_id", LONG, "item_id", "at most 128"),
    ("item_id", "a\x7fb", "item_id", "control"), ("item_id", ["hat"], "item_id", "string"),
    ("event_id", "", "event_id", "at least 1"), ("event_id", LONG, "event_id", "at most 128"),
    ("event_id", "\x1b", "event_id", "control"), ("event_id", 7, "event_id", "string"),
    ("kind", "", "kind", "at least 1"), ("kind", "k" * 33, "kind", "at most 32"),
    ("kind", "gift", "kind", "click, sale, view"), ("kind", "erase", "kind", "known kinds"),
    ("kind", "VIEW", "kind", "known kinds"), ("kind", None, "kind", "string"),
    ("time_ms", NOW + 300_001, "time_ms", "in the future"), ("time_ms", NOW - 3_600_001, "time_ms", "old"),
    ("time_ms", -1, "time_ms", "greater"), ("time_ms", 10**400, "time_ms", "less"),
    ("time_ms", 1.5, "time_ms", "integer"),
    ("time_ms", "1700000000000", "time_ms", "integer"), ("time_ms", True, "time_ms", "integer"),
    ("value", float("nan"), "value", "finite"), ("value", float("-inf"), "value", "finite"),
    ("value", 10**400, "value", "number"),
    ("value", "9.5", "value", "number"), ("value", True, "value", "number"),
    ("context", {"n" * 500: "v" * 600}, "context", f"at most {MAX_CONTEXT_BYTES}"),
    ("context", {str(n): "" for n in range(17)}, "context", "at most 16"),
    ("context", {"a": 1}, "context.a", "string"), ("context", {"a": None}, "context.a", "string"),
    ("context", {"a": "\udfff"}, "context", "Unicode"), ("context", ["a"], "context", "dictionary"),
    ("colour", "red", "colour", "not permitted"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "named", "reason"), REFUSED)
def test_the_border_names_the_field_the_value_and_the_reason(
    field: str, value: object, named: str, reason: str
) -> None:
    with pytest.raises(InvalidEvent) as refused:
        BORDER.accept(GOOD | {field: value}, NOW)
    assert refused.value.field == named
    assert reason.lower() in refused.value.reason.lower()
    assert len(refused.value.value) <= 81
    assert str(refused.value) == f"{named} = {refused.value.value}: {refused.value.reason}"
    str(refused.value).encode()  # goes into an answer and into a log as it is


def test_numbers_too_long_to_print_are_refused_too() -> None:
    for field in ("time_ms", "value", "user_id"):
        with pytest.raises(InvalidEvent, match=f"^{field} = int too long to show"):
            BORDER.accept(GOOD | {field: 10**5000}, NOW)


@pytest.mark.parametrize("raw", [None, [], "event", 7, {}, {"user_id": "ana"}, [GOOD]])
def test_what_is_no_event_at_all_is_refused(raw: object) -> None:
    with pytest.raises(InvalidEvent):
        BORDER.accept(raw, NOW)


def test_clocks_may_be_off_by_exactly_so_much() -> None:
    for time_ms in (NOW + 300_000, NOW - 3_600_000):
        assert BORDER.accept(GOOD | {"time_ms": time_ms}, NOW).time_ms == time_ms
    assert BORDER.accept(GOOD, NOW).time_ms == NOW


def test_one_bad_event_among_a_thousand_is_the_only_one_refused() -> None:
    batch = [GOOD | {"item_id": f"item-{n}"} for n in range(1000)]
    batch[637]["item_id"] = ""
    refused = []
    for place, raw in enumerate(batch):
        try:
            BORDER.accept(raw, NOW)
        except InvalidEvent:
            refused.append(place)
    assert refused == [637]


def test_an_id_from_elsewhere_is_checked_as_an_event_s_would_be() -> None:
    assert check_user_id("ana") == "ana"
    for bad in ("", LONG, "a\x00", "\ud800", ".", ".."):
        with pytest.raises(InvalidEvent, match=r"^user_id = "):
            check_user_id(bad)


def test_ids_that_no_path_can_name_are_refused() -> None:
    """`DELETE /v1/users/sam/timeline/..` would erase sam: clients make `/v1/users/sam/` of it before they ask."""
    for field in ("user_id", "item_id"):
        for bad in (".", ".."):
            with pytest.raises(InvalidEvent, match=f"^{field} = {re.escape(bad)}: a path cannot name it"):
                BORDER.accept(GOOD | {field: bad}, NOW)
        assert BORDER.accept(GOOD | {field: "..."}, NOW)


def test_an_erasure_travels_as_an_event_without_an_item() -> None:
    assert decode_event(encode_event(erasure("ana", NOW))) == Event("ana", "", "erase", NOW)
    with pytest.raises(DecodeError, match="item_id"):
        decode_event(encode_event(Event("ana", "", "view", NOW)))

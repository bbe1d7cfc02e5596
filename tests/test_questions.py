"""Query strings: what most of them look like is read at once, and means what the long way would make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.questions import Question, from_query
from serving.refusals import Refused

USERS = st.text("abcXYZ019_.~-", min_size=1, max_size=130)
NUMBERS = st.one_of(st.none(), st.integers(0, 1200).map(str), st.sampled_from(["007", "000", "", "2²", "1_0", "+5"]))


def read(query: bytes) -> Question | tuple[str, str]:
    try:
        return from_query(query)
    except Refused as refused:
        return refused.field, refused.reason


@given(user=USERS, k=NUMBERS)
def test_a_query_means_the_same_whether_it_has_to_be_decoded_or_not(user: str, k: str | None) -> None:
    rest = b"" if k is None else b"&k=" + k.encode()
    decoded = b"user=%%%02X%b" % (ord(user[0]), user[1:].encode())
    assert read(b"user=" + user.encode() + rest) == read(decoded + rest)


@pytest.mark.parametrize("k", [b"0", b"201", b"-1", b"1e1", b"\xb2"])
def test_a_number_of_items_out_of_range_is_refused_by_name(k: bytes) -> None:
    found = read(b"user=ana&k=" + k)
    assert found[:1] == ("k",)

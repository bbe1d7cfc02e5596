"""What a post is told of its events: short, safe in a URL, and nothing but itself is taken for one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.log import Position
from stream.tokens import MAX_CHARACTERS, BadToken, Token, decode_token

positions = st.lists(st.builds(Position, st.integers(0, 1023), st.integers(0, 1 << 40)), min_size=1, max_size=50)


@given(st.integers(0, (1 << 64) - 1), positions)
def test_a_token_says_how_far_each_partition_must_be_read_and_comes_back_from_a_url(
    log: int, written: list[Position]
) -> None:
    token = Token.of(log, written)
    assert all(token.ends[partition] > offset for partition, offset in written)
    assert set(token.ends) == {partition for partition, _ in written}
    assert re.fullmatch(r"[\w-]+", token.encode())
    assert decode_token(token.encode()) == token


def test_a_token_is_short() -> None:
    assert len(Token.of(1 << 63 | 12345678901, [Position(3, 10_000_000)]).encode()) <= 24
    assert len(Token.of((1 << 64) - 1, [Position(n, 1 << 31) for n in range(1000)]).encode()) <= MAX_CHARACTERS


@given(positions, st.data())
def test_what_is_cut_or_altered_is_told(written: list[Position], data: st.DataObject) -> None:
    """One altered letter is at most eight altered bits together, which the seal always tells."""
    text = Token.of(7, written).encode()
    place = data.draw(st.integers(0, len(text) - 2))  # the last letter has bits that mean nothing
    other = data.draw(st.sampled_from("abcXYZ019-_").filter(lambda letter: letter != text[place]))
    with pytest.raises(BadToken):
        decode_token(text[:place] + other + text[place + 1 :])
    with pytest.raises(BadToken):
        decode_token(text[: -len(text) // 2])


@pytest.mark.parametrize("text", ["", "x", "é" * 9, "%%%", "AAAA", "A" * 20_000, "kwEA", "=" * 8])
def test_other_texts_are_no_tokens(text: str) -> None:
    with pytest.raises(BadToken):
        decode_token(text)

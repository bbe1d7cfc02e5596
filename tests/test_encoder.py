from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from led.encoder import F64, I64, NEVER_MS, Encoder, Events, Newest, Sums, encode, fold, head_terms, worn

ITEMS, DIM, USERS = 6, 5, 3
EMBEDDINGS = np.random.default_rng(3).standard_normal((ITEMS, DIM)).astype(np.float32)
IGNORED, VIEW, SALE = 0, 1, 2
WEIGHTS = {IGNORED: 0.0, VIEW: 1.0, SALE: 5.0}
SECOND = 1000


class Seen(NamedTuple):
    user: int
    row: int
    kind: int
    time_ms: int


def events(seen: Sequence[Seen]) -> Events:
    columns = np.array(seen, np.int64).reshape(-1, 4)
    return Events(columns[:, 0], columns[:, 1], columns[:, 2].astype(np.uint8), columns[:, 3])


def by_hand(encoder: Encoder, seen: Sequence[Seen], user: int) -> F64:
    """The formula of the paper, in float64, with no thought for speed."""
    known = [e for e in seen if e.user == user and e.row >= 0 and encoder.kind_weights.get(e.kind, 0.0) > 0]
    if not known:
        return np.zeros(DIM)
    newest = max(e.time_ms for e in known)
    half_life_ms = 1000 * (encoder.half_life_s or np.inf)
    weights = np.array([encoder.kind_weights[e.kind] * 0.5 ** ((newest - e.time_ms) / half_life_ms) for e in known])
    for factor, place in zip(encoder.head_weights, range(len(known))[::-1], strict=False):
        weights[place] *= factor
    vectors = np.array([EMBEDDINGS[e.row].astype(np.float64) for e in known])
    return np.asarray(weights @ vectors / weights.sum())


def newest(timelines: Sequence[Sequence[Seen]], how_many: int, at_ms: I64) -> Newest:
    nothing = [Seen(0, -1, SALE, 0)] * how_many
    ends = np.array([[*nothing, *timeline][-how_many:] for timeline in timelines], np.int64)
    return Newest(ends[:, :, 1], ends[:, :, 2].astype(np.uint8), at_ms[:, None] - ends[:, :, 3])


def read(encoder: Encoder, sums: Sums, timelines: Sequence[Sequence[Seen]], how_many: int) -> Sums:
    """What a reader makes of running sums: the heads added, from so many newest events or from all where needed."""
    for most in (how_many, 1 + max(map(len, timelines))):
        totals, weights, counted = head_terms(encoder, EMBEDDINGS, newest(timelines, most, sums.at_ms))
        if (counted >= len(encoder.head_weights)).all():
            break
    return Sums(sums.totals + totals, sums.weights + weights, sums.at_ms, sums.masses)


def follow(encoder: Encoder, batches: Sequence[Sequence[Seen]], cap: int) -> tuple[Sums, list[Seen]]:
    """Fold batch by batch with timelines of `cap` events, as a consumer does; also what the timelines hold at the end.

    After every batch the vectors read of the running sums are compared with the formula.
    """
    sums, timelines = Sums.zeros(USERS, DIM), [list[Seen]() for _ in range(USERS)]
    for batch in batches:
        left: list[Seen] = []
        for event in batch:
            timelines[event.user].append(event)
        for timeline in timelines:
            surplus = max(len(timeline) - cap, 0)
            left += timeline[:surplus]
            del timeline[:surplus]
        sums = fold(encoder, EMBEDDINGS, sums, events(batch), events(left))
        kept = [event for timeline in timelines for event in timeline]
        again = encode(encoder, EMBEDDINGS, USERS, events(kept)).vectors()
        tails = encode(encoder.tail, EMBEDDINGS, USERS, events(kept))
        for user in np.flatnonzero(worn(encoder, sums)).tolist():
            sums.totals[user], sums.weights[user] = tails.totals[user], tails.weights[user]
            sums.at_ms[user], sums.masses[user] = tails.at_ms[user], tails.masses[user]
        vectors = read(encoder, sums, timelines, len(encoder.head_weights) + 1).vectors()
        for user in range(USERS):
            np.testing.assert_allclose(again[user], by_hand(encoder, kept, user), atol=1e-5)
            np.testing.assert_allclose(vectors[user], again[user], atol=1e-4)
    return sums, [event for timeline in timelines for event in timeline]


one_event = st.builds(
    Seen,
    user=st.integers(0, USERS - 1),
    row=st.integers(-1, ITEMS - 1),
    kind=st.sampled_from([IGNORED, VIEW, SALE, 9]),
    time_ms=st.integers(0, 600 * SECOND),
)
streams = st.lists(st.lists(one_event, max_size=6), max_size=15)


heads = st.sampled_from([(), (3.9, 2.7), (0.5,), (20.0, 1.0, 0.3, 3.0)])


@given(streams, st.integers(1, 8), st.sampled_from([None, 0.5, 20.0, 1e9]), heads)
@example(
    [[Seen(0, 0, VIEW, 600 * SECOND - 4 * SECOND * n)] for n in range(8)] + [[Seen(0, -1, VIEW, 0)]] * 8, 8, 1.0, ()
)
@settings(max_examples=150, deadline=None)
def test_the_running_vector_is_the_weighted_average_on_every_prefix(
    batches: list[list[Seen]], cap: int, half_life_s: float | None, head_weights: tuple[float, ...]
) -> None:
    follow(Encoder(WEIGHTS, half_life_s, head_weights), batches, cap)


def test_thousands_of_evictions_do_not_wear_the_sums_out() -> None:
    rng = np.random.default_rng(0)
    seen = [Seen(0, int(rng.integers(ITEMS)), SALE if rng.random() < 0.1 else VIEW, n * SECOND) for n in range(3000)]
    follow(Encoder(WEIGHTS, 30.0, (3.9, 2.7)), [seen[n : n + 10] for n in range(0, 3000, 10)], 50)


def test_a_user_is_the_average_of_the_items_seen() -> None:
    sums = encode(Encoder({VIEW: 1.0}), EMBEDDINGS, 1, events([Seen(0, 1, VIEW, 5), Seen(0, 4, VIEW, 9)]))
    np.testing.assert_allclose(sums.vectors()[0], (EMBEDDINGS[1] + EMBEDDINGS[4]) / 2, rtol=1e-6)


def test_a_half_life_ago_counts_half_and_late_arrival_changes_nothing() -> None:
    encoder = Encoder({VIEW: 1.0}, half_life_s=60.0)
    old, new = Seen(0, 0, VIEW, 0), Seen(0, 1, VIEW, 60 * SECOND)
    wanted = (EMBEDDINGS[0] + 2 * EMBEDDINGS[1]) / 3
    nothing = events([])
    for order in ([old, new], [new, old]):
        sums = Sums.zeros(1, DIM)
        for event in order:
            sums = fold(encoder, EMBEDDINGS, sums, events([event]), nothing)
        np.testing.assert_allclose(sums.vectors()[0], wanted, rtol=1e-5)
        assert sums.at_ms.tolist() == [60 * SECOND]


def test_the_newest_event_counts_most_whatever_its_time_and_the_tail_by_age_alone() -> None:
    encoder = Encoder({VIEW: 1.0}, half_life_s=60.0, head_weights=(4.0, 2.0))
    oldest, late = Seen(0, 0, VIEW, 60 * SECOND), Seen(0, 1, VIEW, 0)
    sums = encode(encoder, EMBEDDINGS, 1, events([oldest, Seen(0, 2, VIEW, 60 * SECOND), late]))
    wanted = (EMBEDDINGS[0] + 2 * EMBEDDINGS[2] + 4 * 0.5 * EMBEDDINGS[1]) / 5
    np.testing.assert_allclose(sums.vectors()[0], wanted, rtol=1e-5)


def test_events_that_do_not_count_have_no_position() -> None:
    encoder = Encoder(WEIGHTS, head_weights=(3.0, 2.0))
    both = [Seen(0, 0, VIEW, 1), Seen(0, 1, VIEW, 2)]
    between = [both[0], Seen(0, -1, VIEW, 3), Seen(0, 3, IGNORED, 4), both[1], Seen(0, -1, SALE, 5)]
    wanted = encode(encoder, EMBEDDINGS, 1, events(both)).vectors()
    np.testing.assert_array_equal(encode(encoder, EMBEDDINGS, 1, events(between)).vectors(), wanted)
    terms, weights, counted = head_terms(encoder, EMBEDDINGS, newest([between], 4, np.array([2])))
    assert (weights.tolist(), counted.tolist()) == ([2.0], [1])  # the other one that counts is further back
    np.testing.assert_array_equal(terms[0], 2 * EMBEDDINGS[1])


def test_running_sums_are_those_of_the_tail() -> None:
    encoder = Encoder({VIEW: 1.0}, 60.0, (3.0,))
    assert encoder.tail == Encoder({VIEW: 1.0}, 60.0)
    seen = events([Seen(0, 0, VIEW, 1), Seen(0, 1, VIEW, 2)])
    running = fold(encoder, EMBEDDINGS, Sums.zeros(1, DIM), seen, events([]))
    tails = encode(encoder.tail, EMBEDDINGS, 1, seen)
    np.testing.assert_allclose(running.totals, tails.totals, rtol=1e-6)
    np.testing.assert_allclose([running.weights, running.masses], [tails.weights, tails.masses], rtol=1e-6)


def test_unknown_items_and_kinds_without_weight_leave_no_trace_not_even_in_the_reference_time() -> None:
    seen = events([Seen(0, -1, VIEW, 50), Seen(0, 2, IGNORED, 60), Seen(0, 2, 77, 70)])
    sums = encode(Encoder(WEIGHTS, 1.0), EMBEDDINGS, 2, seen)
    assert sums.at_ms.tolist() == [NEVER_MS, NEVER_MS]
    assert sums.weights.tolist() == [0, 0]
    assert not sums.vectors().any()


def test_when_all_that_counts_has_left_the_sums_are_worn_and_not_a_vector_of_rounding() -> None:
    encoder = Encoder({VIEW: 0.1, SALE: 0.2})
    both = events([Seen(0, 0, VIEW, 1), Seen(0, 1, SALE, 2)])
    sums = encode(encoder, EMBEDDINGS, 1, both)
    assert not worn(encoder, sums).any()
    assert worn(encoder, fold(encoder, EMBEDDINGS, sums, events([]), both)).all()


def test_an_event_from_a_clock_far_ahead_is_forgotten_whole_once_it_leaves() -> None:
    ahead = [Seen(0, 0, VIEW, 10**9)]
    after = [[Seen(0, n % ITEMS, VIEW, n * SECOND)] for n in range(10)]
    sums, kept = follow(Encoder({VIEW: 1.0}, half_life_s=0.5), [ahead, *after], cap=5)
    assert len(kept) == 5
    assert sums.at_ms[0] == 9 * SECOND


def test_a_fold_leaves_what_it_was_given_as_it_was() -> None:
    before = Sums.zeros(1, DIM)
    fold(Encoder({VIEW: 1.0}), EMBEDDINGS, before, events([Seen(0, 1, VIEW, 5)]), events([]))
    assert not before.totals.any()
    assert before.at_ms.tolist() == [NEVER_MS]


@pytest.mark.parametrize("weights", [{1: -1.0}, {256: 1.0}, {1: float("nan")}, {1: 1e-9}, {1: float("inf")}])
def test_weights_that_float32_sums_cannot_carry_are_refused(weights: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="kind_weights"):
        Encoder(weights)


@pytest.mark.parametrize("half_life_s", [0.0, -1.0, float("nan")])
def test_a_half_life_is_above_zero(half_life_s: float) -> None:
    with pytest.raises(ValueError, match="half_life_s"):
        Encoder({VIEW: 1.0}, half_life_s)


@pytest.mark.parametrize("head_weights", [(0.0,), (1.0, -2.0), (float("nan"),), (float("inf"),), (0.05,), (2.0,) * 9])
def test_head_weights_are_few_and_leave_more_than_rounding(head_weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="head_weights"):
        Encoder({VIEW: 1.0}, head_weights=head_weights)

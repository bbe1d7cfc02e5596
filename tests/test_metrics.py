from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from led.metrics import coverage, hits, mrr, ndcg, recall

RANKED = np.array([[3, 1, 4], [2, 7, 1]])
RELEVANT = [np.array([1, 9]), np.array([7])]
COUNTS = np.array([2, 1])


def test_a_hit_is_a_ranked_item_among_the_relevant_ones_of_that_very_user() -> None:
    assert hits(RANKED, RELEVANT).tolist() == [[False, True, False], [False, True, False]]


def test_padding_and_users_without_relevant_items_never_hit() -> None:
    ranked = np.array([[0, -1], [5, -1], [1, 0]])
    found = hits(ranked, [np.array([2]), np.array([], np.int64), np.array([0])])
    assert found.tolist() == [[False, False], [False, False], [False, True]]
    assert hits(np.empty((0, 5), np.int64), []).shape == (0, 5)


def test_as_many_rankings_as_users_with_relevant_items_are_needed() -> None:
    with pytest.raises(ValueError, match="2 users ranked, 1 with"):
        hits(RANKED, RELEVANT[:1])


@given(st.lists(st.tuples(st.sets(st.integers(0, 12)), st.permutations(range(13))), max_size=8), st.integers(1, 13))
def test_hits_of_all_users_at_once_are_those_of_each_alone(users: list[tuple[set[int], list[int]]], k: int) -> None:
    ranked = np.array([order[:k] for _, order in users], np.int64).reshape(len(users), k)
    found = hits(ranked, [np.array(sorted(wanted), np.int64) for wanted, _ in users])
    assert found.tolist() == [[item in wanted for item in order[:k]] for wanted, order in users]


def test_recall_is_over_all_relevant_items_or_over_those_that_fit() -> None:
    hit = np.array([[True, False]])
    assert recall(hit, np.array([4]), 2).tolist() == [0.25]
    assert recall(hit, np.array([4]), 2, truncated=True).tolist() == [0.5]
    assert recall(hit, np.array([1]), 2, truncated=True).tolist() == [1.0]


def test_ndcg_weighs_a_hit_by_its_place_and_is_one_for_the_best_possible_order() -> None:
    found = ndcg(hits(RANKED, RELEVANT), COUNTS, 3)
    second = 1 / np.log2(3)
    np.testing.assert_allclose(found, [second / (1 + second), second])
    assert ndcg(np.array([[True, True, False]]), np.array([2]), 3).tolist() == [1.0]
    assert ndcg(np.array([[True, True]]), np.array([50]), 2).tolist() == [1.0]


def test_only_the_first_k_places_count() -> None:
    hit = np.array([[False, False, True]])
    assert recall(hit, np.array([1]), 2).tolist() == [0]
    assert ndcg(hit, np.array([1]), 2).tolist() == [0]
    assert mrr(hit, 2).tolist() == [0]


def test_a_ranking_shorter_than_k_is_measured_as_it_is() -> None:
    np.testing.assert_allclose(ndcg(np.array([[True]]), np.array([1]), 20), [1.0])


def test_reciprocal_rank_is_of_the_first_hit() -> None:
    assert mrr(np.array([[False, True, True], [False, False, False], [True, False, False]]), 3).tolist() == [0.5, 0, 1]


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=6), st.integers(0, 9))
def test_metrics_lie_between_nothing_and_one(rows: list[list[bool]], more: int) -> None:
    hit = np.array(rows)
    counts = np.maximum(hit.sum(axis=1) + more, 1)
    for values in (recall(hit, counts, 5), recall(hit, counts, 5, truncated=True), ndcg(hit, counts, 5), mrr(hit, 5)):
        assert ((values >= 0) & (values <= 1 + 1e-12)).all()


def test_coverage_is_the_share_of_items_anybody_gets() -> None:
    assert coverage(np.array([[0, 1], [1, 0]]), 8) == 0.25

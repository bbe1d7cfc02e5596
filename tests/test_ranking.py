from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from led.encoder import F32
from led.ranking import score, top_k, with_bias, with_one

SCORES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([-np.inf, -1.0, 0.0, -0.0, 0.5, 2.0]),
)


@given(SCORES, st.integers(0, 15))
def test_the_best_k_are_those_of_a_full_sort_and_the_lower_column_wins_a_tie(scores: F32, k: int) -> None:
    expected = [sorted(range(len(row)), key=lambda column: (-row[column], column))[:k] for row in scores.tolist()]
    assert top_k(scores, k).tolist() == expected


def test_nobody_to_rank_for_is_no_mistake() -> None:
    assert top_k(np.empty((0, 5), np.float32), 3).shape == (0, 3)
    assert top_k(np.empty((2, 0), np.float32), 3).shape == (2, 0)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("k", [1, 2, 4])
def test_scores_that_are_no_numbers_are_refused(place: int, k: int) -> None:
    scores = np.zeros((2, 4), np.float32)
    scores[1, place] = np.nan
    with pytest.raises(ValueError, match="no numbers"):
        top_k(scores, k)


def test_a_score_is_a_product_plus_a_bias_and_one_more_dimension_says_the_same() -> None:
    rng = np.random.default_rng(0)
    vectors, items, biases = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (5, 4), (5,)))
    scores = score(vectors, items, biases)
    assert scores.shape == (3, 5)
    assert scores[2, 4] == pytest.approx(float(vectors[2] @ items[4]) + float(biases[4]), rel=1e-5)
    np.testing.assert_allclose(with_one(vectors) @ with_bias(items, biases).T, scores, rtol=1e-5)

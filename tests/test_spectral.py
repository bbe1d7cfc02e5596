from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from led.encoder import F32
from training.spectral import SpectralSettings, averaged, decompose, normalised, popularity_bias, spectral_embeddings
from training.svd import Sparse

HATS, BOOKS, LONELY = slice(0, 4), slice(4, 8), 8


def two_tastes() -> Sparse:
    """Forty users who look at hats only or at books only, three of four each; nobody looks at the last item."""
    dense = np.zeros((40, 9), np.float32)
    for user in range(40):
        first = 0 if user < 20 else 4
        dense[user, first : first + 4] = 1
        dense[user, first + user % 4] = 0
    return sp.csr_array(dense)


def random_matrix(seed: int = 0) -> Sparse:
    rng = np.random.default_rng(seed)
    touched = (rng.random((50, 20)) < 0.2) | (np.arange(20) == np.arange(50)[:, None] % 20)
    return sp.csr_array((touched * rng.choice([1, 5], (50, 20))).astype(np.float32))


def test_who_looks_at_hats_is_offered_the_hat_not_seen_and_no_book() -> None:
    inputs, outputs = spectral_embeddings(two_tastes(), SpectralSettings(dim=2))
    scores = averaged(two_tastes()) @ inputs @ outputs.T
    assert scores[0, HATS].min() > 0.5
    assert np.abs(scores[0, BOOKS]).max() < 1e-4
    assert scores[39, BOOKS].min() > 0.5
    assert np.abs(scores[39, HATS]).max() < 1e-4


def test_an_item_nobody_touched_has_no_direction_and_no_score() -> None:
    inputs, outputs = spectral_embeddings(two_tastes(), SpectralSettings(dim=2))
    assert not inputs[LONELY].any()
    assert not outputs[LONELY].any()


@pytest.mark.parametrize(("a", "p"), [(0.5, 0.0), (0.4, 1.0), (0.0, 2.0), (0.45, -0.5)])
def test_scores_are_those_of_the_formula_worked_out_densely(a: float, p: float) -> None:
    X = random_matrix()
    dense = X.toarray().astype(np.float64)
    users, items = dense.sum(axis=1, keepdims=True), dense.sum(axis=0)
    _, s, vt = np.linalg.svd(users**-a * dense * items**-0.5, full_matrices=False)
    V, s = vt[:6].T, s[:6]
    wanted = dense / users @ (V * s**p / np.sqrt(items)[:, None]) @ (V * np.sqrt(items)[:, None]).T
    inputs, outputs = spectral_embeddings(X, SpectralSettings(dim=6, a=a, p=p))
    found = averaged(X) @ inputs @ outputs.T
    scale = (dense / users * wanted).sum() / len(dense)
    np.testing.assert_allclose(found, wanted / scale, atol=1e-4)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_users_own_items_score_one_on_average_and_outputs_are_one_long(p: float) -> None:
    X = random_matrix()
    inputs, outputs = spectral_embeddings(X, SpectralSettings(dim=8, p=p))
    own = (averaged(X) @ inputs @ outputs.T * averaged(X).toarray()).sum(axis=1).mean()
    assert own == pytest.approx(1.0, rel=1e-4)
    assert np.square(outputs).sum(axis=1).mean() == pytest.approx(1.0, rel=1e-4)
    assert inputs.dtype == outputs.dtype == np.float32


def test_the_dimension_shrinks_to_the_directions_there_are() -> None:
    X = sp.csr_array(np.array([[1, 1, 0, 0], [0, 0, 1, 1]], np.float32))
    inputs, outputs = spectral_embeddings(X, SpectralSettings(dim=64))
    assert inputs.shape == outputs.shape == (4, 2)


def test_one_spectrum_serves_every_p() -> None:
    settings = SpectralSettings(dim=5, p=0.7)
    for found, wanted in zip(
        decompose(random_matrix(), settings).embeddings(0.7),
        spectral_embeddings(random_matrix(), settings),
        strict=True,
    ):
        assert np.array_equal(found, wanted)


def test_rows_and_columns_without_cells_stay_empty_instead_of_dividing_by_nothing() -> None:
    X = sp.csr_array(np.array([[4, 0, 0], [0, 0, 0]], np.float32))
    assert normalised(X, 0.5).toarray().tolist() == [[1, 0, 0], [0, 0, 0]]
    assert averaged(X).toarray().tolist() == [[1, 0, 0], [0, 0, 0]]


def test_a_matrix_without_interactions_is_refused() -> None:
    with pytest.raises(ValueError, match="no interaction"):
        spectral_embeddings(sp.csr_array(np.zeros((3, 2), np.float32)), SpectralSettings())


def test_a_popularity_bias_rises_with_popularity_and_is_nothing_at_strength_nothing() -> None:
    popularity: F32 = np.array([0, 9, 99], np.float32)
    biases = popularity_bias(popularity, 0.5)
    np.testing.assert_allclose(np.diff(biases), 0.5 * np.log(10), rtol=1e-5)
    assert biases.sum() == pytest.approx(0, abs=1e-6)
    assert not popularity_bias(popularity, 0.0).any()


@pytest.mark.parametrize("bad", [{"dim": 0}, {"a": float("nan")}, {"p": float("inf")}])
def test_settings_without_meaning_are_refused_by_name(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        SpectralSettings(**bad)  # type: ignore[arg-type]

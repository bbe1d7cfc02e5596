from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp

from training.denoised import DenoisedSettings, denoised_embeddings
from training.svd import Sparse

Floats = npt.NDArray[np.float64]
ALL = DenoisedSettings(dim=100, a=0.3, noise=0.4, ridge=5.0)


def users_of_items(seed: int = 0) -> Sparse:
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((90, 25)) < np.linspace(0.05, 0.5, 25)).astype(np.float32))


def gram_and_noise(matrix: Sparse, settings: DenoisedSettings) -> tuple[Floats, Floats]:
    dense = matrix.toarray().astype(np.float64)
    weighted = dense / dense.sum(axis=1, keepdims=True) ** settings.a
    gram = weighted.T @ weighted
    gram *= matrix.nnz / np.trace(gram)
    return gram, np.diag(settings.ridge + settings.noise / (1 - settings.noise) * np.diag(gram))


def in_step(found: Floats, expected: Floats) -> None:
    """Equal but for one factor, which no ranking sees."""
    factor = (found * expected).sum() / (expected**2).sum()
    np.testing.assert_allclose(found / factor, expected, atol=2e-4)


def test_at_full_rank_it_is_the_ridge_regression_through_noise() -> None:
    matrix = users_of_items()
    gram, noise = gram_and_noise(matrix, ALL)
    inputs, outputs = denoised_embeddings(matrix, ALL)
    assert inputs.dtype == outputs.dtype == np.float32
    expected: Floats = np.asarray(np.linalg.solve(gram + noise, gram), np.float64)
    in_step(inputs.astype(np.float64) @ outputs.T, expected)


def test_noise_is_what_dropping_items_at_random_comes_to() -> None:
    """The mean of the ridge problem over very many users of whom items were dropped."""
    settings = replace(ALL, a=0.0, noise=0.3)
    matrix = users_of_items()
    dense = matrix.toarray().astype(np.float64)
    rng = np.random.default_rng(1)
    products, targets = np.zeros((25, 25)), np.zeros((25, 25))
    rounds = 4000
    for _ in range(rounds):
        noisy = dense * (rng.random(dense.shape) >= settings.noise) / (1 - settings.noise)
        products += noisy.T @ noisy / rounds
        targets += noisy.T @ dense / rounds
    expected = np.linalg.solve(products + settings.ridge * np.eye(25), targets)
    inputs, outputs = denoised_embeddings(matrix, settings)
    found = inputs.astype(np.float64) @ outputs.T
    factor = (found * expected).sum() / (expected**2).sum()
    assert np.abs(found / factor - expected).max() < 0.01


def test_fewer_dimensions_keep_the_best_of_it() -> None:
    matrix = users_of_items()
    gram, noise = gram_and_noise(matrix, ALL)
    root = np.sqrt(np.diag(noise))
    whole = np.linalg.solve(gram + noise, gram)
    u, values, vt = np.linalg.svd(root[:, None] * whole / root)
    best = (u[:, :6] * values[:6] @ vt[:6]) / root[:, None] * root
    inputs, outputs = denoised_embeddings(matrix, replace(ALL, dim=6))
    assert inputs.shape == (25, 6)
    in_step(inputs.astype(np.float64) @ outputs.T, best)


def test_scores_of_own_items_are_1_in_the_mean_whatever_the_data() -> None:
    for times in (1, 3):
        matrix: Sparse = sp.csr_array(sp.vstack([users_of_items()] * times))
        inputs, outputs = denoised_embeddings(matrix, replace(ALL, ridge=5.0 * times))
        users = matrix.toarray() / matrix.sum(axis=1)[:, None]
        own = ((users @ inputs @ outputs.T) * users).sum(axis=1).mean()
        assert own == pytest.approx(1, rel=1e-4)
        assert np.square(outputs).sum(axis=1).mean() == pytest.approx(1, rel=1e-4)


def test_items_and_users_without_anything_do_no_harm() -> None:
    dense = users_of_items().toarray()
    dense[:, 3] = 0
    dense[7] = 0
    inputs, outputs = denoised_embeddings(sp.csr_array(dense), ALL)
    assert np.isfinite(inputs).all()
    assert np.isfinite(outputs).all()
    assert not (inputs @ outputs.T)[3].round(5).any()


@pytest.mark.parametrize(
    ("wrong", "said"), [({"dim": 0}, "dim = 0"), ({"noise": 1.0}, "noise = 1"), ({"ridge": 0.0}, "ridge = 0")]
)
def test_settings_without_meaning_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(ALL, **wrong)  # type: ignore[arg-type]

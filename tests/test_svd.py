from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from training.svd import Sparse, Svd, find_basis, orthonormal, randomized_svd, recover

Floats = npt.NDArray[np.floating[Any]]


def sparse(dense: Floats) -> Sparse:
    return sp.csr_array(dense.astype(np.float32))


def with_spectrum(values: Floats, rows: int, columns: int) -> Sparse:
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.standard_normal((size, len(values))))[0] for size in (rows, columns))
    return sparse(left * values @ right.T)


def rebuilt(svd: Svd) -> Floats:
    return svd.left * svd.values @ svd.right.T


def test_a_matrix_of_low_rank_is_found_exactly() -> None:
    A = with_spectrum(np.array([9.0, 5.0, 2.0]), 60, 40)
    svd = randomized_svd(A, 3, rng=np.random.default_rng(0))
    np.testing.assert_allclose(svd.values, [9, 5, 2], rtol=1e-5)
    np.testing.assert_allclose(rebuilt(svd), A.toarray(), atol=1e-5)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_with_room_for_every_direction_it_is_the_exact_svd(rows: int, columns: int, rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    A = sparse(rng.standard_normal((rows, columns)) * (rng.random((rows, columns)) < 0.3))
    svd = randomized_svd(A, rank, oversample=40, rng=rng)
    u, values, vt = np.linalg.svd(A.toarray().astype(np.float64), full_matrices=False)
    kept = min(rank, rows, columns)
    assert svd.left.shape == (rows, kept)
    assert svd.right.shape == (columns, kept)
    np.testing.assert_allclose(svd.values, values[:kept], atol=1e-5)
    np.testing.assert_allclose(rebuilt(svd), u[:, :kept] * values[:kept] @ vt[:kept], atol=2e-3)


def bound(n: float, k: int, p: int, q: int) -> float:
    """How many times the first singular value left out the basis may miss, by LED's paper."""
    return float(((np.sqrt(n - k) + np.sqrt(k)) / (np.sqrt(k + p) - np.sqrt(k))) ** (1 / (1 + 2 * q)))


def missed(A: Sparse, rank: int, *, oversample: int, power_iterations: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    Q = find_basis(A, rank, oversample=oversample, power_iterations=power_iterations, rng=rng)
    return float(np.linalg.norm(A - Q @ (Q.T @ A), ord=2))


def test_the_bound_is_the_one_of_the_paper() -> None:
    assert bound(1e9, k=100, p=30, q=3) == pytest.approx(4.19, abs=0.005)


@pytest.mark.parametrize("power_iterations", [0, 1, 2])
@pytest.mark.parametrize("falling", [0.5, 1.0, 2.0])
def test_the_basis_keeps_its_bound_whatever_the_seed(power_iterations: int, falling: float) -> None:
    n, k, p = 200, 20, 10
    values = 1.0 / np.arange(1, n + 1) ** falling
    A = with_spectrum(values, 250, n)
    worst = max(missed(A, k, oversample=p, power_iterations=power_iterations, seed=seed) for seed in range(10))
    assert values[k + p] * 0.999 <= worst <= values[k] * bound(n, k, p, power_iterations)  # k + p columns: no less


def test_power_iterations_and_oversampling_each_bring_the_basis_nearer_to_the_best_one() -> None:
    values = 1.0 / np.arange(1, 201) ** 0.5
    A = with_spectrum(values, 250, 200)

    def usual(oversample: int, power_iterations: int) -> float:
        """How far from the best basis of 20 columns, in times what that misses; the mean of five seeds."""
        each = [missed(A, 20, oversample=oversample, power_iterations=power_iterations, seed=n) for n in range(5)]
        return float(np.mean(each) / values[20])

    assert usual(10, 3) < usual(10, 1) < usual(10, 0)
    assert usual(40, 1) < usual(10, 1) < usual(0, 1)
    assert usual(10, 3) < 1.02  # ten columns beyond the twenty: it may even be under 1


def test_power_iterations_bring_the_singular_values_nearer() -> None:
    values = 1.0 / np.arange(1, 301) ** 0.5
    A = with_spectrum(values, 400, 300)

    def worst(power_iterations: int) -> float:
        rng = np.random.default_rng(0)
        found = randomized_svd(A, 20, oversample=10, power_iterations=power_iterations, rng=rng)
        return float(np.abs(found.values - values[:20]).max())

    assert worst(3) < worst(1) < worst(0)
    assert worst(3) < 0.01


def test_small_singular_values_survive_large_ones() -> None:
    A = with_spectrum(np.array([1000.0, 10.0, 0.1]), 80, 50)
    np.testing.assert_allclose(randomized_svd(A, 3, rng=np.random.default_rng(0)).values, [1000, 10, 0.1], rtol=1e-2)


@given(st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_bases_and_vectors_are_orthonormal_whatever_the_rank(rank: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    A = sparse(rng.standard_normal((40, rank)) @ rng.standard_normal((rank, 30)))
    Q = find_basis(A, 10, oversample=5, power_iterations=2, rng=rng)
    svd = recover(A, Q, 10)
    for columns in (Q, svd.left, svd.right):
        assert columns.dtype == np.float32
        np.testing.assert_allclose(columns.T @ columns, np.eye(columns.shape[1]), atol=1e-5)


def test_recover_is_exact_on_what_the_basis_holds() -> None:
    A = with_spectrum(np.array([4.0, 3.0, 2.0, 1.0]), 30, 20)
    Q = orthonormal(np.random.default_rng(0).standard_normal((30, 6), dtype=np.float32))
    np.testing.assert_allclose(rebuilt(recover(A, Q, 6)), Q @ (Q.T @ A), atol=1e-5)


def test_asking_for_more_than_the_matrix_has_gives_what_it_has() -> None:
    svd = randomized_svd(sparse(np.diag([3.0, 2.0])), 50, rng=np.random.default_rng(0))
    np.testing.assert_allclose(svd.values, [3, 2], rtol=1e-6)
    np.testing.assert_allclose(np.abs(svd.right), np.eye(2), atol=1e-6)


def test_a_matrix_of_zeros_has_zeros_for_values_and_still_orthonormal_vectors() -> None:
    svd = randomized_svd(sparse(np.zeros((7, 5))), 3, rng=np.random.default_rng(0))
    assert svd.values.tolist() == [0, 0, 0]
    np.testing.assert_allclose(svd.right.T @ svd.right, np.eye(3), atol=1e-6)


def test_one_seed_gives_one_result_and_signs_do_not_depend_on_the_seed() -> None:
    A = with_spectrum(np.array([9.0, 5.0, 2.0]), 60, 40)
    first, again, other = (randomized_svd(A, 3, rng=np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first.right, again.right)
    assert np.array_equal(first.left, again.left)
    np.testing.assert_allclose(first.right, other.right, atol=1e-4)


@pytest.mark.parametrize(("rank", "oversample", "power_iterations"), [(0, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_settings_without_meaning_are_refused(rank: int, oversample: int, power_iterations: int) -> None:
    with pytest.raises(ValueError, match=f"rank = {rank}, oversample = {oversample}"):
        find_basis(
            sparse(np.eye(3)),
            rank,
            oversample=oversample,
            power_iterations=power_iterations,
            rng=np.random.default_rng(0),
        )


def test_progress_rises_from_nothing_to_all() -> None:
    seen: list[tuple[int, int]] = []
    randomized_svd(
        sparse(np.eye(9)),
        2,
        power_iterations=1,
        rng=np.random.default_rng(0),
        progress=lambda _what, done, total: seen.append((done, total)),
    )
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]

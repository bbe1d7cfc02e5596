from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from training.pmi import PmiSettings, TooLarge, estimated_bytes, log_shares, meetings, pmi_embeddings, positive_pmi
from training.svd import Sparse
from training.train import TooFewEvents

ALL = PmiSettings(min_count=0)


def matrix(rows: list[list[float]]) -> Sparse:
    return sp.csr_array(np.array(rows, np.float32))


HATS_AND_BOOKS = matrix([[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1]])
"""Hats 0 and 1 meet three times, each meets book 2 once, and book 2 meets book 3 once: n = 12, sums 4, 4, 3, 1."""


def slow(users: Sparse, settings: PmiSettings) -> np.typing.NDArray[np.float64]:
    """The formula as the paper's readers write it, on dense arrays."""
    met = (users.toarray() > 0).astype(np.float64)
    cells = met.T @ met
    np.fill_diagonal(cells, 0)
    rare = cells.sum(axis=1) < settings.min_count
    cells[rare] = 0
    cells[:, rare] = 0
    total, s = cells.sum(), settings.smoothing
    column_powers = np.where(cells.sum(axis=0) > 0, cells.sum(axis=0), 1.0) ** s * (cells.sum(axis=0) > 0)
    smoothed = (cells[cells > 0] ** s).sum() if settings.cell_sums else column_powers.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(cells / total) - np.log(cells.sum(axis=1) / total)[:, None] - np.log(column_powers / smoothed)
    return np.where(cells > 0, np.maximum(found - math.log(settings.shift), 0), 0)


def test_mutual_information_of_four_items_is_what_one_works_out_by_hand() -> None:
    found = positive_pmi(HATS_AND_BOOKS, ALL).toarray()
    smoothed = 4**0.75 + 4**0.75 + 3**0.75 + 1  # of the column sums
    assert found[0, 1] == pytest.approx(math.log((3 / 12) / (4 / 12 * 4**0.75 / smoothed)))
    assert found[2, 3] == pytest.approx(math.log((1 / 12) / (3 / 12 * 1 / smoothed)))
    assert found[3, 2] == pytest.approx(math.log((1 / 12) / (1 / 12 * 3**0.75 / smoothed)))
    assert found[0, 2] == pytest.approx(max(math.log((1 / 12) / (4 / 12 * 3**0.75 / smoothed)), 0))
    assert found[0, 0] == found[0, 3] == found[1, 3] == 0


def test_the_other_normaliser_moves_every_value_up_by_one_constant() -> None:
    columns = positive_pmi(HATS_AND_BOOKS, ALL).toarray()
    cells = positive_pmi(HATS_AND_BOOKS, replace(ALL, cell_sums=True)).toarray()
    smoothed = 2 * 3**0.75 + 6 * 1  # of the cells: 3 twice, 1 six times
    up = math.log(smoothed / (4**0.75 + 4**0.75 + 3**0.75 + 1))
    assert cells[0, 1] == pytest.approx(columns[0, 1] + up)
    assert cells[2, 3] == pytest.approx(columns[2, 3] + up)


def test_a_shift_is_taken_off_and_nothing_falls_below_zero() -> None:
    plain, shifted = (positive_pmi(HATS_AND_BOOKS, replace(ALL, shift=k)).toarray() for k in (1.0, 2.0))
    np.testing.assert_allclose(shifted, np.maximum(plain - math.log(2), 0), atol=1e-6)


@pytest.mark.parametrize("cell_sums", [False, True])
@pytest.mark.parametrize("min_count", [0, 30])
def test_blocks_and_sums_that_never_hold_the_counts_give_the_formula(
    monkeypatch: pytest.MonkeyPatch, cell_sums: bool, min_count: int
) -> None:
    monkeypatch.setattr("training.pmi.CELLS_AT_ONCE", 200)
    rng = np.random.default_rng(0)
    users: Sparse = sp.csr_array((rng.random((80, 50)) < 0.5 * rng.random(50)).astype(np.float32))
    settings = replace(ALL, cell_sums=cell_sums, min_count=min_count, shift=1.2)
    found = positive_pmi(users, settings)
    np.testing.assert_allclose(found.toarray(), slow(users, settings), atol=1e-5)
    assert found.data.min() > 0


def test_items_that_hardly_meet_others_are_left_out_and_nobody_divides_by_them() -> None:
    inputs, outputs, biases = pmi_embeddings(HATS_AND_BOOKS, replace(ALL, min_count=3, dim=3))
    assert np.abs(inputs).sum(axis=1).tolist()[3] == 0
    assert np.isfinite(inputs).all()
    assert inputs is outputs
    np.testing.assert_allclose(biases, np.log(np.array([3, 3, 2, 1]) / 9), rtol=1e-6)
    with pytest.raises(TooFewEvents, match="min_count = 99"):
        positive_pmi(HATS_AND_BOOKS, replace(ALL, min_count=99))


def test_scalings_are_of_the_singular_values_and_rows_are_of_unit_length_where_asked() -> None:
    rng = np.random.default_rng(1)
    users: Sparse = sp.csr_array((rng.random((60, 20)) < 0.3).astype(np.float32))
    plain = replace(ALL, dim=5, unit_rows=False)
    u, root, us = (pmi_embeddings(users, replace(plain, scaling=name))[0] for name in ("U", "U sqrt S", "US"))
    values = np.linalg.svd(positive_pmi(users, ALL).toarray(), compute_uv=False)[:5]
    np.testing.assert_allclose(u * values, us, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(u * np.sqrt(values), root, rtol=1e-3, atol=1e-4)
    unit = pmi_embeddings(users, replace(plain, unit_rows=True))[0]
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-5)


def test_a_bias_is_the_log_share_of_events_or_nothing() -> None:
    assert log_shares(matrix([[1, 0], [1, 0]])).tolist() == pytest.approx([0.0, math.log(0.25)])
    assert not pmi_embeddings(HATS_AND_BOOKS, replace(ALL, log_count_bias=False))[2].any()


def test_row_sums_follow_from_how_many_items_users_have() -> None:
    assert meetings(HATS_AND_BOOKS).tolist() == [4, 4, 3, 1]


def test_what_would_not_fit_is_refused_with_the_count_that_would() -> None:
    rng = np.random.default_rng(2)
    users: Sparse = sp.csr_array((rng.random((400, 300)) < np.linspace(0.001, 0.2, 300)).astype(np.float32))
    with pytest.raises(TooLarge, match="min_count = 0: about ") as refused:
        positive_pmi(users, replace(ALL, max_bytes=300_000))
    fits = int(str(refused.value).split("with min_count = ")[1].split()[0])
    said: list[str] = []
    settings = replace(ALL, min_count=fits, max_bytes=300_000)
    found = positive_pmi(users, settings, lambda what, _done, _total: said.append(what))
    assert 12 * found.nnz <= 300_000
    assert said[0].startswith("mutual information, 0 MB")


def test_the_estimate_from_a_sample_is_near_and_never_above_what_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.pmi.SAMPLED_ITEMS", 100)
    rng = np.random.default_rng(3)
    users: Sparse = sp.csr_array((rng.random((300, 400)) < np.linspace(0.001, 0.05, 400)).astype(np.float32))
    exact = 12 * ((users.T @ users).nnz - np.count_nonzero(users.sum(axis=0)))
    assert estimated_bytes(users) == pytest.approx(exact, rel=0.15)


def test_two_tastes_lie_apart() -> None:
    rng = np.random.default_rng(4)
    likes = np.repeat(np.eye(2), 10, axis=1)[rng.integers(2, size=200)]
    users: Sparse = sp.csr_array((rng.random((200, 20)) < 0.02 + 0.4 * likes).astype(np.float32))
    rows = pmi_embeddings(users, replace(ALL, dim=2))[0]
    near = rows @ rows.T
    assert near[:10, :10].mean() > near[:10, 10:].mean() + 0.5


@pytest.mark.parametrize(("wrong", "said"), [({"dim": 0}, "dim = 0"), ({"shift": 0.0}, "shift = 0")])
def test_settings_without_meaning_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(ALL, **wrong)  # type: ignore[arg-type]

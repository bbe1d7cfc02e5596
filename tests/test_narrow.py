"""Narrow tables: the gradient is right, and a few dimensions rank many groups of items better than truncation does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from led.encoder import F32, F64
from training.evaluate import Split, folding, measure, split
from training.interactions import without_times
from training.narrow import Lesson, NarrowSettings, Wide, contrast, descent, drawn, narrow_embeddings
from training.spectral import SpectralSettings, averaged, spectral_embeddings
from training.svd import Sparse

MANY_GROUPS = NarrowSettings(dim=8, wide=40, users=400, candidates=200, steps=60, learning_rate=0.01)


@pytest.fixture(scope="module")
def parts() -> Split:
    """1,200 users who each keep to one or two of forty groups of ten items, the groups of unlike size."""
    rng = np.random.default_rng(0)
    sizes = np.arange(1, 41) ** -0.5
    users, items = [], []
    for user in range(1200):
        groups = rng.choice(40, 2, replace=False, p=sizes / sizes.sum())
        chosen = rng.choice(groups, 12) * 10 + rng.integers(0, 10, 12)
        stray = rng.integers(0, 400, 2)
        mine = np.unique(np.concatenate([chosen, stray]))
        users.append(np.full(len(mine), user))
        items.append(mine)
    cells = without_times(np.concatenate(users), np.concatenate(items))
    return split(cells, np.random.default_rng(1))


def test_eight_dimensions_rank_forty_groups_better_than_truncation_does(parts: Split) -> None:
    truncated = spectral_embeddings(parts.train.matrix, SpectralSettings(dim=8))
    narrow = narrow_embeddings(parts.train.matrix, MANY_GROUPS)
    assert narrow[0].shape == narrow[1].shape == (parts.train.matrix.shape[1], 8)
    for task in parts.tasks.values():
        before, after = (measure(folding(*tables, _no_bias(tables)), task).recall for tables in (truncated, narrow))
        assert after > 1.1 * before


def test_the_same_interactions_and_settings_make_the_same_tables(parts: Split) -> None:
    first, second = (narrow_embeddings(parts.train.matrix, MANY_GROUPS) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_loss_and_gradients_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(2)
    matrix: Sparse = sp.csr_array((rng.random((40, 30)) < 0.3).astype(np.float32))
    wide = Wide(_normal(rng, 30, 12), _normal(rng, 30, 12), _lengths(rng), _lengths(rng))
    lesson = drawn(matrix, NarrowSettings(dim=5, wide=12, users=20, targets=3), rng)
    others = rng.integers(0, 30, 7)
    tables = (_normal(rng, 12, 5), _normal(rng, 12, 5))
    for which, slope in enumerate(descent(wide, tables, lesson, others, 0.4)[:2]):
        for place in ((0, 0), (3, 2), (11, 4)):
            sides = []
            for nudge in (1e-4, -1e-4):
                nudged = [table.astype(np.float64) for table in tables]
                nudged[which][place] += nudge
                sides.append(_loss(wide, (nudged[0], nudged[1]), lesson, others, 0.4))
            assert slope[place] == pytest.approx((sides[0] - sides[1]) / 2e-4, rel=1e-3, abs=1e-6)


def test_the_loss_does_not_depend_on_how_many_users_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    wanted: Sparse = sp.csr_array((rng.random((50, 30)) < 0.2).astype(np.float32))
    given = (_normal(rng, 50, 4), _normal(rng, wanted.nnz, 4), _normal(rng, 9, 4), wanted, 1.0)
    whole = contrast(*given)
    monkeypatch.setattr("training.narrow.ROWS_AT_ONCE", 7)
    in_parts = contrast(*given)
    assert in_parts.loss == pytest.approx(whole.loss)
    for one, other in zip(in_parts[1:], whole[1:], strict=True):
        assert np.allclose(one, other, atol=1e-6)


def test_a_lesson_shows_and_wants_different_items_of_the_same_users() -> None:
    rng = np.random.default_rng(4)
    matrix: Sparse = sp.csr_array((rng.random((40, 30)) < 0.5).astype(np.float32))
    lesson = drawn(matrix, NarrowSettings(dim=1, users=40, masked=0.5, targets=3), rng)
    assert lesson.shown.multiply(lesson.wanted).nnz == 0
    assert (matrix - lesson.shown - lesson.wanted).min() == 0
    assert 2 < lesson.wanted.nnz / 40 <= 3.5
    everything = drawn(matrix, NarrowSettings(dim=1, users=40, masked=0.0, targets=1000), rng)
    assert everything.shown.nnz == everything.wanted.nnz == matrix.nnz


def test_own_items_score_one_and_items_without_interactions_have_zero_rows(parts: Split) -> None:
    matrix = parts.train.matrix.copy()
    matrix.data[matrix.indices == 3] = 0
    matrix.eliminate_zeros()
    inputs, outputs = narrow_embeddings(matrix, replace(MANY_GROUPS, steps=5))
    assert not inputs[3].any()
    assert not outputs[3].any()
    users = averaged(matrix)
    assert np.einsum("ud,ud->u", users @ inputs, users @ outputs).mean() == pytest.approx(1, rel=1e-3)
    assert np.square(outputs).sum(axis=1).mean() == pytest.approx(1, rel=1e-3)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="dim = 9, wide = 8"):
        NarrowSettings(dim=9, wide=8)
    with pytest.raises(ValueError, match="masked = 1"):
        NarrowSettings(masked=1.0)
    with pytest.raises(ValueError, match="temperature = 0"):
        NarrowSettings(temperature=0.0)
    with pytest.raises(ValueError, match="level = 2"):
        NarrowSettings(level=2.0)


def _normal(rng: np.random.Generator, rows: int, columns: int) -> F32:
    return rng.standard_normal((rows, columns), dtype=np.float32)


def _lengths(rng: np.random.Generator) -> F32:
    return (rng.random(30) + 0.5).astype(np.float32)


def _no_bias(tables: tuple[F32, F32]) -> F32:
    return np.zeros(len(tables[1]), np.float32)


def _loss(wide: Wide, tables: tuple[F64, F64], lesson: Lesson, others: np.ndarray, temperature: float) -> float:
    """The formula of the module, a user and a target at a time."""
    users = averaged(lesson.shown).toarray().astype(np.float64) @ wide.inputs @ tables[0]
    items = wide.outputs @ tables[1]
    wanted = lesson.wanted.toarray() > 0
    loss = 0.0
    for user, row in zip(users, wanted, strict=True):
        lengths = np.maximum(np.linalg.norm(items, axis=1) * np.linalg.norm(user), 1e-8)
        raised = np.exp(items @ user * wide.popular / lengths / temperature)
        for item in np.flatnonzero(row):
            loss -= np.log(raised[item] / (raised[item] + raised[others].sum())) / row.sum()
    return float(loss / np.count_nonzero(wanted.any(axis=1)))

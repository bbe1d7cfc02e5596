from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp

from led.encoder import F32
from training.baselines.clusters import ClusterBest
from training.baselines.contract import PATIENCE, Fitted, Recipe, best_of, fitted_for
from training.baselines.linear import Ease, item_weights
from training.baselines.ours import DenoisedLed, JoinedLed, PmiLed, SpectralLed
from training.baselines.popularity import MostPopular, RecentPopular
from training.evaluate import Scorer, Task, measure, popular
from training.interactions import Interactions, without_times
from training.svd import Sparse

torch = pytest.importorskip("torch")
pytest.importorskip("implicit")

from training.baselines.autoencoders import MultAutoencoder  # noqa: E402 - needs an extra
from training.baselines.elsa import Elsa  # noqa: E402
from training.baselines.factors import BprMf, Ncf  # noqa: E402
from training.baselines.library import ImplicitAls, ItemNeighbours  # noqa: E402

TASTES, ITEMS = 4, 60
RECIPES: list[Recipe] = [
    ClusterBest(clusters=4, dim=4),
    ItemNeighbours(20),
    ItemNeighbours(20, "bm25"),
    Ease(20.0),
    ImplicitAls(8, 0.1, 5.0, iterations=5),
    BprMf(16, rate=0.02, batch=512, passes=15, every=15),
    Ncf(16, rate=0.02, batch=512, passes=8, every=8),
    MultAutoencoder(False, hidden=32, dim=8, rate=0.01, batch=50, passes=20, every=20),
    MultAutoencoder(True, hidden=32, dim=8, rate=0.01, batch=50, passes=20, every=20, rise=100),
    Elsa(16, passes=10),
    SpectralLed(8),
    DenoisedLed(8, a=0.3, noise=0.5, ridge=20.0),
    PmiLed(8, bias=0.1),
    JoinedLed(16, a=0.3, noise=0.5, ridge=20.0, weight=1.0, rate=0.1, passes=10),
]


def world(users: int, seed: int) -> Sparse:
    """Users of four tastes, who like a third of their taste's items and few of the others; six are loved by all."""
    rng = np.random.default_rng(seed)
    taste = rng.integers(TASTES, size=users)
    own = taste[:, None] == np.arange(ITEMS)[None, :] % TASTES
    loved = np.arange(ITEMS) < 6
    chance = np.where(own, 0.33, 0.03) + np.where(loved, 0.25, 0.0)
    return sp.csr_array((rng.random((users, ITEMS)) < chance).astype(np.float32))


def known(matrix: Sparse) -> Interactions:
    rows, columns = (axis.astype(np.int64) for axis in matrix.nonzero())
    return without_times(rows, columns, matrix.shape)


def half_to_find(matrix: Sparse) -> Task:
    """Users of whom every other thing is folded in and the rest to be found."""
    rows, columns = matrix.nonzero()
    shown = np.arange(len(rows)) % 2 == 0
    parts = (
        sp.csr_array((np.ones(part.sum(), np.float32), (rows[part], columns[part])), shape=matrix.shape)
        for part in (shown, ~shown)
    )
    folded_in, relevant = parts
    some = np.flatnonzero(np.diff(relevant.indptr))
    return Task(folded_in[some], relevant[some])


TRAIN, NEWCOMERS = known(world(400, 0)), half_to_find(world(150, 1))


def fitted(recipe: Recipe) -> Fitted:
    return fitted_for(recipe, TRAIN, steps=1000, seed=0)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{type(recipe).__name__} {recipe}"[:30])
def test_every_model_beats_popularity_for_users_it_has_never_met(recipe: Recipe) -> None:
    plain = measure(popular(TRAIN.popularity(None)), NEWCOMERS, k=10).ndcg
    found = measure(fitted(recipe).scorer, NEWCOMERS, k=10).ndcg
    assert found > plain + 0.03  # .30 for .34 to .42


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{type(recipe).__name__} {recipe}"[:30])
def test_a_seed_makes_one_model_and_asking_it_changes_nothing(recipe: Recipe) -> None:
    first, again = fitted(recipe).scorer, fitted(recipe).scorer
    some = NEWCOMERS.folded_in[:20]
    np.testing.assert_allclose(first(some), again(some), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(first(some), first(some))
    assert first(some).dtype == np.float32
    assert first(some[:0]).shape == (0, ITEMS)


def test_ease_is_its_formula_and_no_item_predicts_itself() -> None:
    matrix = world(60, 2)
    dense = matrix.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + 7 * np.eye(ITEMS))
    expected = np.eye(ITEMS) - inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    found = item_weights(matrix, 7.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(fitted_for(Ease(7.0), known(matrix), 1, 0).scorer(matrix), dense @ expected, atol=1e-3)


def test_ease_beyond_one_block_is_still_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = item_weights(world(60, 2), 7.0)
    monkeypatch.setattr("training.baselines.linear.BLOCK", 7)
    np.testing.assert_allclose(item_weights(world(60, 2), 7.0), whole, atol=1e-6)


def test_without_a_ridge_there_may_be_nothing_to_invert() -> None:
    with pytest.raises(ValueError, match="regularisation = 0"):
        item_weights(sp.csr_array(np.ones((3, 3), np.float32)), 0.0)


def test_recent_popularity_forgets_and_says_when_it_knows_no_times() -> None:
    hour_ms = 3_600_000
    matrix = sp.csr_array(np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32))
    events = Interactions(["a", "b", "c", "d"], ["old", "new"], matrix, np.array([0, 0, 0, 3]) * hour_ms)
    nobody: Sparse = sp.csr_array(np.zeros((1, 2), np.float32))
    assert fitted_for(MostPopular(), events, 1, 0).scorer(nobody).tolist() == [[3, 1]]
    assert fitted_for(RecentPopular(3600.0), events, 1, 0).scorer(nobody).tolist() == [[0.375, 1]]
    with pytest.raises(ValueError, match="no times"):
        fitted_for(RecentPopular(3600.0), TRAIN, 1, 0)


def test_a_newcomer_without_events_is_shown_what_is_popular() -> None:
    for recipe in (SpectralLed(4), DenoisedLed(4, 0.3, 0.5, 20.0)):
        scores = fitted(recipe).scorer(sp.csr_array(np.zeros((1, ITEMS), np.float32)))
        assert np.argmax(scores[0]) == np.argmax(TRAIN.popularity(None))


class Learner:
    """Gets better for `best` steps and worse afterwards; scores tell how far it is."""

    def __init__(self, best: int) -> None:
        self.best, self.asked_for = best, 0

    def fit(self, _train: Interactions, _rng: np.random.Generator, *_: object) -> object:
        for step in range(1, 100):
            self.asked_for = step
            yield Fitted(partial(self.scores, step))

    def scores(self, step: int, folded_in: Sparse) -> F32:
        return np.full(folded_in.shape, -abs(step - self.best), np.float32)


def test_the_best_recipe_is_chosen_with_how_long_it_was_trained_and_training_stops_when_nothing_gets_better() -> None:
    def quality(scorer: Scorer) -> float:
        return float(scorer(NEWCOMERS.folded_in)[0, 0])

    early, late = Learner(3), Learner(5)
    chosen = best_of([early, late], TRAIN, quality, seed=0)  # type: ignore[list-item]
    assert chosen.recipe is early  # type: ignore[comparison-overlap]
    assert chosen.steps == 3  # both reach 0, and the first that does is kept
    assert (early.asked_for, late.asked_for) == (3 + PATIENCE, 5 + PATIENCE)
    assert chosen.tried == 3 + 5 + 2 * PATIENCE
    assert fitted_for(early, TRAIN, 4, 0).scorer(NEWCOMERS.folded_in)[0, 0] == -1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no recipe"):
        best_of([], TRAIN, quality, seed=0)


def test_what_was_fitted_does_not_change_when_its_model_is_trained_further() -> None:
    makers: list[Callable[[], Recipe]] = [lambda: Elsa(8, passes=3), lambda: BprMf(8, passes=2, every=1)]
    for make in makers:
        models = make().fit(TRAIN, np.random.default_rng(0))
        first = next(models)
        some = NEWCOMERS.folded_in[:5]
        before = first.scorer(some)
        later = list(models)
        np.testing.assert_allclose(first.scorer(some), before)
        assert not np.allclose(later[-1].scorer(some), before)

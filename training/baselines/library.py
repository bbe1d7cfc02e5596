"""Models of the library `implicit` (extra `baselines`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from implicit import nearest_neighbours
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from led.encoder import F32
from training.baselines.contract import Fitted
from training.interactions import Interactions
from training.progress import Progress, silent
from training.svd import Sparse

THREADS = 1  # for the same answer every time, and for times that can be compared


@dataclass(frozen=True)
class ItemNeighbours:
    """Item-kNN: each item keeps its `neighbours` nearest, by cosine of the users that touched both."""

    neighbours: int
    weighting: str = "cosine"  # or tfidf, bm25

    def fit(self, train: Interactions, _rng: np.random.Generator, _progress: Progress = silent) -> Iterator[Fitted]:
        kinds = {
            "cosine": nearest_neighbours.CosineRecommender,
            "tfidf": nearest_neighbours.TFIDFRecommender,
            "bm25": nearest_neighbours.BM25Recommender,
        }
        model = kinds[self.weighting](K=self.neighbours, num_threads=THREADS)
        with warnings.catch_warnings(action="ignore"):  # it warns of matrices that it made itself
            model.fit(sp.csr_matrix(train.matrix), show_progress=False)
        similar = sp.csr_array(model.similarity)
        yield Fitted(lambda folded_in: np.asarray((folded_in @ similar).toarray(), np.float32))


@dataclass(frozen=True)
class ImplicitAls:
    """WMF by alternating least squares (iALS): a touched item counts `alpha` as a one, all others 1 as a zero."""

    dim: int
    regularisation: float
    alpha: float
    iterations: int = 15

    def fit(self, train: Interactions, rng: np.random.Generator, _progress: Progress = silent) -> Iterator[Fitted]:
        with threadpool_limits(THREADS, "blas"):  # it warns of more, and is slow with them
            model: Any = AlternatingLeastSquares(
                factors=self.dim,
                regularization=self.regularisation,
                alpha=self.alpha,
                iterations=self.iterations,
                num_threads=THREADS,
                random_state=int(rng.integers(1 << 31)),
            )
            model.fit(sp.csr_matrix(train.matrix), show_progress=False)

        def scores(folded_in: Sparse) -> F32:
            users = model.recalculate_user(np.arange(folded_in.shape[0]), sp.csr_matrix(folded_in))
            return np.asarray(users @ model.item_factors.T, np.float32)

        yield Fitted(scores, self.dim)

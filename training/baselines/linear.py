"""EASE (Steck 2019): items predict each other by ridge regression in which none may predict itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from led.encoder import F32
from training.baselines.contract import Fitted
from training.interactions import Interactions
from training.progress import Progress, silent
from training.svd import Sparse

BLOCK = 1024  # rows mirrored at a time


@dataclass(frozen=True)
class Ease:
    """Memory: one float32 matrix of items x items, and the inverse is made in its place."""

    regularisation: float

    def fit(self, train: Interactions, _rng: np.random.Generator, _progress: Progress = silent) -> Iterator[Fitted]:
        weights = item_weights(train.matrix, self.regularisation)
        yield Fitted(lambda folded_in: np.asarray(folded_in @ weights), len(weights))


def item_weights(matrix: Sparse, regularisation: float) -> F32:
    """B (items, items), zero on the diagonal, that makes |X - X B|^2 + regularisation |B|^2 least; float32."""
    gram: F32 = np.asarray((matrix.T @ matrix).toarray(order="F"), np.float32)
    gram[np.diag_indices_from(gram)] += np.float32(regularisation)
    try:
        factor, _ = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise ValueError(f"regularisation = {regularisation}: too small for these items to be told apart") from error
    inverse: F32 = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)[0]
    _mirror(inverse)
    inverse = inverse.T  # the same, as it is symmetric, and rows lie together: products would copy all of it otherwise
    inverse /= -np.diag(inverse)[None, :].copy()
    inverse[np.diag_indices_from(inverse)] = 0
    return inverse


def _mirror(lower: F32) -> None:
    """Copies the lower triangle to the upper one, in place and by blocks: no second matrix of that size."""
    size = len(lower)
    for start in range(0, size, BLOCK):
        end = min(start + BLOCK, size)
        lower[start:end, end:] = lower[end:, start:end].T
        corner = np.tril(lower[start:end, start:end])
        lower[start:end, start:end] = corner + np.tril(corner, -1).T

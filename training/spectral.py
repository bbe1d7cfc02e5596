"""LED in closed form: item embeddings from one truncated SVD, no gradient steps.

With X the users x items matrix and D_u, D_i its row and column sums,

    D_u^-a X D_i^-1/2 = U S V',    input embeddings V S^p D_i^-1/2,    output embeddings V D_i^1/2.

A user is the average of input embeddings, so a user's scores are x D_i^-1/2 V S^p V' D_i^1/2 over the user's total: the
items the user touched, seen through the leading directions of the catalogue, the popular ones discounted on the way
in and restored on the way out. Larger a makes long timelines count less in training; larger p trusts the leading
directions more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from led.encoder import F32, F64
from training.progress import Progress, silent
from training.svd import Sparse, randomized_svd

NEGLIGIBLE = 1e-3  # of the largest singular value: below it is noise, which a p under 0 would make loud


@dataclass(frozen=True)
class SpectralSettings:
    """dim: embedding size, less where the data has fewer directions. a, p: exponents. The rest is the SVD's."""

    dim: int = 64
    a: float = 0.3
    p: float = 0.0
    oversample: int = 64
    power_iterations: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim = {self.dim}: must be at least 1")
        for name in ("a", "p"):
            if not np.isfinite(getattr(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)}: must be finite")
        for name in ("oversample", "power_iterations", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 0")


@dataclass(frozen=True)
class Spectrum:
    """What the SVD found, before p.

    values: (dim,) falling and above 0. right: (items, dim) V. item_sums: (items,) D_i.
    own: (dim,) what each direction would add, at p = 0, to the mean score of users' own items.
    """

    values: F32
    right: F32
    item_sums: F64
    own: F64

    def embeddings(self, p: float) -> tuple[F32, F32]:
        """Input and output embeddings (items, dim), float32; zero rows for items without interactions.

        Output rows have a mean square length of 1; input rows are as long as makes the mean score of users' own items
        1, whatever a, p and the size of the data. Ranking does not depend on it, a bias beside the scores does.
        """
        powers = self.values.astype(np.float64) ** p
        own = float(powers @ self.own)
        length = np.sqrt(np.square(self.right).sum(axis=1) @ self.item_sums / max(len(self.right), 1))
        outputs = self.right * (np.sqrt(self.item_sums) / length)[:, None]
        inputs = self.right * (powers * (length / own if own > 0 else 1.0)) * raised(self.item_sums, -0.5)[:, None]
        return inputs.astype(np.float32), outputs.astype(np.float32)


def spectral_embeddings(matrix: Sparse, settings: SpectralSettings, progress: Progress = silent) -> tuple[F32, F32]:
    """Input and output embeddings (items, dim) of an interaction matrix with at least one cell, none below 0."""
    return decompose(matrix, settings, progress).embeddings(settings.p)


def decompose(matrix: Sparse, settings: SpectralSettings, progress: Progress = silent) -> Spectrum:
    """The spectrum that serves every p. Directions with next to no singular value are left out, so dim may shrink."""
    found = randomized_svd(
        normalised(matrix, settings.a),
        settings.dim,
        oversample=settings.oversample,
        power_iterations=settings.power_iterations,
        rng=np.random.default_rng(settings.seed),
        progress=progress,
    )
    kept = int(np.count_nonzero(found.values > NEGLIGIBLE * found.values[0]))
    if not kept:
        raise ValueError("the matrix holds no interaction: there is no direction to keep")
    right = found.right[:, :kept]
    sums = np.asarray(matrix.sum(axis=0, dtype=np.float64))
    users = averaged(matrix)
    inputs, outputs = (users @ (right * raised(sums, power).astype(np.float32)[:, None]) for power in (-0.5, 0.5))
    own = np.einsum("ud,ud->d", inputs, outputs, dtype=np.float64) / users.shape[0]
    return Spectrum(found.values[:kept], right, sums, own)


def normalised(matrix: Sparse, a: float) -> Sparse:
    """D_u^-a X D_i^-1/2. Empty rows and columns stay empty."""
    rows = raised(np.asarray(matrix.sum(axis=1, dtype=np.float64)), -a)
    columns = raised(np.asarray(matrix.sum(axis=0, dtype=np.float64)), -0.5)
    data = matrix.data * np.repeat(rows, np.diff(matrix.indptr)) * columns[matrix.indices]
    return sp.csr_array((data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def averaged(matrix: Sparse) -> Sparse:
    """Rows divided by their sums: times the input embeddings these are the user vectors. Empty rows stay empty."""
    rows = raised(np.asarray(matrix.sum(axis=1, dtype=np.float64)), -1.0)
    data = matrix.data * np.repeat(rows, np.diff(matrix.indptr))
    return sp.csr_array((data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def popularity_bias(popularity: F32, strength: float) -> F32:
    """strength * log(share of the events), (items,), moved to mean 0. One event is added to each item's count."""
    logs = np.log(popularity.astype(np.float64) + 1.0)
    biases: F32 = (strength * (logs - logs.mean())).astype(np.float32)
    return biases


def raised(sums: F64, exponent: float) -> F64:
    """sums ** exponent, and 0 where the sum is 0."""
    return np.where(sums > 0, np.where(sums > 0, sums, 1.0) ** exponent, 0.0)

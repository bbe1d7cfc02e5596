"""LED in closed form, as the ridge regression that rebuilds users from what is left of them under noise.

With x a user's row, n her number of items, and each item dropped with probability q while what is left counts
1 / (1 - q), the item weights B (items, items) of least

    sum over users of n^-2a E|x_noisy B - x|^2 + r |B|^2        are        B = (G + W)^-1 G,

G = X' D_u^-2a X, scaled so that its diagonal sums to the number of interactions, W = r + q / (1 - q) diag G. Unlike in
EASE an item may predict itself: what noise hides must be rebuilt from the others. From one truncated SVD,

    D_u^-a X W^-1/2 = U S V',    input embeddings W^-1/2 V S^2 / (1 + S^2),    output embeddings W^1/2 V,

which is B's best part of that rank, made without any matrix of items x items, and B itself at full rank. A user is the
average of input embeddings: it ranks as x B does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from led.encoder import F32
from training.progress import Progress, silent
from training.spectral import NEGLIGIBLE, averaged
from training.svd import Sparse, randomized_svd


@dataclass(frozen=True)
class DenoisedSettings:
    """dim: embedding size. a: how much less long timelines count. noise: q. ridge: r. The rest is the SVD's."""

    dim: int = 64
    a: float = 0.35
    noise: float = 0.5
    ridge: float = 400.0
    oversample: int = 64
    power_iterations: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim = {self.dim}: must be at least 1")
        if not np.isfinite(self.a):
            raise ValueError(f"a = {self.a}: must be finite")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise = {self.noise}: must be at least 0 and below 1")
        if not 0 < self.ridge < np.inf:
            raise ValueError(f"ridge = {self.ridge}: must be above 0 and finite")
        for name in ("oversample", "power_iterations", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 0")


def denoised_embeddings(matrix: Sparse, settings: DenoisedSettings, progress: Progress = silent) -> tuple[F32, F32]:
    """Input and output embeddings (items, dim) of an interaction matrix with at least one cell, none below 0.

    As of `spectral_embeddings`: the mean score of users' own items is 1, the mean square length of output rows too.
    """
    weights = np.asarray(matrix.sum(axis=1, dtype=np.float64)).clip(1e-12) ** -settings.a
    squares = weights[np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))] * matrix.data
    diagonal = np.bincount(matrix.indices, squares**2, minlength=matrix.shape[1])
    scale = matrix.nnz / diagonal.sum()
    held = np.sqrt(settings.ridge + settings.noise / (1 - settings.noise) * scale * diagonal)  # W^1/2
    noisy = sp.csr_array(
        ((squares * np.sqrt(scale) / held[matrix.indices]).astype(np.float32), matrix.indices, matrix.indptr),
        shape=matrix.shape,
    )
    found = randomized_svd(
        noisy,
        settings.dim,
        oversample=settings.oversample,
        power_iterations=settings.power_iterations,
        rng=np.random.default_rng(settings.seed),
        progress=progress,
    )
    kept = found.values > NEGLIGIBLE * found.values[0]
    right, powers = found.right[:, kept], found.values[kept].astype(np.float64) ** 2
    inputs = (right * (powers / (1 + powers)) / held[:, None]).astype(np.float32)
    outputs = (right * held[:, None]).astype(np.float32)
    length = np.sqrt(np.square(outputs, dtype=np.float64).sum() / max(len(outputs), 1))
    users = averaged(matrix)
    own = np.einsum("ud,ud->", users @ inputs, users @ outputs, dtype=np.float64) / users.shape[0]
    return (inputs * (length / own if own > 0 else length)).astype(np.float32), (outputs / length).astype(np.float32)

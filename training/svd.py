"""Truncated SVD of a large sparse matrix by randomized range finding (Halko, Martinsson, Tropp; SIAM Review 2011).

Two halves, each with a promise of its own: `find_basis` gives an orthonormal Q whose span holds nearly all of A,
`recover` gives the SVD of what Q holds. Both work in float32; orthogonalising after every product keeps small singular
values from drowning in the large ones.

Householder QR (LAPACK) rather than Cholesky QR: on a 29,858 x 1,088 block it took 2.0 s against 3.2 s for two
Cholesky passes in float64 on two cores, and it does not mind a block without full rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from led.encoder import F32
from training.progress import Progress, silent

Sparse = sp.csr_array[np.float32, tuple[int, int]]


@dataclass(frozen=True)
class Svd:
    """A ~ left @ diag(values) @ right.T: (m, rank), (rank,) falling, (n, rank), all float32."""

    left: F32
    values: F32
    right: F32


def randomized_svd(
    A: Sparse,
    rank: int,
    *,
    oversample: int = 64,
    power_iterations: int = 2,
    rng: np.random.Generator,
    progress: Progress = silent,
) -> Svd:
    """The `rank` largest singular values of A (m, n) and their vectors; fewer where A has fewer rows or columns."""
    Q = find_basis(A, rank, oversample=oversample, power_iterations=power_iterations, rng=rng, progress=progress)
    return recover(A, Q, rank)


def find_basis(
    A: Sparse,
    rank: int,
    *,
    oversample: int,
    power_iterations: int,
    rng: np.random.Generator,
    progress: Progress = silent,
) -> F32:
    """Orthonormal Q (m, min(rank + oversample, m, n)) with, in the spectral norm and nearly always,

        ||A - Q Q' A|| <= sigma_{rank+1} * ((sqrt(n - k) + sqrt(k)) / (sqrt(k + p) - sqrt(k))) ** (1 / (1 + 2 q)).

    k is rank, p is oversample, q is power_iterations. Each power iteration costs two more products and QRs and brings
    the basis nearer to the best one. Raises ValueError where an argument is too small to mean anything.
    """
    if rank < 1 or oversample < 0 or power_iterations < 0:
        given = f"rank = {rank}, oversample = {oversample}, power_iterations = {power_iterations}"
        raise ValueError(f"{given}: rank must be at least 1, the others at least 0")
    steps = 2 * power_iterations + 1
    width = min(rank + oversample, *A.shape)
    transposed = A.T.tocsr()
    progress("singular vectors", 0, steps)
    Q = orthonormal(A @ rng.standard_normal((A.shape[1], width), dtype=np.float32))
    for step in range(1, steps):
        progress("singular vectors", step, steps)
        Q = orthonormal((transposed if step % 2 else A) @ Q)
    progress("singular vectors", steps, steps)
    return Q


def recover(A: Sparse, Q: F32, rank: int) -> Svd:
    """The `rank` largest singular triplets of Q Q' A, for orthonormal Q (m, width); at most `width` of them.

    Signs are settled: the entry of largest size in each right vector is positive.
    """
    held, triangle = scipy.linalg.qr(A.T.tocsr() @ Q, mode="economic", check_finite=False)  # (n, width), (width, width)
    # A' Q = held @ triangle, so Q Q' A = Q triangle' held'; in float64 because it is small and everything rests on it.
    u, values, vt = np.linalg.svd(triangle.T.astype(np.float64))
    rank = min(rank, len(values))
    left: F32 = Q @ u[:, :rank].astype(np.float32)
    right: F32 = held @ vt[:rank].T.astype(np.float32)
    largest = right[np.abs(right).argmax(axis=0), np.arange(rank)]
    signs = np.where(largest < 0, -1, 1).astype(np.float32)
    return Svd(left * signs, values[:rank].astype(np.float32), right * signs)


def orthonormal(block: F32) -> F32:
    """Orthonormal columns that span at least those of the block. Same shape; more rows than columns."""
    q: F32 = scipy.linalg.qr(block, mode="economic", overwrite_a=True, check_finite=False)[0]
    return q

"""Cluster best-of (CBO): k-means on users, and the most popular items of the cluster a user falls into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.cluster.vq import kmeans2, vq

from led.encoder import F32
from training.baselines.contract import Fitted
from training.interactions import Interactions
from training.progress import Progress, silent
from training.svd import Sparse, randomized_svd


@dataclass(frozen=True)
class ClusterBest:
    """Users are seen in the `dim` leading directions of the catalogue, at unit length."""

    clusters: int
    dim: int = 32

    def fit(self, train: Interactions, rng: np.random.Generator, progress: Progress = silent) -> Iterator[Fitted]:
        matrix = train.matrix
        directions = randomized_svd(matrix, self.dim, rng=rng, progress=progress).right
        clusters = min(self.clusters, matrix.shape[0])
        centres, own = kmeans2(_seen(matrix, directions), clusters, minit="++", rng=rng)
        members = sp.csr_array((np.ones(len(own), np.float32), (own, np.arange(len(own)))), (clusters, len(own)))
        # A little of everybody's popularity orders the items that nobody of a cluster touched.
        counts: F32 = (members @ matrix).toarray() + 1e-3 * np.asarray(matrix.mean(axis=0), np.float32)

        def scores(folded_in: Sparse) -> F32:
            found: F32 = counts[vq(_seen(folded_in, directions), centres)[0]]
            return found

        yield Fitted(scores)


def _seen(matrix: Sparse, directions: F32) -> F32:
    """Users (users, dim), float32, of unit length; those without events stay at zero."""
    users = np.asarray(matrix @ directions)
    seen: F32 = users / np.maximum(np.linalg.norm(users, axis=1, keepdims=True), 1e-12).astype(np.float32)
    return seen

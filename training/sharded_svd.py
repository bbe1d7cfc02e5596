"""The spectrum of `training/spectral.py` from shards on disk: nothing in memory is as long as the list of users.

With A = D_u^-a X D_i^-1/2 in parts by users, A' A B is a sum over the parts, so that the basis is looked for on the
side of items: a power iteration is one pass over the shards. Singular values come from the small matrix (A Q)' (A Q),
summed in float64. The same subspace as `training/svd.py` finds, a half step further; directions whose singular value is
below a thousandth of the largest are lost in float32, and are left out there as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from led.encoder import F32, F64
from store.releases import Release
from training.progress import Progress, silent
from training.shards import Shards
from training.spectral import NEGLIGIBLE, SpectralSettings, Spectrum, raised
from training.svd import Sparse, orthonormal
from training.warm_start import start_from

USERS_AT_ONCE = 1 << 16


def decompose_shards(
    shards: Shards, settings: SpectralSettings, progress: Progress = silent, before: Release | None = None
) -> Spectrum:
    """As `training.spectral.decompose`, of at least one cell.

    before: a release to begin at (`training/warm_start.py`), which saves one power iteration of several.
    """
    sums = shards.sums()
    start = start_from(before, shards.item_ids, sums, dim=min(settings.dim, shards.users, len(sums)))
    iterations = settings.power_iterations
    if start is not None:
        iterations = max(min(1, iterations), iterations - 1)
    products = _Products(shards, settings.a, raised(sums, -0.5).astype(np.float32), iterations + 3, progress)
    width = min(settings.dim + settings.oversample, shards.users, len(sums))
    rng = np.random.default_rng(settings.seed)
    Q: F32 = rng.standard_normal((len(sums), width), dtype=np.float32)
    if start is not None:
        Q[:, : start.shape[1]] = start[:, :width]
    for _ in range(iterations + 1):
        Q = orthonormal(products.there_and_back(Q))
    squares, directions = np.linalg.eigh(products.gram(Q))
    values = np.sqrt(np.maximum(squares[::-1], 0.0))
    kept = int(np.count_nonzero(values[: settings.dim] > NEGLIGIBLE * values[0]))
    if not kept:
        raise ValueError("the shards hold no interaction: there is no direction to keep")
    right = Q @ directions[:, ::-1][:, :kept].astype(np.float32)
    largest = right[np.abs(right).argmax(axis=0), np.arange(kept)]
    right *= np.where(largest < 0, -1, 1).astype(np.float32)
    return Spectrum(values[:kept].astype(np.float32), right, sums, products.own(right, sums))


@dataclass
class _Products:
    """Passes over all shards. columns: D_i^-1/2, (items,)."""

    shards: Shards
    a: float
    columns: F32
    passes: int
    progress: Progress
    done: int = 0

    def there_and_back(self, Q: F32) -> F32:
        """A' A Q, (items, width)."""
        scaled = self.columns[:, None] * Q
        total = np.zeros_like(scaled)
        for part in self._parts():
            rows = raised(_row_sums(part), -2 * self.a).astype(np.float32)
            total += part.T @ (rows[:, None] * (part @ scaled))
        total *= self.columns[:, None]
        return total

    def gram(self, Q: F32) -> F64:
        """(A Q)' (A Q), (width, width)."""
        scaled = self.columns[:, None] * Q
        total = np.zeros((Q.shape[1], Q.shape[1]))
        for part in self._parts():
            seen = raised(_row_sums(part), -self.a)[:, None] * (part @ scaled)
            total += seen.T @ seen
        return total

    def own(self, right: F32, sums: F64) -> F64:
        """`Spectrum.own`."""
        both = [right * raised(sums, exponent).astype(np.float32)[:, None] for exponent in (-0.5, 0.5)]
        total = np.zeros(right.shape[1])
        for part in self._parts():
            scale = raised(_row_sums(part), -2.0)
            inputs, outputs = (part @ table for table in both)
            total += np.einsum("ud,ud,u->d", inputs, outputs, scale, dtype=np.float64)
        return total / max(self.shards.users, 1)

    def _parts(self) -> Iterator[Sparse]:
        """Rows of X, so many at a time that what is computed of them is small beside the items' tables."""
        self.progress("singular vectors", self.done, self.passes)
        for shard in self.shards:
            for start in range(0, shard.matrix.shape[0], USERS_AT_ONCE):
                yield shard.matrix[start : start + USERS_AT_ONCE]
        self.done += 1
        self.progress("singular vectors", self.done, self.passes)


def _row_sums(part: Sparse) -> F64:
    return np.asarray(part.sum(axis=1, dtype=np.float64))

"""Two tables side by side, in one: the ridge through noise (training/denoised.py) and ELSA's, half the dimensions each.

Both score as an average of input rows times output rows, and so does what stands side by side: the scores add up. The
ridge is at its best in few dimensions, ELSA in many; together they rank better than either (docs/experiments.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from led.encoder import F32
from training.denoised import DenoisedSettings, denoised_embeddings
from training.progress import Progress, silent
from training.spectral import averaged
from training.svd import Sparse


@dataclass(frozen=True)
class JoinedSettings:
    """dim: of both together. weight: what ELSA's scores count, where either gives users' own items 1 in the mean.

    rate, passes, batch: ELSA's. The rest is the ridge's, see `DenoisedSettings`. Needs torch.
    """

    dim: int = 512
    a: float = 0.35
    noise: float = 0.5
    ridge: float = 400.0
    weight: float = 0.5
    rate: float = 0.02
    passes: int = 10
    batch: int = 512
    oversample: int = 64
    power_iterations: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 2:
            raise ValueError(f"dim = {self.dim}: must be at least 2, for two halves")
        for name in ("weight", "rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0 and finite")
        for name in ("passes", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        _ = self.half  # its numbers are checked where they are its own

    @property
    def half(self) -> DenoisedSettings:
        """Of the ridge."""
        return DenoisedSettings(
            self.dim // 2, self.a, self.noise, self.ridge, self.oversample, self.power_iterations, self.seed
        )


class Halves(NamedTuple):
    """The ridge's tables, (items, d) each, and ELSA's rows of unit length. own: the mean score these
    give users' own items."""

    inputs: F32
    outputs: F32
    unit: F32
    own: float

    def joined(self, weight: float) -> tuple[F32, F32]:
        """Input and output embeddings."""
        both = np.hstack([self.inputs, self.unit * np.float32(weight / max(self.own, 1e-30))])
        return both, np.hstack([self.outputs, self.unit])


def joined_embeddings(matrix: Sparse, settings: JoinedSettings, progress: Progress = silent) -> tuple[F32, F32]:
    """Input and output embeddings (items, dim) of an interaction matrix with at least one cell, none below 0.

    dim is less where the ridge's half finds fewer directions. One seed and as many threads make the same tables.
    """
    return halves(matrix, settings, progress).joined(settings.weight)


def halves(matrix: Sparse, settings: JoinedSettings, progress: Progress = silent) -> Halves:
    """Both, to be joined with any weight."""
    from training.baselines.elsa import Elsa

    inputs, outputs = denoised_embeddings(matrix, settings.half, progress)
    elsa = Elsa(settings.dim - settings.dim // 2, settings.rate, settings.batch, settings.passes)
    *_, unit = elsa.tables(matrix, np.random.default_rng(settings.seed), progress)
    return with_own(matrix, inputs, outputs, unit)


def with_own(matrix: Sparse, inputs: F32, outputs: F32, unit: F32) -> Halves:
    """The halves, ELSA's measured on the users of the matrix."""
    return Halves(inputs, outputs, unit, float(np.square(averaged(matrix) @ unit).sum(axis=1).mean()))

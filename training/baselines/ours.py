"""LED in its closed forms, under the contract of what it is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from led.encoder import F32
from training.baselines.contract import Fitted
from training.denoised import DenoisedSettings, denoised_embeddings
from training.evaluate import folding
from training.interactions import Interactions
from training.joined import with_own
from training.pmi import PmiSettings, Scaling, pmi_embeddings
from training.progress import Progress, silent
from training.spectral import SpectralSettings, popularity_bias, spectral_embeddings
from training.svd import Sparse


@dataclass(frozen=True)
class SpectralLed:
    """`training/spectral.py`, and how much popularity, which halves with every half-life, adds to the scores."""

    dim: int
    a: float = 0.3
    p: float = 0.0
    bias: float = 0.0
    half_life_s: float | None = None

    def fit(self, train: Interactions, _rng: np.random.Generator, progress: Progress = silent) -> Iterator[Fitted]:
        tables = spectral_embeddings(train.matrix, SpectralSettings(self.dim, self.a, self.p), progress)
        popularity = train.popularity(self.half_life_s)
        yield _folded(*tables, popularity_bias(popularity, self.bias), popularity)


@dataclass(frozen=True)
class DenoisedLed:
    """`training/denoised.py`, and how much popularity adds to the scores."""

    dim: int
    a: float
    noise: float
    ridge: float
    bias: float = 0.0

    def fit(self, train: Interactions, _rng: np.random.Generator, progress: Progress = silent) -> Iterator[Fitted]:
        settings = DenoisedSettings(self.dim, self.a, self.noise, self.ridge)
        popularity = train.popularity(None)
        tables = denoised_embeddings(train.matrix, settings, progress)
        yield _folded(*tables, popularity_bias(popularity, self.bias), popularity)


@dataclass(frozen=True)
class JoinedLed:
    """`training/joined.py`, yielded after each of ELSA's passes. Needs torch."""

    dim: int
    a: float
    noise: float
    ridge: float
    weight: float
    rate: float = 0.02
    passes: int = 16

    def fit(self, train: Interactions, rng: np.random.Generator, progress: Progress = silent) -> Iterator[Fitted]:
        from training.baselines.elsa import Elsa

        half = self.dim // 2
        settings = DenoisedSettings(half, self.a, self.noise, self.ridge)
        tables = denoised_embeddings(train.matrix, settings, progress)
        popularity, nothing = train.popularity(None), np.zeros(len(tables[0]), np.float32)
        for unit in Elsa(self.dim - half, self.rate, passes=self.passes).tables(train.matrix, rng, progress):
            yield _folded(*with_own(train.matrix, *tables, unit).joined(self.weight), nothing, popularity)


@dataclass(frozen=True)
class PmiLed:
    """`training/pmi.py` as it is, before any fine-tuning; bias: what a log share of all events adds to a score."""

    dim: int
    bias: float
    scaling: Scaling = "US"
    cell_sums: bool = False

    def fit(self, train: Interactions, _rng: np.random.Generator, progress: Progress = silent) -> Iterator[Fitted]:
        settings = PmiSettings(self.dim, scaling=self.scaling, cell_sums=self.cell_sums)
        inputs, outputs, biases = pmi_embeddings(train.matrix, settings, progress)
        yield _folded(inputs, outputs, biases * np.float32(self.bias), train.popularity(None))


def _folded(inputs: F32, outputs: F32, biases: F32, popularity: F32) -> Fitted:
    """As it is served: who did nothing yet gets what is popular."""
    scorer = folding(inputs, outputs, biases)

    def scores(folded_in: Sparse) -> F32:
        found = scorer(folded_in)
        found[np.diff(folded_in.indptr) == 0] = popularity
        return found

    return Fitted(scores, inputs.shape[1])

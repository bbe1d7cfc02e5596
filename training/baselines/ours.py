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
from training.pmi import PmiSettings, Scaling, pmi_embeddings
from training.progress import Progress, silent
from training.spectral import SpectralSettings, popularity_bias, spectral_embeddings


@dataclass(frozen=True)
class SpectralLed:
    """`training/spectral.py`, and how much popularity adds to the scores."""

    dim: int
    a: float = 0.3
    p: float = 0.0
    bias: float = 0.0

    def fit(self, train: Interactions, _rng: np.random.Generator, progress: Progress = silent) -> Iterator[Fitted]:
        tables = spectral_embeddings(train.matrix, SpectralSettings(self.dim, self.a, self.p), progress)
        yield _folded(*tables, popularity_bias(train.popularity(None), self.bias))


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
        tables = denoised_embeddings(train.matrix, settings, progress)
        yield _folded(*tables, popularity_bias(train.popularity(None), self.bias))


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
        yield _folded(inputs, outputs, biases * np.float32(self.bias))


def _folded(inputs: F32, outputs: F32, biases: F32) -> Fitted:
    return Fitted(folding(inputs, outputs, biases), inputs.shape[1])

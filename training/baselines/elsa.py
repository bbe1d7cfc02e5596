"""ELSA (Vančura et al. 2022): a linear autoencoder x A A' - x whose items are vectors of unit length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from led.encoder import F32
from training.baselines.contract import Fitted
from training.baselines.torch_training import batches, dense, seeded, step
from training.interactions import Interactions
from training.progress import Progress, silent
from training.svd import Sparse


@dataclass(frozen=True)
class Elsa:
    """Trained on the squared error of rows brought to unit length. It is yielded after every pass."""

    dim: int
    rate: float = 0.1
    batch: int = 512
    passes: int = 30

    def fit(self, train: Interactions, rng: np.random.Generator, progress: Progress = silent) -> Iterator[Fitted]:
        for unit in self.tables(train.matrix, rng, progress):
            yield Fitted(partial(_scores, unit), self.dim)

    def tables(self, matrix: Sparse, rng: np.random.Generator, progress: Progress = silent) -> Iterator[F32]:
        """A, (items, dim), rows of unit length, after each pass."""
        seeded(rng)
        table = nn.Parameter(nn.init.xavier_uniform_(torch.empty(matrix.shape[1], self.dim)))
        descent = torch.optim.NAdam([table], lr=self.rate)
        for done in range(1, self.passes + 1):
            progress("passes", done - 1, self.passes)
            for rows in batches(matrix.shape[0], self.batch, rng):
                users = functional.normalize(dense(matrix[rows]), dim=1)
                unit = functional.normalize(table, dim=1)
                found = functional.normalize(users @ unit @ unit.T - users, dim=1)
                step(descent, (found - users).square().sum(dim=1).mean())
            yield functional.normalize(table.detach(), dim=1).numpy()
        progress("passes", self.passes, self.passes)


def _scores(unit: F32, folded_in: Sparse) -> F32:
    found: F32 = folded_in @ unit @ unit.T - folded_in.toarray()
    return found

"""ELSA (Vančura et al. 2022): a linear autoencoder x A A' - x whose items are vectors of unit length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training.baselines.contract import Fitted
from training.baselines.torch_training import batches, dense, network_scorer, seeded, step
from training.interactions import Interactions
from training.progress import Progress, silent


@dataclass(frozen=True)
class Elsa:
    """Trained on the squared error of rows brought to unit length. It is yielded after every pass."""

    dim: int
    rate: float = 0.1
    batch: int = 512
    passes: int = 30

    def fit(self, train: Interactions, rng: np.random.Generator, progress: Progress = silent) -> Iterator[Fitted]:
        seeded(rng)
        net = _Elsa(train.matrix.shape[1], self.dim)
        descent = torch.optim.NAdam(net.parameters(), lr=self.rate)
        for done in range(1, self.passes + 1):
            progress("passes", done - 1, self.passes)
            for rows in batches(train.matrix.shape[0], self.batch, rng):
                users = functional.normalize(dense(train.matrix[rows]), dim=1)
                missed = (functional.normalize(net(users), dim=1) - users).square().sum(dim=1).mean()
                step(descent, missed)
            yield Fitted(network_scorer(net, _Elsa.forward), self.dim)
        progress("passes", self.passes, self.passes)


class _Elsa(nn.Module):
    def __init__(self, items: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(nn.init.xavier_uniform_(torch.empty(items, dim)))

    def forward(self, users: torch.Tensor) -> torch.Tensor:
        unit = functional.normalize(self.table, dim=1)
        return users @ unit @ unit.T - users

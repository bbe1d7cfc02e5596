"""Mult-VAE and Mult-DAE (Liang et al. 2018): a network rebuilds what a user did, under a multinomial likelihood.

Users come in as rows of unit length through dropout; one hidden layer of tanh on either side of the narrow one.
"""

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
class MultAutoencoder:
    """Mult-VAE; Mult-DAE where `variational` is False. It is yielded after every `every` passes.

    beta: the most the divergence from the prior weighs; it rises to that over `rise` steps.
    """

    variational: bool = True
    hidden: int = 600
    dim: int = 200
    dropout: float = 0.5
    beta: float = 0.2
    rise: int = 2000
    decay: float = 0.0
    rate: float = 1e-3
    batch: int = 500
    passes: int = 100
    every: int = 5

    def fit(self, train: Interactions, rng: np.random.Generator, progress: Progress = silent) -> Iterator[Fitted]:
        seeded(rng)
        net = _Autoencoder(train.matrix.shape[1], self)
        descent = torch.optim.Adam(net.parameters(), lr=self.rate, weight_decay=self.decay)
        steps = 0
        for done in range(1, self.passes + 1):
            progress("passes", done - 1, self.passes)
            net.train()
            for rows in batches(train.matrix.shape[0], self.batch, rng):
                users = dense(train.matrix[rows])
                logits, divergence = net(users)
                missed = -(functional.log_softmax(logits, dim=1) * users).sum(dim=1).mean()
                beta = min(self.beta, self.beta * steps / max(self.rise, 1))
                step(descent, missed + beta * divergence)
                steps += 1
            if done % self.every == 0 or done == self.passes:
                yield Fitted(network_scorer(net.eval(), lambda net, users: net(users)[0]), self.dim)
        progress("passes", self.passes, self.passes)


class _Autoencoder(nn.Module):
    def __init__(self, items: int, shape: MultAutoencoder) -> None:
        super().__init__()
        self.variational, self.dim = shape.variational, shape.dim
        self.dropout = nn.Dropout(shape.dropout)
        self.narrowed = nn.Sequential(
            nn.Linear(items, shape.hidden), nn.Tanh(), nn.Linear(shape.hidden, shape.dim * (1 + shape.variational))
        )
        self.widened = nn.Sequential(nn.Linear(shape.dim, shape.hidden), nn.Tanh(), nn.Linear(shape.hidden, items))
        for layer in (*self.narrowed, *self.widened):
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.trunc_normal_(layer.bias, std=1e-3)

    def forward(self, users: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (users, items) and the mean divergence from the prior, 0 where there is none."""
        code = self.narrowed(self.dropout(functional.normalize(users, dim=1)))
        if not self.variational:
            return self.widened(code), users.new_zeros(())
        mean, log_variance = code[:, : self.dim], code[:, self.dim :]
        divergence = 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(dim=1).mean()
        noise = torch.randn_like(mean) * torch.exp(0.5 * log_variance) if self.training else 0.0
        return self.widened(mean + noise), divergence

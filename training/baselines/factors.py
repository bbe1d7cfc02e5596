"""Models that keep a vector for each user: BPR-MF (Rendle et al. 2009) and NCF (NeuMF; He et al. 2017).

A user is folded in by learning her vector under the same loss with everything else held still, known users too: one
scorer serves both. Negatives are drawn uniformly from the catalogue, what the user touched included.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from led.encoder import F32
from training.baselines.contract import Fitted
from training.baselines.torch_training import batches, seeded, step
from training.evaluate import Scorer
from training.interactions import Interactions
from training.progress import Progress, silent
from training.svd import Sparse

FOLDING_STEPS, FOLDING_RATE, FOLDING_BATCH = 100, 0.05, 16384
USERS_AT_ONCE = 32  # whose scores of all items a network works out together

Rows = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class BprMf:
    """A score is the product of two vectors and the item's bias; one negative for each positive."""

    dim: int = 64
    rate: float = 2e-3
    l2: float = 0.01
    batch: int = 4096
    passes: int = 60
    every: int = 5

    def fit(self, train: Interactions, rng: np.random.Generator, progress: Progress = silent) -> Iterator[Fitted]:
        seeded(rng)
        return _trained(_Product(train.matrix.shape, self.dim), train.matrix, self, rng, progress)


@dataclass(frozen=True)
class Ncf:
    """A product of vectors beside a network of two layers over both; binary cross-entropy, four negatives."""

    dim: int = 64
    rate: float = 1e-3
    l2: float = 1e-4
    batch: int = 4096
    passes: int = 20
    every: int = 2

    def fit(self, train: Interactions, rng: np.random.Generator, progress: Progress = silent) -> Iterator[Fitted]:
        seeded(rng)
        return _trained(_Network(train.matrix.shape, self.dim), train.matrix, self, rng, progress)


class _Factors(nn.Module, ABC):
    def __init__(self, users: int, items: int, dim: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, dim), nn.Embedding(items, dim)
        self.biases = nn.Embedding(items, 1)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1 / dim**0.5)
        nn.init.zeros_(self.biases.weight)

    @abstractmethod
    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores (n, m) of items (n, m) for user vectors (n, dim)."""

    @abstractmethod
    def missed(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """The loss, where items (n, 1 + negatives) begin with what the user touched."""


class _Product(_Factors):
    negatives = 1

    def __init__(self, shape: tuple[int, int], dim: int) -> None:
        super().__init__(*shape, dim)

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = (self.items(items) * users[:, None]).sum(dim=2) + self.biases(items)[:, :, 0]
        return found

    def missed(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        scores = self.score(users, items)
        return functional.softplus(scores[:, 1:] - scores[:, :1]).mean()


class _Network(_Factors):
    negatives = 4

    def __init__(self, shape: tuple[int, int], dim: int) -> None:
        """Half of a vector goes into the product, the other into the network."""
        super().__init__(*shape, dim)
        self.halved = dim // 2
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, self.halved), nn.ReLU())
        self.last = nn.Linear(2 * self.halved, 1)

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        vectors = self.items(items)
        users = users[:, None].expand_as(vectors)
        both = torch.cat([users[..., self.halved :], vectors[..., self.halved :]], dim=2)
        product = users[..., : self.halved] * vectors[..., : self.halved]
        found: torch.Tensor = self.last(torch.cat([product, self.layers(both)], dim=2)) + self.biases(items)
        return found[:, :, 0]

    def missed(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        scores = self.score(users, items)
        return (functional.softplus(-scores[:, 0]) + functional.softplus(scores[:, 1:]).sum(dim=1)).mean()


def _trained(
    net: _Product | _Network, matrix: Sparse, shape: BprMf | Ncf, rng: np.random.Generator, progress: Progress
) -> Iterator[Fitted]:
    descent = torch.optim.Adam(net.parameters(), lr=shape.rate)
    owners = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    for done in range(1, shape.passes + 1):
        progress("passes", done - 1, shape.passes)
        for chosen in batches(matrix.nnz, shape.batch, rng):
            items = _with_negatives(net, matrix.indices[chosen], rng)
            users = net.users(torch.from_numpy(owners[chosen]))
            missed = net.missed(users, items)
            kept_small = users.square().sum(dim=1).mean() + net.items(items).square().sum(dim=2).mean()
            step(descent, missed + shape.l2 * kept_small)
        if done % shape.every == 0 or done == shape.passes:
            yield Fitted(_folding_in(net, shape.l2, int(rng.integers(1 << 31))), shape.dim)
    progress("passes", shape.passes, shape.passes)


def _folding_in(net: _Product | _Network, l2: float, seed: int) -> Scorer:
    """The scorer of a model as it is now; the same users get the same scores each time."""
    frozen = copy.deepcopy(net).requires_grad_(False)
    mean = frozen.users.weight.mean(dim=0)

    def scores(folded_in: Sparse) -> F32:
        rng = np.random.default_rng(seed)
        users = mean.repeat(folded_in.shape[0], 1).requires_grad_()
        descent = torch.optim.Adam([users], lr=FOLDING_RATE)
        owners = np.repeat(np.arange(folded_in.shape[0]), np.diff(folded_in.indptr))
        for _ in range(FOLDING_STEPS if folded_in.nnz else 0):
            chosen = rng.permutation(folded_in.nnz)[:FOLDING_BATCH]
            items = _with_negatives(frozen, folded_in.indices[chosen], rng)
            vectors = users[torch.from_numpy(owners[chosen])]
            step(descent, frozen.missed(vectors, items) + l2 * vectors.square().sum(dim=1).mean())
        every_item = torch.arange(folded_in.shape[1])
        with torch.no_grad():
            parts = [frozen.score(part, every_item.expand(len(part), -1)) for part in torch.split(users, USERS_AT_ONCE)]
        return torch.cat(parts).numpy() if parts else np.empty(folded_in.shape, np.float32)

    return scores


def _with_negatives(
    net: _Product | _Network, touched: npt.NDArray[np.integer[Any]], rng: np.random.Generator
) -> torch.Tensor:
    """Items (n, 1 + negatives): those touched, and as many drawn for each as the model's loss wants."""
    drawn = rng.integers(net.items.num_embeddings, size=(len(touched), net.negatives))
    return torch.from_numpy(np.hstack([np.asarray(touched, np.int64)[:, None], drawn]))

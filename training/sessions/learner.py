"""What is learned from sessions, and one step of learning it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from led.encoder import F32, I64, MOST_HEADS
from training.bfloat16 import has_bfloat16
from training.sessions.loss import Candidates, cosine_softmax, through_unit_rows, unit_rows
from training.sessions.prefixes import Batch

FIRST_HEADS = (4.0, 2.5, 1.3)  # about where training takes them on sessions of shoppers


@dataclass(frozen=True)
class Recipe:
    """tau: logits are cosines over it. dropout: of entries of rows, drawn anew for each use of a row.

    share: of all items, drawn for each batch, that what came next is compared with. heads: how many of the newest
    items have a weight of their own. bfloat16: multiply in it, where the processor does that
    itself, and sum in float32.
    """

    dim: int = 128
    tau: float = 0.07
    dropout: float = 0.2
    share: float = 0.03
    heads: int = 3
    bfloat16: bool = True

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim = {self.dim}: must be at least 1")
        if not 0 <= self.heads <= MOST_HEADS:
            raise ValueError(f"heads = {self.heads}: must be from 0 to {MOST_HEADS}")
        if not (0 < self.share <= 1 and 0 <= self.dropout < 1 and 0.02 <= self.tau < np.inf):
            raise ValueError(
                f"share = {self.share}, dropout = {self.dropout}, tau = {self.tau}: a share is above 0 and at most 1, "
                "dropout at least 0 and below 1, tau finite, and at least .02: below, exp(1/tau) has no room in float32"
            )


class Learner:
    """The item table and the weights of the newest ranks, with Adam's moments of both. Deterministic by rng.

    table: (items, dim) float32. log_heads: (heads,), logarithms of the newest items' weights; all older ones weigh 1.
    """

    def __init__(self, items: int, recipe: Recipe, rng: np.random.Generator) -> None:
        self.recipe, self.rng = recipe, rng
        self.products = torch.bfloat16 if recipe.bfloat16 and has_bfloat16() else torch.float32
        self.table = torch.empty(0, recipe.dim)
        first = [*FIRST_HEADS[: recipe.heads], *[1.0] * (recipe.heads - len(FIRST_HEADS))]
        self.log_heads = torch.log(torch.tensor(first))
        self.grow(items)

    def grow(self, items: int) -> None:
        """Room for items in all: new ones begin at random, and so do Adam's moments at zero."""
        fresh = self.rng.normal(0, self.recipe.dim**-0.5, (items - len(self.table), self.recipe.dim))
        self.table = torch.cat([self.table, torch.from_numpy(fresh.astype(np.float32))])
        self._adam = torch.optim.Adam([self.table, self.log_heads], fused=True)

    def put(self, rows: I64, embeddings: F32, head_weights: tuple[float, ...]) -> None:
        """Set these rows of the table, and the weights of the newest items, all of them."""
        self.table[torch.from_numpy(rows)] = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32))
        self.log_heads.copy_(torch.log(torch.tensor(head_weights)))

    def state(self) -> tuple[F32, tuple[float, ...]]:
        """A copy of the table, and the weights of the newest items: what `put` takes."""
        return self.table.numpy().copy(), self.head_weights()

    def step(self, batch: Batch, rate: float) -> float:
        """One step of Adam on a batch at this learning rate; the batch's mean loss before it."""
        recipe, targets = self.recipe, torch.from_numpy(batch.targets)
        prefixes = _Prefixes(self, batch)
        asked, whose = torch.unique(targets, return_inverse=True)
        wanted, drawn = _Rows(self, asked), self._drawn()
        others = _Rows(self, drawn)
        places = torch.full((len(self.table),), -1).index_copy_(0, drawn, torch.arange(len(drawn)))[targets]
        gradients = cosine_softmax(
            prefixes.units,
            wanted.units[whose],
            Candidates(others.units, places, recipe.share),
            tau=recipe.tau,
            products=self.products,
        )
        of_prefixes, self.log_heads.grad = prefixes.back(gradients.users)
        of_others = others.back(gradients.candidates)
        of_wanted = wanted.back(torch.zeros_like(wanted.units).index_add_(0, whose, gradients.wanted))
        rows = torch.cat([prefixes.rows, others.rows, wanted.rows])
        entries = torch.cat([of_prefixes, of_others, of_wanted])
        self.table.grad = torch.zeros_like(self.table).index_add_(0, rows, entries)
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        return gradients.loss

    def head_weights(self) -> tuple[float, ...]:
        """Weights of the newest items, newest first, where all older ones weigh 1."""
        return tuple(float(weight) for weight in torch.exp(self.log_heads))

    def weights(self, ranks: Tensor) -> Tensor:
        """Weight of items by recency rank. Shape of ranks."""
        heads = torch.cat([torch.exp(self.log_heads), self.log_heads.new_ones(1)])
        return heads[ranks.clamp(max=self.recipe.heads)]

    def kept(self, rows: int) -> Tensor:
        """(rows, dim) bool, False for the share that is dropped, to a 256th."""
        drawn = np.frombuffer(self.rng.bytes(rows * self.recipe.dim), np.uint8).reshape(rows, self.recipe.dim)
        return torch.from_numpy(drawn >= round(256 * self.recipe.dropout))

    def _drawn(self) -> Tensor:
        """Item rows to compare with, each with a chance of recipe.share, to a 65536th."""
        drawn = np.frombuffer(self.rng.bytes(2 * len(self.table)), np.uint16)
        return torch.from_numpy(np.flatnonzero(drawn < round(65536 * self.recipe.share)))


class _Rows:
    """Rows of the table (n,), some entries dropped, at unit length: units (n, dim)."""

    def __init__(self, learner: Learner, rows: Tensor) -> None:
        self.rows, self._kept = rows, learner.kept(len(rows))
        self.units, self._lengths = unit_rows(learner.table[rows] * self._kept)

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient of each row of `rows`, from that of the units."""
        return through_unit_rows(gradient, self.units, self._lengths).mul_(self._kept)


class _Prefixes:
    """A batch's prefixes: weighted sums of rows (n,) of the table, some entries dropped, at unit length (b, dim)."""

    def __init__(self, learner: Learner, batch: Batch) -> None:
        self.rows, self._owners = torch.from_numpy(batch.rows), torch.from_numpy(batch.owners)
        self._ranks, self._log_heads = torch.from_numpy(batch.ranks), learner.log_heads
        self._factors = learner.weights(self._ranks)[:, None] * learner.kept(len(self.rows))
        self._parts = learner.table[self.rows].mul_(self._factors)
        sums = self._parts.new_zeros(len(batch.targets), learner.recipe.dim).index_add_(0, self._owners, self._parts)
        self.units, self._lengths = unit_rows(sums)

    def back(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of each row of `rows` and of the logarithms of head weights, from that of the units."""
        each = through_unit_rows(gradient, self.units, self._lengths)[self._owners]
        slopes = torch.einsum("ij,ij->i", each, self._parts)  # of the logarithm of each part's weight
        is_head = self._ranks < len(self._log_heads)
        of_heads = torch.zeros_like(self._log_heads).index_add_(0, self._ranks[is_head], slopes[is_head])
        return each.mul_(self._factors), of_heads

"""What the models trained with torch share: seeds, batches of users, scorers that later training does not change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from led.encoder import F32, I64
from training.evaluate import Scorer
from training.svd import Sparse

Net = TypeVar("Net", bound=nn.Module)


def seeded(rng: np.random.Generator) -> None:
    """Torch's own generator from this one: initial weights and dropout are drawn from it."""
    torch.manual_seed(int(rng.integers(1 << 31)))


def batches(users: int, size: int, rng: np.random.Generator) -> Iterator[I64]:
    """Every number below `users` once, in random order, `size` at a time."""
    order = rng.permutation(users)
    for start in range(0, users, size):
        yield order[start : start + size]


def dense(matrix: Sparse) -> torch.Tensor:
    """(users, items), float32."""
    return torch.from_numpy(matrix.toarray())


def step(descent: torch.optim.Optimizer, missed: torch.Tensor) -> None:
    """One step down the gradient of what was missed."""
    descent.zero_grad()
    torch.autograd.backward(missed)
    descent.step()


def network_scorer(net: Net, scored: Callable[[Net, torch.Tensor], torch.Tensor]) -> Scorer:
    """The scorer of a network as it is now: what `scored` gives for dense users."""
    frozen = copy.deepcopy(net)

    def scores(folded_in: Sparse) -> F32:
        with torch.no_grad():
            return scored(frozen, dense(folded_in)).numpy()

    return scores

"""The losses of LED, section "losses" of arXiv 2101.00870, as what is minimised.

Per user u and positive i, with N negatives n drawn for the user and shared by the user's positives:

    bpr          mean over n of  -log sigma(s(u, i) - s(u, n))
    ns           -log sigma(s(u, i)) - mean over n of log(1 - sigma(s(u, n)))
    css          -s(u, i) + log( exp s(u, i) + (I - 1) / N * sum over n of exp s(u, n) )    (Botev et al. 2017)
    multinomial  -s(u, i) + log sum over all items of exp s(u, j)

The paper's formulas of bpr and ns sum over n, its code takes the mean: `over` is what the sum is divided by, N or 1.
Each function returns the sum of these over all positives, each times its weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from training.finetune.settings import Average

CELLS_AT_ONCE = 1 << 16  # differences of scores held at a time: they stay in a core's cache


def target_weights(owners: Tensor, users: int, average: Average) -> Tensor:
    """What each positive counts, (t,), from its user's place 0..users-1.

    events: every positive the same. users: every user the same, divided among the user's positives. sums: a user's
    positives are summed, and the mean is over users. Users without a positive count for nothing.
    """
    counts = torch.bincount(owners, minlength=users).to(torch.float32)
    with_any = int((counts > 0).sum())
    if average == "events":
        return torch.full((len(owners),), 1.0 / max(len(owners), 1))
    if average == "sums":
        return torch.full((len(owners),), 1.0 / max(with_any, 1))
    return 1.0 / (counts[owners] * with_any)


@dataclass(frozen=True)
class Positives:
    """scores: (t,) s(u, i). owners: (t,) the place of u in the batch. weights: (t,), see `target_weights`."""

    scores: Tensor
    owners: Tensor
    weights: Tensor


def bpr(positives: Positives, negatives: Tensor, over: float) -> Tensor:
    """negatives: (users, N) scores."""
    share = positives.weights / over
    return _Pairwise.apply(positives.scores, negatives, positives.owners, share)  # type: ignore[no-any-return]


def ns(positives: Positives, negatives: Tensor, over: float) -> Tensor:
    """negatives: (users, N) scores."""
    against = softplus(negatives).sum(dim=1) / over  # -log(1 - sigma(s)) = softplus(s)
    return (positives.weights * (against[positives.owners] - logsigmoid(positives.scores))).sum()


def css(positives: Positives, negatives: Tensor, items: int) -> Tensor:
    """negatives: (users, N) scores. items: I, at least 2."""
    others = torch.logsumexp(negatives, dim=1) + math.log((items - 1) / negatives.shape[1])
    normaliser = torch.logaddexp(positives.scores, others[positives.owners])
    return (positives.weights * (normaliser - positives.scores)).sum()


def multinomial(positives: Positives, scores: Tensor) -> Tensor:
    """scores: (users, items), of all of them."""
    return (positives.weights * (torch.logsumexp(scores, dim=1)[positives.owners] - positives.scores)).sum()


class _Pairwise(torch.autograd.Function):
    """bpr and its gradient in one pass over blocks of positives: whole, its differences would be t x N numbers."""

    @staticmethod
    def forward(ctx: Any, positive: Tensor, negative: Tensor, owners: Tensor, share: Tensor) -> Tensor:
        total = torch.zeros(())
        up, down = torch.zeros_like(positive), torch.zeros_like(negative)
        step = max(1, CELLS_AT_ONCE // negative.shape[1])
        for start in range(0, len(positive), step):
            part = slice(start, start + step)
            differences = negative[owners[part]] - positive[part, None]
            total += softplus(differences).sum(dim=1) @ share[part]
            pull = differences.sigmoid_().mul_(share[part, None])
            up[part] = -pull.sum(dim=1)
            down.index_add_(0, owners[part], pull)
        ctx.save_for_backward(up, down)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        up, down = ctx.saved_tensors
        return gradients[0] * up, gradients[0] * down, None, None

"""The softmax over items and its gradients, computed together, a block of users at a time.

Rows are of unit length, so logits lie within 1/tau of zero: no pass to find the largest is needed, and exp cannot
overflow. A block's logits are written once, over by their exponentials, and read twice more: automatic differentiation
would write and read those of all users several times.

Candidates may be a share of all items, drawn uniformly for a batch: their odds then count 1/share each, so the sum over
all items that they stand for is estimated without bias, and the item that came next always counts once, by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_ROWS = 512


@dataclass(frozen=True)
class Gradients:
    """loss: mean over the users, in nats. The others: its gradients, each of the shape and type of what they are of."""

    loss: float
    users: Tensor
    wanted: Tensor
    candidates: Tensor


@dataclass(frozen=True)
class Candidates:
    """rows: (c, dim) items of unit length, `share` of all there are. places: (b,) int64, where among them the item is
    that a user wants, -1 where it is not."""

    rows: Tensor
    places: Tensor
    share: float = 1.0


def cosine_softmax(
    users: Tensor, wanted: Tensor, candidates: Candidates, *, tau: float, products: torch.dtype | None = None
) -> Gradients:
    """Cross-entropy of softmax(users @ items.T / tau) against what was wanted.

    users, wanted: (b, dim), rows of unit length. products: the type matrices are multiplied in, bfloat16 where the
    machine has it; the type of users without it. Sums are kept in the type of users.
    """
    products = users.dtype if products is None else products
    items = candidates.rows.to(products)
    queries = users / tau
    logits = torch.einsum("ij,ij->i", queries, wanted)
    norms, d_users, d_candidates = logits.exp(), torch.empty_like(users), torch.zeros_like(candidates.rows)
    for start in range(0, len(users), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        odds = torch.mm(queries[block].to(products), items.t()).exp_()  # (rows, c)
        inside = torch.nonzero(candidates.places[block] >= 0)[:, 0]
        odds[inside, candidates.places[block][inside]] = 0
        norms[block] += odds.sum(1) / candidates.share
        each = 1 / (candidates.share * norms[block, None])
        d_users[block] = torch.mm(odds, items).to(users.dtype) * each
        d_candidates += torch.mm(odds.t(), (queries[block] * each).to(products))
    loss = torch.log(norms) - logits
    pull = (logits.exp() / norms - 1)[:, None]
    d_users.addcmul_(pull, wanted).div_(tau * len(users))
    return Gradients(float(loss.mean()), d_users, pull * queries / len(users), d_candidates.div_(len(users)))


def unit_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Rows at unit length, and the lengths (n, 1) they had, at least 1e-12."""
    lengths = torch.linalg.vector_norm(matrix, dim=1, keepdim=True).clamp_min_(1e-12)
    return matrix / lengths, lengths


def through_unit_rows(gradient: Tensor, units: Tensor, lengths: Tensor) -> Tensor:
    """The gradient with respect to rows, from that with respect to their units."""
    along = torch.einsum("ij,ij->i", gradient, units)
    return (gradient - units * along[:, None]) / lengths

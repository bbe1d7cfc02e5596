"""How well next items are found: the rank of each, exactly, and what papers make of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from led.encoder import F32, I64, Bool, Encoder, Events, encode
from led.ranking import top_k
from training.sessions.prefixes import Batch, Prefixes

AT_ONCE = 512


@dataclass(frozen=True)
class Scorer:
    """A model of sessions as it is served: users by the encoder, items with their row at unit length.

    embeddings: (items, dim) float32. known: (items,), which items are ranked at all.
    """

    encoder: Encoder
    embeddings: F32
    known: Bool

    def ranks(self, prefixes: Prefixes) -> I64:
        """How many other items score at least as well as the one that came next, (prefixes,). It must be known."""
        found = []
        for batch, scores in self._scored(prefixes):
            own = scores[np.arange(len(scores)), batch.targets]
            found.append(np.count_nonzero(scores >= own[:, None], axis=1) - 1)
        return np.concatenate([np.empty(0, np.int64), *found])

    def best(self, prefixes: Prefixes, k: int) -> I64:
        """The best k items after each prefix, (prefixes, min(k, items))."""
        return np.concatenate([top_k(scores, k) for _, scores in self._scored(prefixes)])

    def _scored(self, prefixes: Prefixes) -> Iterator[tuple[Batch, F32]]:
        """Batches with their scores (b, items), -inf where an item is not known."""
        outputs = unit(self.embeddings).T.copy()  # (dim, items)
        for batch in prefixes.batches(AT_ONCE, np.arange(len(prefixes))):
            zeros = np.zeros(len(batch.rows), np.int64)
            events = Events(batch.owners, batch.rows, zeros.astype(np.uint8), zeros)
            scores = encode(self.encoder, self.embeddings, len(batch.targets), events).vectors() @ outputs
            scores[:, ~self.known] = -np.inf
            yield batch, scores


def unit(embeddings: F32) -> F32:
    """Rows at unit length; a row of zeros stays."""
    return np.asarray(embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12), np.float32)


def recall(ranks: I64, k: int) -> float:
    """Share of ranks among the best k; 0 where there are none."""
    return float((ranks < k).sum() / max(len(ranks), 1))


def mean_reciprocal_rank(ranks: I64, k: int) -> float:
    """Mean of 1 / place in the list, where it is among the best k, and of 0 elsewhere."""
    return float(np.where(ranks < k, 1 / (ranks + 1), 0).sum() / max(len(ranks), 1))

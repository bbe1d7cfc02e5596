"""How well next items are found: the rank of each, exactly, and what papers make of ranks."""

from __future__ import annotations

import numpy as np

from led.encoder import F32, I64, Bool, Encoder, Events, encode
from training.sessions.prefixes import Sessions

AT_ONCE = 512


def ranks(encoder: Encoder, embeddings: F32, sessions: Sessions, known: Bool, *, longest: int) -> I64:
    """How many known items score at least as well as the one that came next, for every prefix, (prefixes,).

    Users are encoded as serving encodes them; items score with their row at unit length. A tie counts against us.
    """
    lengths = np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    outputs = np.where(known[:, None], embeddings / lengths, np.nan).T.copy()  # (dim, items); nan is above nothing
    found = []
    prefixes = sessions.prefixes(longest)
    for batch in prefixes.batches(AT_ONCE, np.arange(len(prefixes))):
        zeros = np.zeros(len(batch.rows), np.int64)
        events = Events(batch.owners, batch.rows, zeros.astype(np.uint8), zeros)
        scores = encode(encoder, embeddings, len(batch.targets), events).vectors() @ outputs
        own = scores[np.arange(len(scores)), batch.targets]
        found.append(np.count_nonzero(scores >= own[:, None], axis=1) - 1)
    return np.concatenate([np.empty(0, np.int64), *found])


def recall(ranks: I64, k: int) -> float:
    """Share of ranks among the best k; 0 where there are none."""
    return float((ranks < k).sum() / max(len(ranks), 1))


def mean_reciprocal_rank(ranks: I64, k: int) -> float:
    """Mean of 1 / place in the list, where it is among the best k, and of 0 elsewhere."""
    return float(np.where(ranks < k, 1 / (ranks + 1), 0).sum() / max(len(ranks), 1))

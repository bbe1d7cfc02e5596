"""The decoder: s(u, i) = <u, v_i> + b_i (LED, arXiv 2101.00870), and the best k of it, exactly."""

from __future__ import annotations

import numpy as np

from led.encoder import F32, I64


def score(vectors: F32, output_embeddings: F32, biases: F32) -> F32:
    """Scores (users, items) of every item for user vectors (users, dim), from (items, dim) and (items,)."""
    return vectors @ output_embeddings.T + biases


def with_bias(output_embeddings: F32, biases: F32) -> F32:
    """Item vectors [v ; b], (items, dim + 1): with queries [u ; 1] a plain inner product is the score."""
    return np.hstack([output_embeddings, biases[:, None]]).astype(np.float32, copy=False)


def with_one(vectors: F32) -> F32:
    """Queries [u ; 1], (users, dim + 1). See `with_bias`."""
    return np.hstack([vectors, np.ones((len(vectors), 1), np.float32)]).astype(np.float32, copy=False)


def top_k(scores: F32, k: int) -> I64:
    """Columns of the k highest scores of each row, best first, (users, min(k, items)); lower column wins a tie.

    Raises ValueError where a score is no number: no order of such a row would mean anything.
    """
    users, items = scores.shape
    k = min(k, items)
    if k == 0 or users == 0:
        return np.empty((users, k), np.int64)
    # The k-th best value first, then whatever reaches it: several times faster than argpartition, and it sees all ties.
    highest = np.partition(scores, items - k, axis=1)[:, items - k :]
    if np.isnan(highest).any():  # where they sort to
        raise ValueError("scores hold values that are no numbers")
    rows, columns = np.divmod(np.flatnonzero(scores >= highest[:, :1]), items)
    found = np.bincount(rows, minlength=users)
    best = np.lexsort((columns, -scores[rows, columns], rows))
    starts = np.cumsum(found) - found
    return np.asarray(columns[best[starts[:, None] + np.arange(k)]], dtype=np.int64)

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
    """Columns of the k highest scores of each row, best first, (users, min(k, items)); lower column wins a tie."""
    users, items = scores.shape
    k = min(k, items)
    if k == 0:
        return np.empty((users, 0), np.int64)
    if k < items:
        best = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    else:
        best = np.broadcast_to(np.arange(items), (users, items))
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1).astype(np.int64)

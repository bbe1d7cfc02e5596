"""Ranking metrics as the field's papers define them (Liang et al. 2018 for recall and ndcg truncation)."""

from __future__ import annotations

import numpy as np

from led.encoder import F64, I64, Bool


def hits(ranked: I64, relevant: list[I64]) -> Bool:
    """Which of the ranked items (users, k) are among the user's relevant ones. Shape of ranked; -1 is never a hit."""
    if len(ranked) != len(relevant):
        raise ValueError(f"{len(ranked)} users ranked, {len(relevant)} with relevant items")
    owners = np.repeat(np.arange(len(relevant)), [len(wanted) for wanted in relevant])
    wanted = np.concatenate([np.empty(0, np.int64), *relevant])
    if not ranked.size or not wanted.size:
        return np.zeros(ranked.shape, np.bool_)
    # One number for each (user, item), so that all users are looked up at once.
    items = int(max(ranked.max(), wanted.max())) + 1
    pairs = np.sort(owners * items + wanted)
    asked = np.arange(len(ranked))[:, None] * items + ranked
    places = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
    return np.asarray((pairs[places] == asked) & (ranked >= 0))


def recall(hit: Bool, relevant_counts: I64, k: int, *, truncated: bool = False) -> F64:
    """recall@k of each user: hits in the first k over the relevant; over min(k, relevant) if truncated.

    LightGCN's tables use the plain form, Liang et al.'s the truncated one. Every count must be above 0.
    """
    wanted = np.minimum(relevant_counts, k) if truncated else relevant_counts
    return np.asarray(hit[:, :k].sum(axis=1) / wanted, dtype=np.float64)


def ndcg(hit: Bool, relevant_counts: I64, k: int) -> F64:
    """ndcg@k of each user with binary gains: ideal is min(k, relevant) hits at the top."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gained = hit[:, :k] @ discounts[: hit[:, :k].shape[1]]
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(relevant_counts, k)]
    return np.asarray(gained / ideal, dtype=np.float64)


def mrr(hit: Bool, k: int) -> F64:
    """Reciprocal rank of each user's first hit within k, 0 without one."""
    first = np.argmax(hit[:, :k], axis=1)
    found = hit[:, :k].any(axis=1)
    return np.where(found, 1.0 / (first + 1), 0.0)


def coverage(ranked: I64, items: int) -> float:
    """Share of the catalogue that is recommended to anybody at all, 0..1."""
    return len(np.unique(ranked)) / items

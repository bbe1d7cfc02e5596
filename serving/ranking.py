"""The best items of a release for many users at once: one search proposes, exact scores decide."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from led.encoder import F32
from led.ranking import with_one
from serving.served import Served

NARROW = 128  # items a search may fetch for all users of a batch; who needs more is searched for apart
MAX_FETCH = 1024
NO_ROW = -1  # what an index proposes where it has nothing more
NOTHING: frozenset[int] = frozenset((NO_ROW,))


class Ranked(NamedTuple):
    """Item rows, best first, and their scores."""

    rows: Sequence[int]
    scores: Sequence[float]


def hidden_rows(keys: Sequence[npt.NDArray[np.uint64]], served: Served) -> list[set[int]]:
    """Rows of each user's item keys; NO_ROW is always among them."""
    if not keys:
        return []
    rows = served.release.rows(np.concatenate(keys)).tolist()
    hidden, start = [], 0
    for some in keys:
        of_user = set(rows[start : start + len(some)])
        of_user.add(NO_ROW)
        hidden.append(of_user)
        start += len(some)
    return hidden


def best(
    served: Served,
    vectors: F32,
    ks: Sequence[int],
    hidden: Sequence[Collection[int]],
    *,
    max_fetch: int = MAX_FETCH,
) -> list[Ranked]:
    """The best k rows of each user that are not hidden, for vectors (users, dim); users in order.

    Where the index proposes too few, the most popular items not yet among them are scored too: fewer than k come
    back only where nothing else is left to show. max_fetch: most items the index is asked for.
    """
    needs = [k + len(of_user) - 1 for k, of_user in zip(ks, hidden, strict=True)]
    chosen: list[list[int]] = [[] for _ in ks]
    for users in _by_width(needs):
        fetch = min(max(needs[user] for user in users), max_fetch, served.release.items)
        queries = with_one(vectors if len(users) == len(vectors) else vectors[users])
        for user, found in zip(users, served.release.index.search(queries, fetch).tolist(), strict=True):
            of_user, k = hidden[user], ks[user]
            rows = [row for row in found if row not in of_user][:k]
            if len(rows) < k:
                rows += _popular_rows(served, k - len(rows), {*of_user, *rows})
            chosen[user] = rows
    return _scored(served, vectors, chosen)


def most_popular(served: Served, k: int, hidden: Collection[int]) -> Ranked:
    """The k most popular rows that are not hidden, with their popularity."""
    rows = _popular_rows(served, k, hidden)
    return Ranked(rows, list(served.release.popularity[rows]))


def _by_width(needs: Sequence[int]) -> list[list[int]]:
    """Users to be searched for together: the few who need much do not slow the others down."""
    if max(needs) <= NARROW:
        return [list(range(len(needs)))]
    narrow = [user for user, need in enumerate(needs) if need <= NARROW]
    wide = [user for user, need in enumerate(needs) if need > NARROW]
    return [users for users in (narrow, wide) if users]


def _popular_rows(served: Served, k: int, hidden: Collection[int]) -> list[int]:
    return list(islice((row for row in served.most_popular if row not in hidden), k))


def _scored(served: Served, vectors: F32, chosen: Sequence[Sequence[int]]) -> list[Ranked]:
    """Exact scores <u, v_i> + b_i, and each user's rows ordered by them."""
    sizes = [len(rows) for rows in chosen]
    flat = np.array([row for rows in chosen for row in rows], np.int64)
    owners = np.repeat(np.arange(len(chosen)), sizes)
    release = served.release
    scores = np.einsum("nd,nd->n", vectors[owners], release.output_embeddings[flat]) + release.biases[flat]
    order = np.lexsort((-scores, owners))
    rows, ordered = flat[order].tolist(), list(scores[order])
    answers, start = [], 0
    for size in sizes:
        answers.append(Ranked(rows[start : start + size], ordered[start : start + size]))
        start += size
    return answers

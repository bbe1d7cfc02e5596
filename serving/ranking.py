"""The best items of a release for many users at once: one search proposes, exact scores decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from led.encoder import F32, I64
from led.ranking import with_one
from serving.served import Served

NARROW = 128  # items a search may fetch for all users of a batch; who needs more is searched for apart
MAX_FETCH = 1024


class Hidden(NamedTuple):
    """Item rows that must not be in an answer, flat: owners (n,) 0..users-1, rows (n,) without -1."""

    owners: I64
    rows: I64

    @classmethod
    def of(cls, keys: Sequence[npt.NDArray[np.uint64]], served: Served) -> Hidden:
        """From item keys of each user; those the release does not know need not be hidden."""
        if not keys:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64))
        owners = np.repeat(np.arange(len(keys)), [len(some) for some in keys])
        rows = served.release.rows(np.concatenate(keys))
        return cls(owners[rows >= 0], rows[rows >= 0])

    def of_user(self, user: int) -> I64:
        return np.asarray(self.rows[self.owners == user])


def best(served: Served, vectors: F32, ks: I64, hidden: Hidden, *, max_fetch: int = MAX_FETCH) -> list[tuple[I64, F32]]:
    """Rows and scores of the best k of each user, best first, for vectors (users, dim) and ks (users,).

    Where the index proposes too few, the most popular items not yet among them are scored too. Fewer than k come
    back only where nothing else is left to show. max_fetch: most items the index is asked for.
    """
    needs = ks + np.bincount(hidden.owners, minlength=len(ks))
    answers: list[tuple[I64, F32] | None] = [None] * len(ks)
    wide = needs > NARROW
    for users in (np.flatnonzero(~wide), np.flatnonzero(wide)):
        if not len(users):
            continue
        fetch = min(int(needs[users].max()), max_fetch, served.release.items)
        found = served.release.index.search(with_one(vectors[users]), fetch)
        rows, counts = _first_visible(found, users, ks[users], hidden, served.release.items)
        for place in np.flatnonzero(counts < ks[users]).tolist():
            taken = np.concatenate([rows[place, : counts[place]], hidden.of_user(users[place])])
            more, _ = most_popular(served, int(ks[users[place]] - counts[place]), taken)
            rows[place, counts[place] : counts[place] + len(more)] = more
            counts[place] += len(more)
        scores = served.scores(vectors[users], rows)
        scores[np.arange(rows.shape[1]) >= counts[:, None]] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
        for place, user in enumerate(users.tolist()):
            count = counts[place]
            answers[user] = rows[place, :count], scores[place, :count]
    return [answer for answer in answers if answer is not None]


def most_popular(served: Served, k: int, hidden: I64) -> tuple[I64, F32]:
    """The k most popular rows without the hidden ones, and their popularity."""
    rows = served.most_popular
    if len(hidden):
        rows = rows[~np.isin(rows, hidden)]
    rows = rows[:k]
    return rows, served.popularity[rows]


def _first_visible(found: I64, users: I64, ks: I64, hidden: Hidden, items: int) -> tuple[I64, I64]:
    """The first k visible rows of each user in the index's order, (users, max k) padded with 0; and their counts."""
    visible = found >= 0
    if len(hidden.rows):
        pairs = users[:, None] * items + found
        visible &= ~np.isin(pairs, hidden.owners * items + hidden.rows)
    kept = visible & (np.cumsum(visible, axis=1) <= ks[:, None])
    widest = int(ks.max())
    first = np.argsort(~kept, axis=1, kind="stable")[:, :widest]
    rows = np.zeros((len(users), widest), np.int64)
    rows[:, : first.shape[1]] = np.where(
        np.take_along_axis(kept, first, axis=1), np.take_along_axis(found, first, axis=1), 0
    )
    return rows, kept.sum(axis=1)

"""The best items of a release for many users at once: one search proposes, what is hidden falls out."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from led.encoder import F32, I64
from serving.served import Served
from stream.stages import Stages

SPARE = 8  # rows fetched beyond k at first: of what is hidden, few things are among the best, and a wide search costs
MAX_FETCH = 1024
MOST_WITHHELD = 0.9  # share of the items beyond which no wider first search makes up for it
NO_KEY = 1 << 63  # stands for no item: item keys have 56 bits


class Ranked(NamedTuple):
    """Item rows, best first, and their scores (rows,) float32."""

    rows: Sequence[int]
    scores: F32


def best(
    served: Served,
    queries: F32,
    ks: Sequence[int],
    hidden: Sequence[Collection[int]],
    stages: Stages,
    *,
    max_fetch: int = MAX_FETCH,
) -> list[Ranked]:
    """The best k rows of each user whose keys are not hidden, for queries (users, dim + 1), [u ; 1]; users in order.

    Nor are those in `served.withheld`. Where the index proposes too few, the most popular items not yet among them are
    scored too: fewer than k come back only where nothing else is left to show. max_fetch: most items the index is
    asked for.
    """
    most, withheld = min(max_fetch, served.release.items), len(served.withheld)
    needs = [min(k + len(of_user) + withheld, most) for k, of_user in zip(ks, hidden, strict=True)]
    fetch = max(min(need, k + SPARE) for need, k in zip(needs, ks, strict=True))
    if withheld:  # as many as fall out where they lie evenly
        fetch = min(max(needs), int(fetch / (1 - min(withheld / served.release.items, MOST_WITHHELD))))
    since = time.perf_counter()
    found = served.release.index.scored(queries, fetch)
    since = stages.lap("search", since)
    ranked = _shown(served, *found, ks, hidden)
    stages.lap("choose", since)
    lacking = [user for user, found in enumerate(ranked) if len(found.rows) < ks[user]]
    again = [user for user in lacking if needs[user] > fetch]
    if again:
        since = time.perf_counter()
        found = served.release.index.scored(queries[again], max(needs[user] for user in again))
        wide = _shown(served, *found, [ks[user] for user in again], [hidden[user] for user in again])
        stages.lap("search again", since)
        for user, of_user in zip(again, wide, strict=True):
            ranked[user] = of_user
    for user in lacking:
        if len(ranked[user].rows) < ks[user]:
            ranked[user] = _filled_up(served, queries[user, :-1], ranked[user], ks[user], hidden[user])
    return ranked


def most_popular(served: Served, k: int, hidden: Collection[int]) -> Ranked:
    """The k most popular rows whose keys are not hidden, with their popularity."""
    rows = _popular_rows(served, k, hidden)
    return Ranked(rows, served.release.popularity[rows])


def _shown(
    served: Served, scores: F32, rows: I64, ks: Sequence[int], hidden: Sequence[Collection[int]]
) -> list[Ranked]:
    """Of what the index found for each user the best k that are not hidden."""
    keys = served.release.item_keys[rows]
    if rows[:, -1].min() < 0:
        keys = np.where(rows < 0, np.uint64(NO_KEY), keys)
    places: list[int] = []
    sizes: list[int] = []
    start = 0
    withheld = served.withheld
    for of_user, k, not_shown in zip(keys.tolist(), ks, hidden, strict=True):
        shown = [place for place, key in enumerate(of_user, start) if key not in not_shown]
        shown = ([place for place in shown if of_user[place - start] not in withheld] if withheld else shown)[:k]
        places += shown
        sizes.append(len(shown))
        start += rows.shape[1]
    at = np.array(places, np.intp)
    chosen, theirs, ranked, end = rows.take(at).tolist(), scores.take(at), [], 0
    for size in sizes:
        start, end = end, end + size
        ranked.append(Ranked(chosen[start:end], theirs[start:end]))
    return ranked


def _popular_rows(served: Served, k: int, hidden: Collection[int]) -> list[int]:
    withheld = served.withheld
    shown = (row for row, key in served.most_popular if key not in hidden and key not in withheld)
    return list(islice(shown, k))


def _filled_up(served: Served, vector: F32, ranked: Ranked, k: int, hidden: Collection[int]) -> Ranked:
    """With popular rows up to k, all in the order of their scores."""
    release = served.release
    shown = release.item_keys[list(ranked.rows)].tolist()
    more = _popular_rows(served, k - len(ranked.rows), {*hidden, *shown})
    scores = np.concatenate([ranked.scores, release.output_embeddings[more] @ vector + release.biases[more]])
    order = np.argsort(-scores, kind="stable")
    rows = [*ranked.rows, *more]
    return Ranked([rows[place] for place in order.tolist()], scores[order])

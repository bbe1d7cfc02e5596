"""How soon a user is known: quality by how many events are folded in, for users training has seen and has never met.

MovieLens 1M. Every user asked about liked fifteen films or more. The five after the first ten are to be found, always
the same, from the n just before them. Users of the first kind were trained on with all their films but those five;
those of the second kind were not trained on at all. LED keeps nothing for either; the table shows that it need not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse as sp

from led.encoder import I64, Bool
from training.benchmarks import models
from training.benchmarks.case import Case, data_file
from training.benchmarks.comparison import Measures, Trial, compared
from training.benchmarks.ml1m import LIKED, RATINGS
from training.evaluate import Task
from training.interactions import Interactions, without_times
from training.svd import Sparse

EVENTS = (0, 1, 2, 5, 10)
FIRST, NEXT = max(EVENTS), 5  # films before those to be found, and these
ASKED = 1000  # users of each kind, and as many unseen ones to choose by
SEED = 7
DIMS = (64,)
MEASURES = Measures("ndcg@20", ("mrr@20",))


def cold_users(dims: Sequence[int] | None, folder: Path) -> list[Case]:
    """A row for each model, kind of user and number of events. Nobody's list holds what was folded in."""
    trial = partial(by_events, data_file(folder, RATINGS))
    cases = [compared("popular", models.popular, trial)]
    for dim in dims or DIMS:
        cases.append(compared("led, denoised", partial(models.denoised_with_popularity, dim), trial))
        cases.append(compared("led, spectral", partial(models.spectral_with_popularity, dim), trial))
    return cases


def by_events(path: Path) -> Trial:
    """The trial of `cold_users`. Chosen with one, two, five and ten events of unseen users, each counting the same."""
    table = pq.read_table(path, columns=["user", "item", "rating"])  # by user, oldest first
    liked = table["rating"].to_numpy() >= LIKED
    users, items = (
        np.unique(table[name].to_numpy()[liked], return_inverse=True)[1].astype(np.int64) for name in ("user", "item")
    )
    counts = np.bincount(users)
    place = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_next = (place >= FIRST) & (place < FIRST + NEXT)
    rng = np.random.default_rng(SEED)
    to_choose, unseen, seen = np.split(rng.permutation(np.flatnonzero(counts >= FIRST + NEXT))[: 3 * ASKED], 3)
    is_trained = ~np.isin(np.arange(len(counts)), np.concatenate([to_choose, unseen]))
    shape = (len(counts), int(items.max()) + 1)
    kept = is_trained[users] & ~is_next
    train = without_times(users[kept], items[kept], shape)
    known = np.asarray(train.matrix.sum(axis=0)).ravel() > 0
    wanted = _matrix(users, items, is_next & known[items], shape)

    def task(chosen: I64, events: int) -> Task:
        asked = chosen[np.diff(wanted.indptr)[chosen] > 0]
        return Task(_matrix(users, items, (place < FIRST) & (place >= FIRST - events), shape)[asked], wanted[asked])

    kinds = {"unseen": unseen, "seen": seen}
    tests = {f"{kind}, {n} events": task(chosen, n) for n in EVENTS for kind, chosen in kinds.items()}
    trained = _trained_rows(train)
    choosing = [task(to_choose, n) for n in EVENTS if n]
    stacked = Task(
        sp.csr_array(sp.vstack([part.folded_in for part in choosing])),
        sp.csr_array(sp.vstack([part.relevant for part in choosing])),
    )
    return Trial(trained, stacked, trained, tests, MEASURES)


def _matrix(users: I64, items: I64, kept: Bool, shape: tuple[int, int]) -> Sparse:
    ones = np.ones(np.count_nonzero(kept), np.float32)
    return sp.csr_array((ones, (users[kept], items[kept])), shape=shape)


def _trained_rows(train: Interactions) -> Interactions:
    """Without the users that have nothing."""
    some = np.flatnonzero(np.diff(train.matrix.indptr))
    return Interactions([train.user_ids[row] for row in some], train.item_ids, train.matrix[some], None)

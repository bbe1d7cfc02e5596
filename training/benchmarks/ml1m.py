"""MovieLens 1M under two protocols: half of each user's ratings (CIESS), and users held out whole (Liang et al.)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from led.encoder import I64, Bool
from training.benchmarks.case import Case, data_file
from training.benchmarks.comparison import Measures, Trial
from training.benchmarks.models import comparisons
from training.benchmarks.strong import SEED, check, strong_split, strong_trial
from training.evaluate import Task
from training.interactions import without_times

RATINGS = "ml1m_ratings.parquet"
LIKED = 4
HELD_OUT = 1000  # users for validation, and as many for test, of 6,034; Liang et al. hold out 10,000 of 136,677 each
COUNTS = {"events": 575_272, "users": 6_034, "items": 3_533}
CIESS_SEED = 42


def ml1m(dims: Sequence[int] | None, folder: Path) -> list[Case]:
    """CIESS: all ratings; a random half of each user's to train on, a quarter to choose by, a quarter to be found.

    What is found is ranked among everything the user did not touch in the other three quarters, which are trained on
    and folded in by then. Published figures: recall and ndcg at 5 and 20.
    """
    return comparisons(partial(by_user, data_file(folder, RATINGS)), dims)


def ml1m_strong(dims: Sequence[int] | None, folder: Path) -> list[Case]:
    """Users held out whole, as for MovieLens 20M: ratings of 4 and 5, users with five, recall truncated."""
    return comparisons(partial(strong, data_file(folder, RATINGS)), dims)


def by_user(path: Path) -> Trial:
    """The trial of `ml1m`."""
    table = pq.read_table(path, columns=["user", "item"])
    users, items = (np.unique(table[name], return_inverse=True)[1].astype(np.int64) for name in ("user", "item"))
    half, quarter = quarters(users, np.random.default_rng(CIESS_SEED))
    shape = (int(users.max()) + 1, int(items.max()) + 1)
    chosen = (half, quarter, ~half & ~quarter, half | quarter)
    train, validation, test, known = (without_times(users[part], items[part], shape) for part in chosen)
    measures = Measures("ndcg@20", ("recall@5", "ndcg@5"))
    task = Task(known.matrix, test.matrix)
    return Trial(train, Task(train.matrix, validation.matrix), known, {"ml-1m": task}, measures)


def quarters(users: I64, rng: np.random.Generator) -> tuple[Bool, Bool]:
    """Which events, (n,), are in the half to train on, and which in the quarter to choose by; drawn user by user.

    Of n events a user leaves ceil(n / 4) for the test and floor(n / 4) to choose by.
    """
    order = np.lexsort((rng.permutation(len(users)), users))
    counts = np.bincount(users)
    place = np.empty(len(users), np.int64)
    place[order] = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    of = counts[users]
    first, second = of - of // 4 - (of + 3) // 4, of - (of + 3) // 4
    return place < first, (place >= first) & (place < second)


def strong(path: Path, seed: int = SEED) -> Trial:
    """The trial of `ml1m_strong`; another seed gives another split of the same data."""
    table = pq.read_table(path, columns=["user", "item", "rating"])
    users, items, ratings = (table[name].to_numpy().astype(np.int64) for name in ("user", "item", "rating"))
    liked = ratings >= LIKED
    parts = strong_split(users[liked], items[liked], HELD_OUT, seed)
    check(parts.counts, COUNTS)
    return strong_trial("ml-1m-strong", parts)

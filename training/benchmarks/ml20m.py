"""MovieLens 20M by the protocol of Liang et al. 2018. The ratings are the user's to supply: ratings.csv of ml-20m."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.csv as pv

from led.encoder import I64
from training.benchmarks.case import Case, NoBenchmark, data_file
from training.benchmarks.comparison import Trial
from training.benchmarks.models import comparisons
from training.benchmarks.strong import check, strong_split, strong_trial

RATINGS = "ratings.csv"
LIKED = 3.5  # ratings above it
HELD_OUT = 10_000
DIMS = (64, 128, 600)
COUNTS = {
    "events": 9_990_682,
    "users": 136_677,
    "items": 20_720,
    "known items": 20_108,
    "validation targets": 142_514,
    "test targets": 139_775,
}
FIRST_ITEMS = ["151", "223", "253", "260", "293"]


def ml20m(dims: Sequence[int] | None, folder: Path) -> list[Case]:
    """Two times 10,000 users held out, recall truncated, chosen by ndcg@100 of the validation users."""
    return comparisons(partial(published, data_file(folder, RATINGS)), dims or DIMS, large=True)


def published(path: Path) -> Trial:
    """The trial of `ml20m`. Raises NoBenchmark where the split is not the published one, count by count."""
    parts = strong_split(*liked(path), HELD_OUT)
    check(parts.counts, COUNTS)
    if parts.train.item_ids[: len(FIRST_ITEMS)] != FIRST_ITEMS:
        raise NoBenchmark(f"the first items are {parts.train.item_ids[: len(FIRST_ITEMS)]}, published {FIRST_ITEMS}")
    return strong_trial("ml-20m", parts)


def liked(path: Path) -> tuple[I64, I64]:
    """Users and movies of the ratings above LIKED, in the order of the file. Raises NoBenchmark for another file."""
    table = pv.read_csv(path)
    wanted = ["userId", "movieId", "rating"]
    if not set(wanted) <= set(table.column_names):
        raise NoBenchmark(f"{path} has columns {', '.join(table.column_names)}: {', '.join(wanted)} are needed")
    users, movies, ratings = (table[name].to_numpy() for name in wanted)
    kept = ratings > LIKED
    return users[kept].astype(np.int64), movies[kept].astype(np.int64)

"""News of Globo.com, split by time: what is clicked next, an hour after training, where articles live for hours.

A model learns from the day before an hour and is asked for every click in it, from the clicks of that user before: of
the day, and of the hour. Clicks on articles that nobody clicked before the hour count as missed, for every model. What
is tried is chosen on one hour; the hours of the test lie in the days after it, and each click counts the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from led.encoder import I64, Bool
from training.baselines.contract import best_of, fitted_for
from training.benchmarks import models
from training.benchmarks.case import Case, data_file
from training.benchmarks.comparison import Measures, Recipes
from training.evaluate import Quality, Row, Scorer, Task, Training
from training.interactions import Interactions, Selection, collect, decay
from training.peak_memory import peak_mb
from training.progress import Progress

CLICKS = "globo_clicks.parquet"
HOUR_MS = 3_600_000
LEARNED_HOURS = 24
CHOSEN_ON = 8 * 24 + 12  # hours after the first click: noon of the ninth day
TESTED_ON = tuple(CHOSEN_ON + 24 * day + hour for day in range(1, 5) for hour in (-4, 0, 6))
EVENT_HALF_LIFE_S, USER_HALF_LIFE_S = 6 * 3600.0, 3600.0  # those of the day of news in docs/experiments.md
MEASURES = Measures("mrr@20", ("mrr@20",))
DIMS = (64, 128)


@dataclass(frozen=True)
class Hour:
    """What was learned from before an hour, and the clicks in it to be named, one row each.

    asked: all of them, with those on articles nobody clicked before, which no model could name and the task leaves out.
    """

    train: Interactions
    task: Task
    asked: int


def globo(dims: Sequence[int] | None, folder: Path) -> list[Case]:
    """Popularity of the day, of half an hour and of the last hour; neighbours; LED. Raises NoBenchmark."""
    path = data_file(folder, CLICKS)
    others = {"popular": models.popular, "recent popular": models.recent_popular, "item-knn": models.item_knn}
    cases = [_case(name, recipes, path) for name, recipes in others.items()]
    for dim in dims or DIMS:
        cases.append(_case("led, spectral", partial(models.spectral_with_news, dim), path))
    return cases


def _case(model: str, recipes: Recipes, path: Path) -> Case:
    return Case(model, partial(_rows, model, recipes, path))


def _rows(model: str, recipes: Recipes, path: Path, progress: Progress) -> list[Row]:
    clicks = pq.read_table(path, columns=["ts_ms", "user", "item"])
    chosen_on = hour(clicks, CHOSEN_ON)

    def quality(scorer: Scorer) -> float:
        return MEASURES.worth(MEASURES.of(scorer, chosen_on.task))

    started = time.process_time()
    chosen = best_of(recipes(), chosen_on.train, quality, 0, progress)
    chose, trained = time.process_time(), 0.0
    qualities, counts = [], []
    for place, at in enumerate(TESTED_ON):
        progress("hours", place, len(TESTED_ON))
        asked_in = hour(clicks, at)
        began = time.process_time()
        fitted = fitted_for(chosen.recipe, asked_in.train, chosen.steps, 0, progress)
        trained += time.process_time() - began
        qualities.append(MEASURES.of(fitted.scorer, asked_in.task))
        counts.append(asked_in.asked)
    progress("hours", len(TESTED_ON), len(TESTED_ON))
    training = Training(
        d=fitted.d,
        settings=vars(chosen.recipe),
        tried=chosen.tried,
        choose_seconds=chose - started,
        train_seconds=trained / len(TESTED_ON),
        peak_mb=peak_mb(),
    )
    return [Row("globo", model, pooled(qualities, counts), training)]


def hour(clicks: pa.Table, at: int) -> Hour:
    """The hour that begins `at` hours after the first click, of columns ts_ms (rising), user and item."""
    times_ms, users, items = (clicks[name].to_numpy().astype(np.int64) for name in ("ts_ms", "user", "item"))
    start = int(times_ms[0]) + at * HOUR_MS
    first, now, end = np.searchsorted(times_ms, [start - LEARNED_HOURS * HOUR_MS, start, start + HOUR_MS])
    day = clicks.slice(first, now - first)
    events = {"user_id": day["user"].cast(pa.string()), "item_id": day["item"].cast(pa.string())}
    kinds = pa.array(["click"] * len(day))
    train = collect(
        pa.table({**events, "kind": kinds, "time_ms": day["ts_ms"]}),
        Selection({"click": 1.0}, half_life_s=EVENT_HALF_LIFE_S),
    )
    columns = np.full(int(items.max()) + 1, -1)
    columns[[int(item) for item in train.item_ids]] = np.arange(len(train.item_ids))
    within = slice(first, end)
    learned = len(train.item_ids)
    return Hour(
        train, *asked(times_ms[within], users[within], columns[items[within]], first=now - first, learned=learned)
    )


def pooled(qualities: Sequence[Quality], asked_counts: Sequence[int]) -> Quality:
    """The mean over all clicks asked about, where those that no task holds count as missed."""
    named = np.array([quality.users for quality in qualities], np.float64) / sum(asked_counts)

    def mean(values: Iterable[float]) -> float:
        return float(named @ np.fromiter(values, np.float64))

    return Quality(
        recall=mean(quality.recall for quality in qualities),
        ndcg=mean(quality.ndcg for quality in qualities),
        coverage=float(np.mean([quality.coverage for quality in qualities])),
        users=sum(asked_counts),
        further={"mrr@20": mean(quality.further["mrr@20"] for quality in qualities)},
    )


def asked(times_ms: I64, users: I64, columns: I64, *, first: int, learned: int) -> tuple[Task, int]:
    """A row for each click from `first` on whose user clicked before: those clicks by age, and what is clicked next.

    columns: of the items, (n,), under `learned`, -1 for those not learned. The task leaves out clicks on such items,
    and the number counts them. A second click on an article is not asked about: lists leave out what was clicked.
    """
    order = np.argsort(users, kind="stable")
    place = np.empty(len(users), np.int64)
    place[order] = np.arange(len(users))
    earlier = place - np.searchsorted(users[order], users)  # clicks of the same user before, (n,)
    again = _seen_before(users, columns)
    targets = np.arange(first, len(users))
    targets = targets[(earlier[targets] > 0) & ~again[targets]]
    count = len(targets)
    targets = targets[columns[targets] >= 0]
    lengths = earlier[targets]
    rows = np.repeat(np.arange(len(targets)), lengths)
    back = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1  # 1 for the click just before
    before = order[np.repeat(place[targets], lengths) - back]
    known = columns[before] >= 0
    rows, before = rows[known], before[known]
    weights = decay(times_ms[targets][rows] - times_ms[before], USER_HALF_LIFE_S).astype(np.float32)
    shape = (len(targets), learned)
    folded_in = sp.csr_array((weights, (rows, columns[before])), shape=shape)
    ones = np.ones(len(targets), np.float32)
    return Task(folded_in, sp.csr_array((ones, (np.arange(len(targets)), columns[targets])), shape=shape)), count


def _seen_before(users: I64, columns: I64) -> Bool:
    """Which clicks, (n,), are not the first of their user on their item; never so for items not learned."""
    pairs = users * (columns.max() + 2) + columns + 1
    first = np.zeros(len(pairs), np.bool_)
    first[np.unique(pairs, return_index=True)[1]] = True
    return np.asarray(~first & (columns >= 0))

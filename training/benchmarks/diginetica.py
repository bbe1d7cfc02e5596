"""DIGINETICA as a stream of weeks (the protocol of ADER, RecSys 2020): learn the periods so far, predict the next one.

Cycle t = 0..15 trains on periods up to t and is tested on period t + 1. Items that training has not seen are taken out
of the test sessions, then sessions of one item; each prefix of what is left predicts its next item among all items
seen in training, nothing excluded. Figures are unweighted means over the cycles.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from led.encoder import I64, Bool, Encoder
from training.benchmarks.case import Case, data_file
from training.evaluate import Quality, Row, Training
from training.peak_memory import peak_mb
from training.progress import Progress, silent
from training.sessions.prefixes import Sessions
from training.sessions.quality import Scorer, mean_reciprocal_rank, recall

if TYPE_CHECKING:
    from training.sessions.learner import Learner, Recipe
    from training.sessions.teaching import Schedule

DIGINETICA = "diginetica_stream.parquet"
DIM, BEST, SAMPLE = 128, 20, 2000
TRIED = 21  # configurations of learner and schedule compared on held-out ends of periods 0 to 3 (docs/experiments.md)


@dataclass(frozen=True)
class Cycle:
    """ranks: of each test prefix's item, 0 for the best. train_seconds: of the process, for this cycle alone.

    coverage: share of the known items that are among the best 20 of at least one of some 2,000 prefixes.
    """

    number: int
    ranks: I64 = field(repr=False)
    train_seconds: float
    coverage: float = 0.0

    @property
    def recall(self) -> float:
        """Share of test prefixes whose item is among the best 20."""
        return recall(self.ranks, BEST)

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank, where it is among the best 20; 0 elsewhere."""
        return mean_reciprocal_rank(self.ranks, BEST)

    @property
    def ndcg(self) -> float:
        """With one item to find, a discount by rank and nothing else."""
        return float(np.where(self.ranks < BEST, 1 / np.log2(self.ranks + 2), 0).mean())


def diginetica_stream(dims: Sequence[int] | None, folder: Path) -> list[Case]:
    """LED trained on sessions, each cycle warm from the one before. Raises NoBenchmark."""
    path = data_file(folder, DIGINETICA)
    return [Case("led-sessions", partial(warm_chain, dim, path)) for dim in dims or (DIM,)]


def warm_chain(dim: int, path: Path, progress: Progress = silent) -> list[Row]:
    """A row for each cycle and one, last, of their means."""
    from training.sessions.learner import Recipe
    from training.sessions.teaching import Schedule

    made = list(cycles(periods(path), Recipe(dim=dim), Schedule(), progress=progress))
    rows = [_row(f"cycle {cycle.number}", [cycle], dim, cycle.train_seconds) for cycle in made]
    return [*rows, _row("mean of cycles", made, dim, sum(cycle.train_seconds for cycle in made))]


def periods(path: Path) -> list[Sessions]:
    """The sessions of each period; one that goes on in the next period is a session in both, as the data has it."""
    table = pq.read_table(path, columns=["period", "session", "item"])
    number, session, item = (table[name].to_numpy().astype(np.int64) for name in ("period", "session", "item"))
    return [Sessions.of(session[number == period], item[number == period] - 1) for period in range(number.max() + 1)]


def cycles(
    stream: Sequence[Sessions],
    recipe: Recipe,
    schedule: Schedule,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Iterator[Cycle]:
    """Every cycle of a stream of periods, each learner going on from the one before. Deterministic by seed."""
    from training.sessions.learner import Learner

    learner = Learner(0, recipe, np.random.default_rng(seed))
    for number in range(len(stream) - 1):
        yield cycle(learner, stream, number, schedule, progress)


def cycle(
    learner: Learner, stream: Sequence[Sessions], number: int, schedule: Schedule, progress: Progress = silent
) -> Cycle:
    """Teach a learner of cycle number - 1 what period `number` brings, and test it on the period after that."""
    from training.sessions.teaching import teach

    old, new = Sessions.joined(stream[:number]), stream[number]
    seen = Sessions.joined([old, new]).rows
    started = time.process_time()
    learner.grow(int(seen.max()) + 1)
    teach(learner, new, old, schedule, progress)
    seconds = time.process_time() - started
    known = np.bincount(seen, minlength=len(learner.table)) > 0
    scorer = Scorer(Encoder({0: 1.0}, head_weights=learner.head_weights()), learner.table.numpy(), known)
    prefixes = answerable(stream[number + 1], known).prefixes(schedule.longest)
    some = prefixes.take(np.arange(0, len(prefixes), max(1, len(prefixes) // SAMPLE)))
    coverage = len(np.unique(scorer.best(some, BEST))) / np.count_nonzero(known)
    return Cycle(number, scorer.ranks(prefixes), seconds, coverage)


def answerable(sessions: Sessions, known: Bool) -> Sessions:
    """Without items that are not known, and then without sessions of one item. known: (items,)."""
    owners = np.repeat(np.arange(len(sessions)), np.diff(sessions.starts))
    is_known = known[np.minimum(sessions.rows, len(known) - 1)] & (sessions.rows < len(known))
    owners, rows = owners[is_known], sessions.rows[is_known]
    counts = np.bincount(owners, minlength=len(sessions))
    return Sessions.of(owners[counts[owners] > 1], rows[counts[owners] > 1])


def _row(name: str, made: Sequence[Cycle], dim: int, train_seconds: float) -> Row:
    """Unweighted means of cycles."""

    def mean(metric: str) -> float:
        return float(np.mean([getattr(cycle, metric) for cycle in made]))

    prefixes = sum(len(cycle.ranks) for cycle in made)
    quality = Quality(mean("recall"), mean("ndcg"), mean("coverage"), prefixes, {"mrr@20": mean("mrr")})
    training = Training(d=dim, tried=TRIED, train_seconds=train_seconds, peak_mb=peak_mb())
    return Row(f"diginetica-stream, {name}", "led-sessions", quality, training)

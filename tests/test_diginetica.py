"""The weekly stream of DIGINETICA: its protocol, counted by hand on a stream of three periods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch", reason="training on sessions needs the extra `train`")

from led.encoder import Encoder
from led.ranking import top_k
from training.benchmarks.case import NoBenchmark
from training.benchmarks.diginetica import Cycle, answerable, cycles, diginetica_stream, periods
from training.sessions.learner import Recipe
from training.sessions.prefixes import Sessions
from training.sessions.quality import Scorer
from training.sessions.teaching import Schedule

FIRST = [[0, 1, 2], [2, 1], [0, 2]]  # sessions of each period, by item
SECOND = [[0, 3, 1], [4, 0], [5, 4], [1, 2, 5, 0]]
THIRD = [[3, 4], [6, 5, 3, 6]]


def written(folder: Path) -> Path:
    """A file of these three periods, in which two sessions of the first are interleaved."""
    events = [
        (period, 10 * period + number, item)
        for period, sessions in enumerate((FIRST, SECOND, THIRD))
        for number, session in enumerate(sessions)
        for item in session
    ]
    events[0:5] = [events[3], events[0], events[1], events[4], events[2]]
    columns = dict(zip(("period", "session", "item"), np.array(events).T, strict=True))
    path = folder / "diginetica_stream.parquet"
    pq.write_table(pa.table({**columns, "item": columns["item"] + 1}), path)
    return path


def lists(sessions: Sessions) -> list[list[int]]:
    return [sessions.part(number, number + 1).rows.tolist() for number in range(len(sessions))]


def test_periods_hold_their_sessions_in_the_order_they_end(tmp_path: Path) -> None:
    read = periods(written(tmp_path))
    assert [lists(period) for period in read] == [[[2, 1], [0, 1, 2], [0, 2]], SECOND, THIRD]


def test_items_not_seen_in_training_leave_the_test_sessions_and_then_sessions_of_one_leave(tmp_path: Path) -> None:
    stream = periods(written(tmp_path))
    after_first = answerable(stream[1], np.array([True, True, True]))
    assert lists(after_first) == [[0, 1], [1, 2, 0]]  # 3, 4 and 5 are new; [4, 0] is left with one item
    assert len(after_first.prefixes(20)) == 3
    after_second = answerable(stream[2], np.ones(6, np.bool_))
    assert lists(after_second) == [[3, 4], [5, 3]]


def test_a_cycle_is_tested_on_every_prefix_of_what_is_left_and_the_mean_counts_cycles_equally(tmp_path: Path) -> None:
    recipe, schedule = Recipe(dim=8, share=1.0, bfloat16=False), Schedule(passes=2, warm_passes=1, batch=4)
    made = list(cycles(periods(written(tmp_path)), recipe, schedule))
    assert [cycle.number for cycle in made] == [0, 1]
    assert [len(cycle.ranks) for cycle in made] == [3, 2]
    assert all(0 <= rank < items for cycle, items in zip(made, (3, 6), strict=True) for rank in cycle.ranks)
    again = list(cycles(periods(written(tmp_path)), recipe, schedule))
    assert all((one.ranks == other.ranks).all() for one, other in zip(made, again, strict=True))


def test_recall_and_mrr_at_20_are_those_of_ranks() -> None:
    cycle = Cycle(0, np.array([0, 1, 19, 20]), 0.0)
    assert cycle.recall == 0.75
    assert cycle.mrr == pytest.approx((1 + 1 / 2 + 1 / 20) / 4)


def test_ranks_are_places_in_the_list_of_known_items_that_serving_would_give() -> None:
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(30, 5)).astype(np.float32)
    known = rng.random(30) < 0.8
    rows = np.flatnonzero(known)[rng.integers(0, known.sum(), 12)]
    sessions = Sessions.of(np.repeat(np.arange(3), 4), rows)
    scorer = Scorer(Encoder({0: 1.0}, head_weights=(3.0, 2.0)), embeddings, known)
    got = scorer.ranks(sessions.prefixes(2))
    best = scorer.best(sessions.prefixes(2), 5).tolist()
    want: list[int] = []
    outputs = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for session in lists(sessions):
        for end in range(1, 4):
            newest = embeddings[session[max(0, end - 2) : end][::-1]]
            scores = np.array([3.0, 2.0])[: len(newest)] @ newest @ outputs.T
            listed = top_k(np.where(known, scores, -np.inf)[None].astype(np.float32), 30)[0].tolist()
            assert listed[:5] == best[len(want)]
            want.append(listed.index(session[end]))
    assert got.tolist() == want


def test_a_folder_without_the_data_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NoBenchmark, match="diginetica_stream"):
        diginetica_stream(None, tmp_path)

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from led.encoder import I64
from training.benchmarks import cold_users, globo, ml20m
from training.benchmarks.case import NoBenchmark, data_folder, in_its_own_process
from training.benchmarks.comparison import Measures, Trial, compared
from training.benchmarks.ml1m import RATINGS, by_user, quarters, strong
from training.benchmarks.models import cluster_best, popular
from training.benchmarks.registry import BENCHMARKS
from training.benchmarks.strong import check, strong_split
from training.evaluate import Quality, Task
from training.interactions import without_times
from training.svd import Sparse

ANA, BOB, CAT = 30, 10, 20


def pairs(of: dict[int, list[int]]) -> tuple[I64, I64]:
    """Users and items of a file that lists each user's items in turn."""
    users = np.repeat(list(of), [len(items) for items in of.values()])
    return users.astype(np.int64), np.concatenate([np.array(items) for items in of.values()]).astype(np.int64)


def ids(matrix: Sparse, names: list[str]) -> list[list[int]]:
    return [sorted(int(names[column]) for column in matrix[[row]].indices) for row in range(matrix.shape[0])]


def test_a_split_of_users_is_what_the_published_program_gives() -> None:
    """Worked out by hand but for the generator: three users with five events, one of them held out for each task."""
    of = {BOB: [7, 3, 5, 1, 9], CAT: [3, 1, 7, 9, 5, 11], ANA: [1, 5, 3, 9, 7], 40: [3, 1]}
    parts = strong_split(*pairs(of), held_out=1, seed=5)
    order = np.array([BOB, CAT, ANA])[np.random.RandomState(5).permutation(3)]
    trained, validated, tested = (int(user) for user in order)
    assert parts.train.user_ids == [str(trained)]
    assert parts.train.item_ids == [str(item) for item in of[trained]]  # in order of first appearance
    known = set(of[trained])
    for task, user in ((parts.validation, validated), (parts.test, tested)):
        kept = [item for item in of[user] if item in known]
        drawn = np.random.RandomState(5).choice(len(kept), size=1, replace=False)[0]
        assert ids(task.relevant, parts.train.item_ids) == [[kept[drawn]]]
        assert ids(task.folded_in, parts.train.item_ids) == [sorted(set(kept) - {kept[drawn]})]
    counts = {"events": 16, "users": 3, "items": 6, "known items": len(known)}
    assert parts.counts == counts | {"validation targets": 1, "test targets": 1}


def test_held_out_users_are_seen_by_nobody_and_nothing_is_both_shown_and_asked_for() -> None:
    rng = np.random.default_rng(0)
    of = {int(user): rng.permutation(40)[: rng.integers(3, 30)].tolist() for user in rng.permutation(500)[:200]}
    parts = strong_split(*pairs(of), held_out=30)
    users = sum(len(items) >= 5 for items in of.values())
    assert parts.train.matrix.shape == (users - 60, parts.counts["known items"])
    assert parts.counts["events"] == sum(len(items) for items in of.values() if len(items) >= 5)
    for task in (parts.validation, parts.test):
        assert (task.folded_in * task.relevant).nnz == 0
        sizes = np.diff(task.folded_in.indptr) + np.diff(task.relevant.indptr)
        assert np.diff(task.relevant.indptr).tolist() == [int(0.2 * size) for size in sizes]
    with pytest.raises(NoBenchmark, match="users have 5 events or more: 400 are to be held out"):
        strong_split(*pairs(of), held_out=200)


def test_movielens_20m_is_refused_where_a_count_is_not_the_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    lines = [f"{user},{movie},{4.0 if movie % 2 else 3.5},0" for user in range(1, 61) for movie in rng.permutation(40)]
    (tmp_path / ml20m.RATINGS).write_text("\n".join(["userId,movieId,rating,timestamp", *lines]))
    users, movies = ml20m.liked(tmp_path / ml20m.RATINGS)
    assert len(users) == 60 * 20
    assert (movies % 2 == 1).all()
    monkeypatch.setattr(ml20m, "HELD_OUT", 10)
    with pytest.raises(NoBenchmark, match="split: events = 1,200 for 9,990,682, users = 60 for 136,677"):
        ml20m.published(tmp_path / ml20m.RATINGS)
    counts = {"events": 1200, "users": 60, "items": 20, "known items": 20, "validation targets": 40, "test targets": 40}
    monkeypatch.setattr(ml20m, "COUNTS", counts)
    with pytest.raises(NoBenchmark, match="the first items are "):
        ml20m.published(tmp_path / ml20m.RATINGS)
    monkeypatch.setattr(ml20m, "FIRST_ITEMS", [])
    on = ml20m.published(tmp_path / ml20m.RATINGS)
    assert on.measures == Measures("ndcg@100", ("recall@50", "ndcg@100"), truncated=True)
    assert (on.final.matrix.shape, on.tests["ml-20m"].folded_in.shape) == ((40, 20), (10, 20))


def test_another_file_than_the_ratings_is_told_by_its_columns(tmp_path: Path) -> None:
    (tmp_path / ml20m.RATINGS).write_text("user,movie\n1,2\n")
    with pytest.raises(NoBenchmark, match="has columns user, movie: userId, movieId, rating are needed"):
        ml20m.liked(tmp_path / ml20m.RATINGS)
    with pytest.raises(NoBenchmark, match="set LEDSTREAM_DATA"):
        ml20m.ml20m(None, tmp_path / "elsewhere")


def test_a_user_is_cut_in_half_and_two_quarters_whatever_is_left_over_going_to_the_test() -> None:
    users = np.repeat(np.arange(5), [4, 8, 9, 1, 2])
    half, quarter = quarters(users, np.random.default_rng(0))
    rest = ~half & ~quarter
    counts = [np.bincount(users[part], minlength=5).tolist() for part in (half, quarter, rest)]
    assert counts == [[2, 4, 4, 0, 1], [1, 2, 2, 0, 0], [1, 2, 3, 1, 1]]
    assert not (half & quarter).any()


def test_the_next_click_is_asked_for_with_all_before_it_by_age() -> None:
    hour = 3_600_000
    clicks = [  # time in hours, user, column; the last three lie in the hour that is asked about
        (0.0, 1, 0), (1.0, 1, 1), (1.0, 2, 0), (2.0, 1, 2), (2.5, 1, -1), (2.5, 1, 0), (2.5, 3, 1), (3.0, 2, 2),
    ]  # fmt: skip
    times, users, columns = (np.array(axis) for axis in zip(*clicks, strict=True))
    task, count = globo.asked((times * hour).astype(np.int64), users, columns, first=3, learned=3)
    assert count == 3  # ana's 2, her click on something new, bob's 2; not her second click on 0, nor a first click
    assert ids(task.relevant, ["0", "1", "2"]) == [[2], [2]]
    assert task.folded_in.toarray().tolist() == [[0.25, 0.5, 0], [0.25, 0, 0]]  # half for each hour


def test_clicks_that_nobody_could_name_count_as_missed() -> None:
    found = [Quality(0.5, 0.4, 0.1, 30, {"mrr@20": 0.2}), Quality(1.0, 0.8, 0.3, 10, {"mrr@20": 0.6})]
    both = globo.pooled(found, [60, 20])
    assert both.recall == pytest.approx((15 + 10) / 80)
    assert both.further == {"mrr@20": pytest.approx((6 + 6) / 80)}
    assert both.users == 80
    assert both.coverage == pytest.approx(0.2)


def test_an_hour_of_news_learns_from_the_day_before_and_asks_about_the_hour() -> None:
    times_ms = [hour * globo.HOUR_MS for hour in (0, 2, 25, 26, 26)]
    clicks = pa.table({"ts_ms": times_ms, "user": [1, 1, 1, 1, 2], "item": [5, 6, 7, 6, 7]})
    found = globo.hour(clicks, 26)
    assert found.train.item_ids == ["6", "7"]  # what was clicked 26 hours ago is forgotten
    assert (found.asked, found.task.folded_in.shape[0]) == (0, 0)  # 6 again, and a user's first click
    before = globo.hour(clicks, 25)
    assert before.train.item_ids == ["6"]
    assert (before.asked, before.task.folded_in.shape[0]) == (1, 0)  # 7 was never clicked until then


def liked_films(folder: Path) -> Path:
    """Forty users of fifteen to twenty films, oldest first, of which every fifth is not liked."""
    rng = np.random.default_rng(2)
    rows = [
        (user, int(item), 3 if place % 5 == 4 else 5)
        for user in range(1, 41)
        for place, item in enumerate(rng.permutation(30)[: 20 + user % 6])
    ]
    table = pa.table(dict(zip(("user", "item", "rating"), zip(*rows, strict=True), strict=True)))
    pq.write_table(table, folder / RATINGS)
    return folder / RATINGS


def test_cold_users_are_met_with_their_first_films_and_asked_for_the_same_newest_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_users, "ASKED", 10)
    on = cold_users.by_events(liked_films(tmp_path))
    assert set(on.tests) == {f"{kind}, {n} events" for kind in ("seen", "unseen") for n in (0, 1, 2, 5, 10)}
    assert on.train.matrix.shape[0] == 40 - 20
    for kind in ("seen", "unseen"):
        for n in (0, 1, 2, 5, 10):
            task = on.tests[f"{kind}, {n} events"]
            assert set(np.diff(task.folded_in.indptr).tolist()) == {n}
            wanted = on.tests[f"{kind}, 0 events"].relevant
            assert np.array_equal(task.relevant.toarray(), wanted.toarray())


def test_recipes_are_chosen_on_validation_and_measured_on_test_in_a_process_of_their_own() -> None:
    case = compared("popular", popular, tiny)
    (row,) = in_its_own_process(case)
    assert (row.benchmark, row.model, row.training.tried, row.training.settings) == ("tiny", "popular", 1, {})
    assert row.quality.further == {"mrr@1": 0.5}
    (row,) = in_its_own_process(compared("cluster best-of", cluster_best, tiny))
    assert row.training.tried == len(cluster_best())
    assert set(row.training.settings) == {"clusters", "dim"}
    assert row.training.peak_mb > 20


def tiny() -> Trial:
    """Item 0 is popular and half of the test users wanted it next."""
    train = without_times(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2]))
    nobody: Sparse = sp.csr_array(np.zeros((2, 3), np.float32))
    task = Task(nobody, sp.csr_array(np.array([[1, 0, 0], [0, 1, 0]], np.float32)))
    return Trial(train, task, train, {"tiny": task}, Measures("ndcg@20", ("mrr@1",)))


def test_a_count_that_differs_is_named_with_the_one_published() -> None:
    check({"users": 3, "items": 4}, {"users": 3})
    with pytest.raises(NoBenchmark, match="not the published split: items = 4 for 5,000"):
        check({"users": 3, "items": 4}, {"users": 3, "items": 5000})


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_benchmark_says_what_it_misses(name: str, tmp_path: Path) -> None:
    with pytest.raises(NoBenchmark, match="set LEDSTREAM_DATA"):
        BENCHMARKS[name](None, tmp_path)


def test_movielens_1m_is_split_as_its_counts_say() -> None:
    path = data_folder(os.environ) / RATINGS
    if not path.exists():
        pytest.skip(f"{path} is not there: set LEDSTREAM_DATA to the folder that holds it")
    on = strong(path)
    assert on.train.matrix.shape == (4034, 3468)
    assert on.tests["ml-1m-strong"].relevant.nnz == 18_555
    ciess = by_user(path)
    assert ciess.train.matrix.shape == (6040, 3706)
    assert ciess.final.matrix.nnz + ciess.tests["ml-1m"].relevant.nnz == 1_000_209

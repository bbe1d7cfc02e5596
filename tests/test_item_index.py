"""The index: what it proposes against exact search, on items that make it hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from led.encoder import F32
from led.ranking import top_k, with_bias, with_one
from store.item_index import (
    CANDIDATES,
    DEEP,
    EXACT_UP_TO,
    MIN_RECALL,
    ROOM,
    ClusteredIndex,
    ItemIndex,
    Judge,
    LowRecall,
    build,
    load,
)

DIM = 16
RNG = np.random.default_rng(5)


def clustered(how_many: int) -> tuple[F32, F32]:
    """Items around a few tastes, a thousand times between the shortest and the longest, with biases; and users."""
    tastes = RNG.standard_normal((30, DIM))
    near = tastes[RNG.integers(30, size=how_many)] + 0.4 * RNG.standard_normal((how_many, DIM))
    lengths = 10 ** RNG.uniform(-1.5, 1.5, how_many)
    biases = RNG.standard_normal(how_many).astype(np.float32)
    users = tastes[RNG.integers(30, size=300)] + 0.4 * RNG.standard_normal((300, DIM))
    return with_bias((near * lengths[:, None]).astype(np.float32), biases), with_one(users.astype(np.float32))


@pytest.fixture(scope="module")
def large() -> tuple[F32, F32]:
    return clustered(8_000)


def recall(index: ItemIndex, users: F32, items: F32) -> float:
    """Share of the true best 20 that the index finds."""
    best = top_k(users @ items.T, 20)
    found = index.search(users, 20)
    return float(np.mean([np.isin(true, some).mean() for true, some in zip(best, found, strict=True)]))


def again(index: ItemIndex, report: dict[str, object], folder: Path) -> ItemIndex:
    index.save(folder / "index.faiss")
    return load(folder / "index.faiss", report)


def test_a_few_items_are_searched_exactly(tmp_path: Path) -> None:
    items, users = clustered(500)
    index, report = build(items, users)
    assert report["kind"] == "exact"
    wanted = top_k(users @ items.T, 20)
    np.testing.assert_array_equal(index.search(users, 20), wanted)
    np.testing.assert_array_equal(again(index, report, tmp_path).search(users, 20), wanted)


def test_recall_is_what_the_report_says_on_items_of_very_uneven_length(large: tuple[F32, F32], tmp_path: Path) -> None:
    items, users = large
    index, report = build(items, users)
    assert len(items) > EXACT_UP_TO
    assert recall(index, users, items) >= MIN_RECALL
    assert recall(index, users, items) == pytest.approx(report["recall20"], abs=0.002)
    assert recall(again(index, report, tmp_path), users, items) == pytest.approx(report["recall20"], abs=0.002)
    strangers = with_one(RNG.standard_normal((300, DIM)).astype(np.float32))
    assert recall(index, strangers, items) > 0.5, "users it was not tested on"


@pytest.mark.parametrize("how_many", [500, 8_000])
def test_scores_are_exact_and_go_down(how_many: int, tmp_path: Path) -> None:
    items, users = clustered(how_many)
    index, report = build(items, users)
    for one in (index, again(index, report, tmp_path)):
        scores, rows = one.scored(users, 30)
        assert scores.dtype == np.float32
        assert (rows >= 0).all()
        np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", users, items[rows]), rtol=1e-4, atol=1e-4)
        assert (np.diff(scores) <= 0).all()
        np.testing.assert_array_equal(one.search(users, 30), rows)


def test_more_recall_is_bought_with_a_wider_search(large: tuple[F32, F32]) -> None:
    items, users = large
    index, wanted = ClusteredIndex.over(items, 300, "direction"), (0.5, 0.95, 0.999)
    found = [Judge(items, users, least).narrowest(index) for least in wanted]
    assert found[0].probes < found[1].probes < found[2].probes
    assert all(recall(one, users, items) >= least for one, least in zip(found, wanted, strict=True))


def test_the_cheapest_clustering_is_taken_and_the_others_are_named(large: tuple[F32, F32]) -> None:
    _, report = build(*large)
    assert len(report["tried_us"]) == len(CANDIDATES)
    assert report["us_per_query"] == min(report["tried_us"].values())


@pytest.mark.parametrize("by", ["direction", "distance"])
def test_an_index_that_reads_every_cluster_is_exact(large: tuple[F32, F32], by: str) -> None:
    items, users = large
    index = ClusteredIndex.over(items, 150, by)
    assert recall(index.reading(150), users, items) == 1.0
    assert recall(index.reading(1), users, items) < 1.0


def test_places_beyond_the_twentieth_are_filled_well_too(large: tuple[F32, F32]) -> None:
    items, users = large
    index, report = build(items, users)
    assert report["recall100"] >= DEEP * MIN_RECALL
    assert (index.search(users, ROOM) >= 0).all(axis=1).mean() >= 0.99


def test_a_recall_nobody_can_reach_is_refused_with_what_was_tried(large: tuple[F32, F32]) -> None:
    with pytest.raises(LowRecall, match=r"recall@20 1\.5"):
        build(*large, min_recall=1.5)


def test_items_that_are_all_alike_still_make_an_index() -> None:
    alike = np.ones((EXACT_UP_TO + 1, DIM + 1), np.float32)
    index, _ = build(alike, alike[:50])
    found = index.search(alike[:1], 20)
    assert len(set(found[0].tolist()) - {-1}) == 20


def test_fewer_items_than_asked_for_are_filled_with_minus_one() -> None:
    items, users = clustered(3)
    index, _ = build(items, users)
    scores, found = index.scored(users, 5)
    assert (found[:, 3:] == -1).all()
    assert (scores[:, 3:] == -np.inf).all()
    assert (np.sort(found[:, :3]) == [0, 1, 2]).all()

"""The recommender on a real store: personal where it can be, popular where it must be, exact and never mixed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pytest

from led.ranking import with_one
from serving.answering import Answering
from serving.answers import Answer, Recommender
from serving.live import Live
from serving.questions import Question, from_timeline
from serving.ranking import NO_KEY, best
from serving.recent import RecentItems
from serving.served import Served
from store.connection import Client, connect
from store.embedded import EmbeddedStore
from store.releases import Releases
from store.user_state import UserStates
from stream.events import Border, item_key
from stream.stages import Stages
from tests.records import lengths, put
from tests.worlds import KINDS, NOW_MS, expected_scores, item_ids, records, releases, row_of, two_tastes, viewed

HATS = item_ids()[:30]


def states_of(client: Client, namespace: str) -> UserStates:
    return UserStates(client, namespace, lengths)


class Told(NamedTuple):
    """An answer as it is read on the other side of the wire."""

    user: str | None
    item_ids: list[str]
    scores: list[float]
    release: str | None
    as_of: int | None
    source: str
    degraded: bool

    @classmethod
    def of(cls, answer: Answer) -> Told:
        fields = orjson.loads(answer.to_json())
        items = fields.pop("items")
        return cls(item_ids=[one["item_id"] for one in items], scores=[one["score"] for one in items], **fields)


class World:
    """Two releases of the same items, a store, and the answering of questions from the first."""

    def __init__(self, states: UserStates, folder: Path, *, pause_s: float = 1.0) -> None:
        self.states, self.releases = states, releases(folder)
        self.first = self._served(self.releases, seed=0)
        self.second = self._served(self.releases, seed=1)
        self.current: Served | None = self.first
        self.recent = RecentItems()
        recommender = Recommender(lambda: Live(self.current), self.recent)
        self.answering = Answering(recommender, states.keys, states.lookups(pause_s=pause_s))
        self.runner = asyncio.Runner()
        self.runner.run(self.answering.start())

    def _served(self, folder: Releases, seed: int) -> Served:
        return Served(folder.load(folder.publish(two_tastes(seed), now_ms=NOW_MS + seed)))

    def ask(self, question: Question) -> Told:
        return self.ask_together([question])[0]

    def ask_together(self, questions: Sequence[Question]) -> list[Told]:
        return list(map(Told.of, self.runner.run(self.answering.ask(questions))))

    def close(self) -> None:
        self.runner.run(self.answering.stop())
        self.runner.close()


@pytest.fixture
def world(redis_client: Client, namespace: str, tmp_path: Path) -> Iterator[World]:
    with closing(World(states_of(redis_client, namespace), tmp_path)) as world:
        yield world


def test_who_looked_at_hats_gets_the_other_hats_with_exact_scores(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "hat-01", "hat-02")}, world.first.release))
    answer = world.ask(Question("ana", k=10))
    assert answer.source == "personal"
    assert all(item.startswith("hat") for item in answer.item_ids)
    assert not {"hat-01", "hat-02"} & set(answer.item_ids)
    assert answer.as_of == NOW_MS
    assert list(answer.scores) == sorted(answer.scores, reverse=True)
    np.testing.assert_allclose(
        answer.scores, expected_scores(world.first.release, ["hat-01", "hat-02"], answer.item_ids), rtol=1e-5
    )


def test_the_items_are_those_of_scoring_everything(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "belt-07")}, world.first.release))
    scores = expected_scores(world.first.release, ["belt-07"], item_ids())
    right = [item for _, item in sorted(zip(scores, item_ids(), strict=True), reverse=True) if item != "belt-07"]
    assert list(world.ask(Question("ana", k=15)).item_ids) == right[:15]


def test_a_record_of_another_release_is_encoded_again(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "hat-01", "hat-02")}, world.second.release))
    answer = world.ask(Question("ana"))
    assert answer.release == world.first.version
    np.testing.assert_allclose(
        answer.scores, expected_scores(world.first.release, ["hat-01", "hat-02"], answer.item_ids), rtol=1e-5
    )


def test_a_record_without_any_release_is_encoded_from_its_timeline(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "hat-03")}, None))
    assert world.ask(Question("ana")).source == "personal"


@pytest.mark.parametrize("user", ["nobody", "stranger", "broken"])
def test_who_cannot_be_answered_personally_gets_popular_items(world: World, user: str, redis_client: Client) -> None:
    put(world.states, records({"stranger": viewed("stranger", "umbrella")}, world.first.release))
    redis_client.set(world.states.key("broken"), b"L1 this is no record")
    answer = world.ask(Question(user, k=5))
    best = np.argsort(-np.asarray(world.first.release.popularity))[:5]
    assert list(answer.item_ids) == [world.first.release.item_id(int(row)) for row in best]
    assert (answer.source, answer.degraded, answer.release) == ("popular", False, world.first.version)


def test_excluded_and_seen_items_stay_out_and_the_answer_is_still_full(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", *HATS[:10])}, world.first.release))
    answer = world.ask(Question("ana", k=20, exclude=("hat-10", "hat-11", "belt-00")))
    assert len(answer.item_ids) == 20
    assert not {*HATS[:12], "belt-00"} & set(answer.item_ids)
    unknown = world.ask(Question("nobody", k=57, exclude=("hat-10", "hat-11", "umbrella")))
    assert len(unknown.item_ids) == 57
    assert not {"hat-10", "hat-11"} & set(unknown.item_ids)


def test_seen_items_come_back_on_request(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", *HATS)}, world.first.release))
    assert not set(HATS) & set(world.ask(Question("ana")).item_ids)
    assert set(HATS) & set(world.ask(Question("ana", seen=True)).item_ids)


def test_more_items_than_there_are_is_all_there_are(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "hat-01")}, world.first.release))
    assert sorted(world.ask(Question("ana", k=200)).item_ids) == sorted(set(item_ids()) - {"hat-01"})


def test_a_batch_answers_each_as_if_it_were_alone(world: World) -> None:
    users = {
        "ana": viewed("ana", "hat-01"),
        "bob": viewed("bob", "belt-01", "belt-02", "belt-01"),
        "eve": viewed("eve", "umbrella"),
        "kim": viewed("kim", *item_ids()[:45]),
    }
    put(world.states, records(users, world.second.release))
    asked = [
        Question("ana", k=3),
        Question("nobody", k=60),
        Question("bob", k=200, exclude=tuple(item_ids()[:50])),
        Question("eve", exclude=("hat-05",)),
        Question("kim", k=20),
        Question("ana", k=1, seen=True),
        Question(None, from_timeline({"timeline": [{"item_id": "hat-09", "kind": "sale"}]}, Border(KINDS), 1).record),
    ]
    together = world.ask_together(asked)
    for question, answer in zip(asked, together, strict=True):
        alone = world.ask(question)
        assert answer.item_ids == alone.item_ids
        np.testing.assert_allclose(answer.scores, alone.scores, rtol=1e-6)
        assert answer[3:] == alone[3:]


def test_an_index_that_proposes_too_little_is_filled_up_from_the_popular_items_with_exact_scores(world: World) -> None:
    release = world.first.release
    hat = row_of(release, "hat-01")
    hidden = {NO_KEY, item_key("hat-01")}
    vectors = np.asarray(release.input_embeddings[[hat]])
    ((rows, scores),) = best(world.first, with_one(vectors), [20], [hidden], Stages(), max_fetch=5)
    items = [release.item_id(row) for row in rows]
    assert len(set(items)) == 20
    assert "hat-01" not in items
    assert list(scores) == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, expected_scores(release, ["hat-01"], items), rtol=1e-4, atol=1e-6)


def test_without_any_release_the_answer_is_what_was_posted_lately(world: World) -> None:
    world.current = None
    assert world.ask(Question("ana")).item_ids == []
    world.recent.add(["cap", "hat", "cap", "belt", "cap", "hat"])
    answer = world.ask(Question("ana", k=2))
    assert (list(answer.item_ids), list(answer.scores)) == (["cap", "hat"], [3.0, 2.0])
    assert (answer.source, answer.release) == ("popular", None)
    put(world.states, records({"ana": viewed("ana", "cap")}, None))
    assert list(world.ask(Question("ana", exclude=("hat",))).item_ids) == ["belt"]


def test_recent_items_are_only_the_newest() -> None:
    recent = RecentItems(kept=3)
    recent.add(["old", "old", "a", "b", "b"])
    assert recent.ranking() == [("b", 2), ("a", 1)]


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path / "own") as store:
        yield store


@pytest.fixture
def on_its_own(own_store: EmbeddedStore, tmp_path: Path, namespace: str) -> Iterator[World]:
    """A world whose store nobody else has, with ana in it."""
    with (
        connect(own_store.address, timeout_s=0.25) as client,
        closing(World(states_of(client, namespace), tmp_path, pause_s=0.2)) as world,
    ):
        put(world.states, records({"ana": viewed("ana", "hat-01")}, world.first.release))
        yield world


def test_a_killed_store_costs_personal_answers_but_no_time_and_comes_back(
    own_store: EmbeddedStore, on_its_own: World
) -> None:
    world = on_its_own
    assert world.ask(Question("ana")).source == "personal"
    assert own_store.pid is not None
    os.kill(own_store.pid, signal.SIGKILL)
    own_store.stop()
    for _ in range(50):
        begun = time.monotonic()
        answer = world.ask(Question("ana"))
        assert (answer.source, answer.degraded, len(answer.item_ids)) == ("popular", True, 20)
        assert time.monotonic() - begun < 0.5
    own_timeline = from_timeline({"timeline": [{"item_id": "hat-09", "kind": "sale"}]}, Border(KINDS), 1)
    assert (world.ask(own_timeline).source, world.ask(own_timeline).degraded) == ("personal", False)
    own_store.start()
    assert until_personal(world)


def test_a_store_that_hangs_costs_one_wait_and_is_found_again(own_store: EmbeddedStore, on_its_own: World) -> None:
    world = on_its_own
    assert own_store.pid is not None
    os.kill(own_store.pid, signal.SIGSTOP)
    begun = time.monotonic()
    answers = world.ask_together([Question("ana")] * 50)
    assert {(answer.source, answer.degraded) for answer in answers} == {("popular", True)}
    assert 0.2 < time.monotonic() - begun < 1.0
    begun = time.monotonic()
    assert world.ask(Question("ana")).degraded
    assert time.monotonic() - begun < 0.2
    os.kill(own_store.pid, signal.SIGCONT)
    assert until_personal(world)


def until_personal(world: World) -> bool:
    """Whether ana gets a personal answer within a few seconds."""
    deadline = time.monotonic() + 5
    while world.ask(Question("ana")).degraded and time.monotonic() < deadline:
        world.runner.run(asyncio.sleep(0.05))
    return world.ask(Question("ana")).source == "personal"

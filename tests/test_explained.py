"""Reasons add up to the score, whatever the encoder and the timeline; striking one of them through the log and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from led.encoder import Encoder, Events, encode
from led.explained import inputs_of, shares, terms
from serving.questions import Question, from_query, from_timeline
from serving.refusals import Refused
from store.connection import Client
from stream.events import Border
from tests.records import put
from tests.test_answers import World, states_of
from tests.worlds import KINDS, NOW_MS, expected_scores, records, viewed

ITEMS, DIM = 12, 5


@st.composite
def timelines(draw: st.DrawFn) -> Events:
    n = draw(st.integers(0, 40))
    rows = draw(st.lists(st.integers(-1, ITEMS - 1), min_size=n, max_size=n))
    kinds = draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    times_ms = draw(st.lists(st.integers(0, 10**9), min_size=n, max_size=n))
    return Events(
        np.zeros(n, np.int64), np.array(rows, np.int64), np.array(kinds, np.uint8), np.array(times_ms, np.int64)
    )


encoders = st.builds(
    Encoder,
    st.dictionaries(st.integers(0, 3), st.sampled_from([0.0, 1e-3, 1.0, 2.5, 1e3])),
    st.sampled_from([None, 60.0, 86_400.0]),
    st.lists(st.floats(0.1, 20), max_size=4).map(tuple),
)


@given(encoder=encoders, timeline=timelines(), seed=st.integers(0, 9))
@settings(max_examples=200, deadline=None)
def test_bias_and_contributions_are_the_score(encoder: Encoder, timeline: Events, seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs, outputs = (rng.standard_normal((ITEMS, DIM)).astype(np.float32) for _ in range(2))
    vector = encode(encoder, inputs, 1, timeline).vectors()[0]
    parts = shares(encoder, timeline)
    added = terms(parts, inputs_of(inputs, timeline), outputs)
    np.testing.assert_allclose(added.sum(axis=1), outputs @ vector, rtol=1e-5, atol=1e-5)
    assert parts.sum() == pytest.approx(1.0) or not parts.any()
    assert not added[:, timeline.rows < 0].any()
    assert not added[:, encoder.kind_weight(timeline.kinds) == 0].any()


@pytest.fixture
def world(redis_client: Client, namespace: str, tmp_path: Path) -> Iterator[World]:
    with closing(World(states_of(redis_client, namespace), tmp_path)) as world:
        yield world


def asked(world: World, question: Question) -> list[dict[str, Any]]:
    (answer,) = world.runner.run(world.answering.ask([question]))
    items: list[dict[str, Any]] = orjson.loads(answer.to_json())["items"]
    return items


def check_sums(items: list[dict[str, Any]]) -> None:
    for item in items:
        reasons: dict[str, Any] = item["reasons"]
        total = reasons["bias"] + sum(event["contribution"] for event in reasons["events"])
        assert abs(total - item["score"]) <= 1e-9


def test_every_item_of_an_explained_answer_carries_its_exact_reasons(world: World) -> None:
    seen = ["hat-01", "belt-02", "umbrella", "hat-03"]
    put(world.states, records({"ana": viewed("ana", *seen)}, world.first.release))
    plain, explained = asked(world, Question("ana", k=8)), asked(world, Question("ana", k=8, explain=True))
    check_sums(explained)
    assert [item["item_id"] for item in explained] == [item["item_id"] for item in plain]
    scores = [item["score"] for item in explained]
    names = [str(item["item_id"]) for item in explained]
    np.testing.assert_allclose(scores, expected_scores(world.first.release, seen, names), atol=1e-6)
    np.testing.assert_allclose(scores, [item["score"] for item in plain], rtol=1e-3)
    events = explained[0]["reasons"]["events"]
    assert [event["item_id"] for event in events] == ["hat-03", None, "belt-02", "hat-01"]
    assert (events[1]["contribution"], events[3]["time_ms"]) == (0.0, NOW_MS - 3000)


def test_a_record_of_another_release_is_explained_under_the_one_that_answers(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "hat-01", "hat-02")}, world.second.release))
    items = asked(world, Question("ana", k=5, explain=True))
    check_sums(items)
    names = [str(item["item_id"]) for item in items]
    wanted = expected_scores(world.first.release, ["hat-01", "hat-02"], names)
    np.testing.assert_allclose([item["score"] for item in items], wanted, atol=1e-6)


def test_a_timeline_in_the_request_is_explained_and_popular_items_have_no_reasons(world: World) -> None:
    body = {"timeline": [{"item_id": "hat-09", "kind": "sale"}], "explain": True, "k": 3}
    check_sums(asked(world, from_timeline(body, Border(KINDS), NOW_MS)))
    assert all("reasons" not in item for item in asked(world, Question("nobody", explain=True)))


def test_who_asks_along_is_answered_as_if_alone(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "hat-01"), "bob": viewed("bob", "belt-01")}, world.first.release))
    questions = [Question("bob", k=4), Question("ana", k=4, explain=True), Question("nobody", k=4, explain=True)]
    together = world.runner.run(world.answering.ask(questions))
    for question, answer in zip(questions, together, strict=True):
        alone = asked(world, question)
        assert [item["item_id"] for item in orjson.loads(answer.to_json())["items"]] == [i["item_id"] for i in alone]
    assert (together[0].reasons, together[2].reasons) == ((), ())


def test_reasons_are_for_who_may_see_what_a_user_did_and_for_few_items() -> None:
    assert from_query(b"user=ana&explain=true", explains=True).explain
    with pytest.raises(Refused, match="explain") as refused:
        from_query(b"user=ana&explain=true")
    assert refused.value.status == 403
    with pytest.raises(Refused, match="at most 50"):
        from_query(b"user=ana&k=51&explain=true", explains=True)

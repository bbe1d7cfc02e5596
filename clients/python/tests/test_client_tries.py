"""What the clients do while a server misbehaves: each story for the client that blocks and for the one that awaits."""

from __future__ import annotations

import time
from typing import Any

import pytest
from conftest import QUICK, Ask
from troubled_server import Troubled, after, breaks_off, drips, ends, judges, says

from ledstream_client import (
    Client,
    Event,
    NotAllowed,
    NotFound,
    Patience,
    Refused,
    Unavailable,
    UnexpectedAnswer,
    Unfinished,
)
from ledstream_client.patience import Reply

POPULAR: dict[str, Any] = {
    "user": "ana",
    "items": [],
    "release": None,
    "as_of": None,
    "source": "popular",
    "degraded": False,
}
HAT = Event("ana", "hat-01", "view")


def error(field: str = "user", value: str | None = "ana", reason: str = "no") -> dict[str, Any]:
    return {"error": {"field": field, "value": value, "reason": reason}}


@pytest.mark.parametrize("trouble", [ends, breaks_off, says(503, error()), says(429, error()), says(502, b"<html>")])
def test_what_passes_is_tried_again_and_an_event_keeps_its_id(world: Troubled, ask: Ask, trouble: Any) -> None:
    world.will(trouble, trouble, judges("accepted", token="t1"))
    tracked = ask("track", HAT)
    assert (tracked.accepted, tracked.tokens) == (1, {"ana": "t1"})
    assert world.posted() == [[HAT.event_id]] * 3


def test_nobody_listening_is_no_answer_and_says_how_often_it_was_tried() -> None:
    nobody = Client("http://127.0.0.1:9", patience=Patience(0.3, 0.2, 0.02, 0.05))
    with nobody, pytest.raises(Unavailable, match="ConnectError") as caught:
        nobody.recommend("ana")
    assert caught.value.tries >= 2


def test_a_server_that_says_when_to_come_back_is_not_asked_before(world: Troubled, ask: Ask) -> None:
    world.will(says(503, error(), retry_after="1"), says(200, POPULAR))
    assert ask("recommend", "ana").source == "popular"
    first, second = world.seen
    assert second["at_s"] - first["at_s"] >= 1.0


def test_a_server_that_wants_more_time_than_there_is_is_not_asked_again(world: Troubled, ask: Ask) -> None:
    world.will(says(429, error("key", "shop", "over 5 events a second"), retry_after="60"))
    with pytest.raises(Unfinished, match="over 5 events a second") as caught:
        ask("track", HAT)
    assert (caught.value.retry_after_s, len(world.seen)) == (60.0, 1)
    assert caught.value.taken.failed == [HAT]


def test_a_try_that_takes_too_long_is_given_up_for_the_next_one(world: Troubled, ask: Ask) -> None:
    world.will(after(3.0, says(200, POPULAR)), says(200, POPULAR))
    assert ask("recommend", "ana", patience=Patience(20.0, 0.3, 0.02)).source == "popular"
    assert len(world.seen) >= 2


@pytest.mark.parametrize("trouble", [drips, after(8.0, says(200, POPULAR))])
def test_all_tries_together_end_in_time(world: Troubled, ask: Ask, trouble: Any) -> None:
    world.will(trouble)
    since_s = time.monotonic()
    with pytest.raises(Unavailable):
        ask("recommend", "ana", patience=Patience(0.6, 0.4, 0.02))
    assert 0.3 < time.monotonic() - since_s < 6.0


def test_what_is_refused_is_asked_once_and_names_field_and_value(world: Troubled, ask: Ask) -> None:
    world.will(says(400, error("k", "0", "must be a whole number from 1 to 200")))
    with pytest.raises(Refused, match="k = 0: must be") as caught:
        ask("recommend", "ana", k=0)
    assert (caught.value.field, caught.value.value, caught.value.status, len(world.seen)) == ("k", "0", 400, 1)


@pytest.mark.parametrize(
    ("deed", "kind"),
    [
        (says(401, error("key")), NotAllowed),
        (says(403, error("key")), NotAllowed),
        (says(404, error("user_id")), NotFound),
        (says(404, b"<html>nothing here"), NotFound),
        (says(302, b""), UnexpectedAnswer),
        (says(200, b"<html>welcome"), UnexpectedAnswer),
        (says(200, b"[" * 100_000), UnexpectedAnswer),
        (says(400, b"[" * 100_000), Refused),
        (says(200, {"user": "ana"}), UnexpectedAnswer),
        (says(200, {**POPULAR, "items": [{"item_id": 7, "score": 1}]}), UnexpectedAnswer),
    ],
)
def test_each_kind_of_answer_that_is_none_has_its_error(world: Troubled, ask: Ask, deed: Any, kind: Any) -> None:
    world.will(deed)
    with pytest.raises(kind):
        ask("recommend", "ana")
    assert len(world.seen) == 1


def test_an_answer_that_is_none_says_where(world: Troubled, ask: Ask) -> None:
    world.will(says(200, {**POPULAR, "items": [{"item_id": "hat", "score": 1}, {"item_id": 7, "score": 1}]}))
    with pytest.raises(UnexpectedAnswer, match=r"^answer.items.1.item_id = 7: should be of type str$"):
        ask("recommend", "ana")
    world.will(says(200, {**POPULAR, "items": [{"item_id": "hat"}]}))
    with pytest.raises(UnexpectedAnswer, match=r"^answer.items.0.score is missing$"):
        ask("recommend", "ana")


def test_what_newer_servers_say_more_is_let_be(world: Troubled, ask: Ask) -> None:
    item = {"item_id": "hat-01", "score": 2, "colour": "red"}
    world.will(says(200, {**POPULAR, "items": [item], "mood": "good", "after": {"in": True, "waited_ms": 3}}))
    answer = ask("recommend", "ana", after="t1", wait_ms=50)
    assert (answer.items[0].item_id, answer.items[0].score, answer.after.is_in) == ("hat-01", 2.0, True)
    assert world.seen[0]["path"] == "/v1/recommendations?user=ana&wait_ms=50&after=t1"


def test_a_server_that_is_not_ready_is_an_answer_and_no_trouble(world: Troubled, ask: Ask) -> None:
    state = {"ready": False, "degraded": True, "store": "away", "log": "ok", "release": None, "announced": None}
    world.will(says(503, {**state, "consumers": {"timelines": {"state": "waiting", "for": "the store"}}}))
    health = ask("health")
    assert (health.ready, health.consumers["timelines"].waits_for, len(world.seen)) == (False, "the store", 1)


def test_keys_go_where_they_are_needed_and_nowhere_else(world: Troubled, ask: Ask) -> None:
    world.will(judges("accepted"), says(404, error()), says(200, POPULAR))
    ask("track", HAT)
    with pytest.raises(NotFound):
        ask("user", "an/a ?")
    ask("recommend", "ana")
    assert [one["headers"].get("x-ledstream-key") for one in world.seen] == ["write-key", "admin-key", None]
    assert world.seen[1]["path"] == "/v1/users/an%2Fa%20%3F"


def test_pauses_double_are_drawn_anew_and_come_on_top_of_what_the_server_asks() -> None:
    longest = Patience(first_pause_s=0.1, longest_pause_s=1.0, draw=lambda: 1.0)
    assert [longest.pause_s(tries) for tries in (1, 2, 3, 4, 5, 5000)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert longest.pause_s(1, 2.0) == 2.1
    drawn = {QUICK.pause_s(3) for _ in range(20)}
    assert len(drawn) > 1
    assert all(0 <= pause <= 0.05 for pause in drawn)


@pytest.mark.parametrize(
    ("header", "after_s"),
    [("7", 7.0), ("Sun, 06 Nov 1994 08:49:37 GMT", 10.0), ("Sun, 06 Nov 1994 08:49:07 GMT", 0.0), ("soon", 0), ("", 0)],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(header: str, after_s: float) -> None:
    assert Reply(503, {"retry-after": header}, b"").retry_after_s(784111767.0) == after_s


@pytest.mark.parametrize("endpoint", ["rec.example.org", "ftp://rec.example.org", "http://", "http://x/?key=1"])
def test_an_endpoint_that_is_no_address_is_refused_at_once(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint = "):
        Client(endpoint)
    with pytest.raises(ValueError, match="within_s = 0"):
        Patience(within_s=0)

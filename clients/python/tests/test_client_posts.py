"""How events become posts, and what is told of each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Ask
from troubled_server import Handler, Troubled, judges, says

from ledstream_client import CatalogueItem, Event, NotAllowed, Refused, UnexpectedAnswer, Unfinished
from ledstream_client.handing import BYTES_AT_ONCE


def events(number: int, **more: Any) -> list[Event]:
    return [Event("ana", f"hat-{place}", "view", event_id=str(place), **more) for place in range(number)]


def test_many_events_go_in_posts_of_a_thousand_in_order(world: Troubled, ask: Ask) -> None:
    tracked = ask("track_many", iter(events(2500)))
    assert [len(post) for post in world.posted()] == [1000, 1000, 500]
    assert [int(one) for post in world.posted() for one in post] == list(range(2500))
    assert (tracked.accepted, tracked.rejected, tracked.failed) == (2500, [], [])
    assert len({seen.json()["sent_at"] for seen in world.seen}) > 1, "the clock is told anew with each post"


def test_posts_of_long_events_are_bounded_in_bytes(world: Troubled, ask: Ask) -> None:
    ask("track_many", events(900, context={"page": "é" * 400}))
    assert [len(seen["body"]) <= BYTES_AT_ONCE + 100 for seen in world.seen] == [True] * 3
    assert sum(map(len, world.posted())) == 900


def test_a_post_that_somebody_finds_too_large_goes_in_halves(world: Troubled, ask: Ask) -> None:
    def narrow(handler: Handler) -> None:
        is_small = len(handler.world.posted()[-1]) <= 3
        (judges("accepted") if is_small else says(413, b"<html>too large"))(handler)

    world.will(narrow)
    assert ask("track_many", events(10)).accepted == 10
    taken = [post for post in world.posted() if len(post) <= 3]
    assert [int(one) for post in taken for one in post] == list(range(10))


def test_no_events_are_no_post(world: Troubled, ask: Ask) -> None:
    assert ask("track_many", []).verdicts == []
    assert not world.seen


def test_only_what_failed_is_sent_again_and_each_event_has_its_verdict(world: Troubled, ask: Ask) -> None:
    world.will(judges("accepted", "failed", "rejected", "failed"), judges("failed", "accepted"), judges("accepted"))
    tracked = ask("track_many", events(4))
    assert world.posted() == [["0", "1", "2", "3"], ["1", "3"], ["1"]]
    assert [verdict.status for verdict in tracked.verdicts] == ["accepted", "accepted", "rejected", "accepted"]
    (verdict,) = tracked.rejected
    assert (verdict.about.event_id, verdict.field, verdict.value) == ("2", "kind", "wink")


def test_one_event_that_is_refused_is_an_error_with_field_and_value(world: Troubled, ask: Ask) -> None:
    world.will(judges("rejected"))
    with pytest.raises(Refused, match="kind = wink: unknown"):
        ask("track", Event("ana", "hat-01", "wink"))
    assert len(world.seen) == 1


def test_when_the_server_goes_away_nothing_is_lost_sight_of(world: Troubled, ask: Ask) -> None:
    """Events that come from an iterator are there no more: those that were not sent are handed back."""

    def once() -> Iterator[Event]:
        yield from events(3200)

    world.will(judges("accepted", token="t1"), judges("rejected", "accepted"), says(503, b"", retry_after="60"))
    with pytest.raises(Unfinished, match="1200 of 3200 were not taken") as caught:
        ask("track_many", once())
    tracked = caught.value.taken
    assert (tracked.accepted, len(tracked.rejected), tracked.tokens) == (1999, 1, {"ana": "t1"})
    assert [event.event_id for event in tracked.failed] == [str(place) for place in range(2000, 3200)]
    world.will(judges("accepted"))
    assert ask("track_many", tracked.failed).accepted == 1200


def test_a_wrong_key_is_told_as_such_also_when_it_becomes_one_on_the_way(world: Troubled, ask: Ask) -> None:
    no = says(401, {"error": {"field": "key", "value": "writ…", "reason": "no write key of this server"}})
    world.will(no)
    with pytest.raises(NotAllowed):
        ask("track_many", events(2000))
    world.will(judges("accepted"), no)
    with pytest.raises(Unfinished, match="no write key") as caught:
        ask("track_many", events(2000))
    assert len(caught.value.taken.failed) == 1000


@pytest.mark.parametrize("verdict", [7, {}, {"status": "wobbly"}, {"status": ["accepted"]}])
def test_verdicts_in_other_words_are_no_answer_and_what_came_before_stands(
    world: Troubled, ask: Ask, verdict: object
) -> None:
    strange = says(202, {"verdicts": [verdict] * 1000})
    world.will(strange)
    with pytest.raises(UnexpectedAnswer, match="verdict = "):
        ask("track_many", events(1000))
    world.will(judges("accepted"), strange)
    with pytest.raises(Unfinished, match="1000 of 2000 were not taken: verdict = ") as caught:
        ask("track_many", events(2000))
    assert [event.event_id for event in caught.value.taken.failed] == [str(place) for place in range(1000, 2000)]


def test_items_are_put_as_events_are_posted(world: Troubled, ask: Ask) -> None:
    def judged(handler: Handler) -> None:
        (first, *_) = handler.world.seen[-1].json()["items"]
        assert first == {"item_id": "hat-0", "title": "Hat", "price": 9.5, "stock": 3, "colour": "red"}
        says(202, {"verdicts": [{"status": "accepted"}, {"status": "rejected", "field": "url"}]})(handler)

    world.will(judged)
    hat = CatalogueItem("hat-0", title="Hat", price=9.5, stock=3, more={"colour": "red"})
    put = ask("put_items", [hat, CatalogueItem("hat-1", url="javascript:")])
    assert (put.accepted, [verdict.about.item_id for verdict in put.rejected]) == (1, ["hat-1"])
    assert [(seen["method"], seen["headers"]["x-ledstream-key"]) for seen in world.seen] == [("PUT", "admin-key")]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"user_id": 7}, "user_id"),
        ({"item_id": "\ud800"}, "item_id"),
        ({"value": float("nan")}, "value"),
        ({"context": {"page": 7}}, "context"),
    ],
)
def test_what_would_spoil_a_whole_post_is_refused_when_it_is_made(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as caught:
        Event(**{"user_id": "ana", "item_id": "hat", "kind": "view", **changed})
    assert (caught.value.field, caught.value.status) == (field, 0)


def test_an_event_has_its_id_and_its_time_from_the_beginning() -> None:
    one, other = Event("ana", "hat", "view"), Event("ana", "hat", "view")
    assert one.event_id != other.event_id
    assert one.time_ms > 1_700_000_000_000
    assert one.to_json() == one.to_json()

"""Events handed over in the background."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from troubled_server import Troubled, after, ends, judges, says

from ledstream_client import Client, Event, Patience, Sender, Verdict

HERE = Path(__file__).parent


def events(number: int) -> list[Event]:
    return [Event("ana", f"hat-{place}", "view", event_id=str(place)) for place in range(number)]


def until(world: Troubled, posts: int) -> None:
    deadline = time.monotonic() + 10
    while len(world.seen) < posts:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_events_are_sent_together_in_order_and_the_last_of_them_at_the_end(world: Troubled, client: Client) -> None:
    with Sender(client, batch=100, flush_every_s=60) as sender:
        assert all(sender.track(event) for event in events(250))
        until(world, 2)
        assert [len(post) for post in world.posted()] == [100, 100], "the rest waits for company"
    assert [int(one) for post in world.posted() for one in post] == list(range(250))
    assert sender.counts() == (250, 0, 0, 0)
    sender.close()
    with pytest.raises(RuntimeError, match="closed"):
        sender.track(events(1)[0])


def test_a_lonely_event_is_sent_after_the_interval_and_at_once_when_asked(world: Troubled, client: Client) -> None:
    first, second = events(2)
    with Sender(client, flush_every_s=0.2) as sender:
        sender.track(first)
        until(world, 1)
        assert sender.flush(), "nothing waits"
    with Sender(client, flush_every_s=60) as sender:
        sender.track(second)
        assert sender.flush()
        assert world.posted() == [["0"], ["1"]]


def test_while_the_server_is_away_events_are_kept_and_then_sent_in_order(world: Troubled, client: Client) -> None:
    world.will(*[ends] * 4, judges("accepted"))
    with Sender(client.within(0.2), batch=10, flush_every_s=0.05) as sender:
        for event in events(30):
            sender.track(event)
        assert sender.flush(10)
        assert sender.counts() == (30, 0, 0, 0)
    taken = list(dict.fromkeys(int(one) for post in world.posted() for one in post))
    assert taken == list(range(30))


@pytest.mark.parametrize("garbage", [b"<html>welcome", b"[" * 100_000, b'{"verdicts": [7]}', b'{"verdicts": [{}]}'])
def test_answers_that_are_none_do_not_end_it(world: Troubled, client: Client, garbage: bytes) -> None:
    world.will(says(202, garbage), judges("accepted"))
    with Sender(client, batch=1, flush_every_s=0.05) as sender:
        sender.track(events(1)[0])
        assert sender.flush(10)
        assert sender.counts() == (1, 0, 0, 0)


def test_what_has_no_room_is_told_together(world: Troubled, client: Client) -> None:
    told: list[Verdict[Event]] = []
    world.will(after(0.5, judges("accepted")))
    with Sender(client, max_events=5, batch=5, on_undelivered=told.extend) as sender:
        assert [sender.track(event) for event in events(7)] == [True] * 5 + [False] * 2
        assert sender.flush()
        assert sender.track(events(1)[0]), "there is room again"
    assert sender.counts() == (6, 0, 2, 0)
    assert [(verdict.about.event_id, verdict.status) for verdict in told] == [("5", "failed"), ("6", "failed")]


def test_what_the_server_refuses_is_told_and_not_sent_again(world: Troubled, client: Client) -> None:
    told: list[Verdict[Event]] = []
    world.will(judges("accepted", "rejected"), says(401, {"error": {"field": "key", "value": None, "reason": "no"}}))
    with Sender(client, batch=2, flush_every_s=60, on_undelivered=told.extend) as sender:
        for event in events(4):
            sender.track(event)
    assert [(verdict.about.event_id, verdict.field) for verdict in told] == [("1", "kind"), ("2", "key"), ("3", "key")]
    assert sender.counts() == (1, 3, 0, 0)


def test_an_end_waits_no_longer_than_it_may_and_tells_what_is_left(world: Troubled, client: Client) -> None:
    told: list[Verdict[Event]] = []
    world.will(after(8.0, ends))
    sender = Sender(client, batch=2, on_undelivered=told.extend)
    for event in events(3):
        sender.track(event)
    until(world, 1)
    since_s = time.monotonic()
    sender.close(within_s=0.2)
    assert time.monotonic() - since_s < 6.0
    assert [verdict.about.event_id for verdict in told] == ["0", "1", "2"]
    assert sender.counts() == (0, 0, 3, 0)


def test_a_listener_that_fails_stops_nothing(world: Troubled, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Sequence[Verdict[Event]]) -> None:
        raise ZeroDivisionError

    world.will(judges("rejected"), judges("accepted"))
    with Sender(client, batch=1, on_undelivered=fails) as sender:
        for event in events(2):
            sender.track(event)
    assert sender.counts() == (1, 1, 0, 0)
    assert "on_undelivered failed" in caplog.text


def test_a_program_that_just_ends_has_sent_what_it_had(world: Troubled) -> None:
    program = f"""
from ledstream_client import Client, Event, Sender
sender = Sender(Client({world.address!r}), flush_every_s=60)
sender.track(Event("ana", "hat-01", "view", event_id="last"))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30, cwd=HERE.parent)
    assert world.posted() == [["last"]]


def test_after_a_fork_it_says_that_it_cannot(world: Troubled) -> None:
    program = f"""
import os
from ledstream_client import Client, Event, Sender
sender = Sender(Client({world.address!r}))
if os.fork() == 0:
    try:
        sender.track(Event("ana", "hat-01", "view"))
    except RuntimeError as error:
        print(error, flush=True)
        os._exit(0)
os.wait()
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, timeout=30, cwd=HERE.parent, capture_output=True)
    assert b"make one in each process" in run.stdout


def test_a_batch_that_no_post_could_hold_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="batch = 1001"):
        Sender(client, batch=1001)
    with pytest.raises(ValueError, match="batch = 500: must be from 1 to 10"):
        Sender(client, max_events=10)
    assert Patience().within_s == 10.0

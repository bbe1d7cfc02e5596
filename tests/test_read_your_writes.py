"""Who sent something sees it in the next answer, if they say what it was; and waits for it for a moment at most."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgpack
import orjson
import pytest

from consumers.timelines import TimelineConsumer
from serving.app import create_app
from serving.parts import Limits, Parts
from store.connection import Client, connect
from store.embedded import EmbeddedStore
from store.user_state import UserStates
from stream.events import ERASE
from stream.log import Entry, Position
from stream.loop import Loop
from stream.spool import Spool
from stream.tokens import Token, decode_token
from stream.topics import EVENTS
from tests.records import lengths
from tests.running import running
from tests.small_server import parts_of
from tests.test_spool import LogAway

Story = Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]
ASK = "/v1/recommendations"


@pytest.fixture
def parts(redis_client: Client, namespace: str, tmp_path: Path) -> Parts:
    return parts_of(redis_client, namespace, tmp_path)


@contextmanager
def consuming(parts: Parts) -> Iterator[None]:
    """A consumer runs meanwhile."""
    stop = threading.Event()
    release = parts.releases.load(parts.releases.versions()[0])
    handler = TimelineConsumer(parts.states, lambda: release, parts.log.identity(EVENTS))
    loop = Loop(parts.log, EVENTS, "timelines", handler, poll_timeout_s=0.2)
    consumer = threading.Thread(target=loop.run, args=(stop,))
    consumer.start()
    yield
    stop.set()
    consumer.join()


def told(parts: Parts, story: Story, limits: Limits | None = None) -> None:
    async def whole() -> None:
        async with running(create_app(parts, limits)) as client:
            await story(client)

    asyncio.run(whole())


async def sent(client: httpx.AsyncClient, *events: dict[str, str]) -> str:
    """The token of a post."""
    answer = await client.post("/v1/events", json=events[0] if len(events) == 1 else list(events))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["token"])


async def asked(client: httpx.AsyncClient, user: str, token: str, path: str = ASK, **more: int) -> dict[str, Any]:
    answer = await client.get(path, params={"user": user, "k": 60, "after": token, **more})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def view(user: str, item: str) -> dict[str, str]:
    return {"user_id": user, "item_id": item, "kind": "view"}


def items(answer: dict[str, Any]) -> set[str]:
    return {item["item_id"] for item in answer["items"]}


@pytest.mark.parametrize("path", [ASK, "/v1/slot"])
def test_what_was_sent_before_is_in_the_answer_each_time(parts: Parts, path: str) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        for number in range(30):
            token = await sent(client, view("kim", f"hat-{number:02}"))
            answer = await asked(client, "kim", token, path, wait_ms=1000)
            assert answer["after"]["in"] is True
            assert items(answer).isdisjoint({f"hat-{before:02}" for before in range(number + 1)})

    with consuming(parts):
        told(parts, story)


def test_a_token_of_a_batch_is_good_for_each_of_its_users(parts: Parts) -> None:
    users = [f"user-{number}" for number in range(40)]

    async def story(client: httpx.AsyncClient) -> None:
        token = await sent(client, *(view(user, "belt-07") for user in users))
        for user in users:
            answer = await asked(client, user, token, wait_ms=1000)
            assert (answer["after"]["in"], answer["source"]) == (True, "personal"), user

    with consuming(parts):
        told(parts, story)


def test_an_event_that_changes_nothing_is_in_all_the_same(parts: Parts) -> None:
    """Sent twice, or unreadable to the consumer: whoever waits for it must not wait for what never comes."""
    again = {**view("kim", "hat-03"), "event_id": "the-same"}

    async def story(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            token = await sent(client, again)
            assert (await asked(client, "kim", token, wait_ms=1000))["after"]["in"]
        (where,) = parts.log.append(EVENTS, [Entry(b"kim", b"nobody can read this", 0)])
        assert isinstance(where, Position)
        unread = Token.of(parts.log.identity(EVENTS), [where]).encode()
        assert (await asked(client, "kim", unread, wait_ms=1000))["after"]["in"]
        packed = await client.get(f"{ASK}?user=kim&after={unread}", headers={"accept": "application/msgpack"})
        assert msgpack.unpackb(packed.content)["after"]["in"]

    with consuming(parts):
        told(parts, story)


def test_without_a_consumer_the_wait_ends_in_time_and_the_answer_says_so(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        token = await sent(client, view("ana", "hat-02"))
        for wait_ms in (0, 100):
            begun = time.monotonic()
            answer = await asked(client, "ana", token, wait_ms=wait_ms)
            assert answer["after"]["in"] is False
            assert wait_ms <= answer["after"]["waited_ms"] <= (time.monotonic() - begun) * 1000 + 1
            assert answer["source"] == "personal"
        assert "after" not in (await client.get(f"{ASK}?user=ana")).json()

    told(parts, story)


def test_who_waits_keeps_nobody_else_waiting_and_beyond_a_number_nobody_waits(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        token = await sent(client, view("ana", "hat-02"))
        waiting = [asyncio.create_task(asked(client, "ana", token, wait_ms=1000)) for _ in range(8)]
        await asyncio.sleep(0.05)
        begun = time.monotonic()
        for user in ("ana", "bob"):
            assert (await client.get(f"{ASK}?user={user}")).status_code == 200
        assert (await asked(client, "ana", token, wait_ms=1000))["after"] == {"in": False, "waited_ms": 0}
        assert time.monotonic() - begun < 0.5
        assert not any(one.done() for one in waiting)
        assert not any(answer["after"]["in"] for answer in await asyncio.gather(*waiting))

    told(parts, story, Limits(waiting_writes=8))


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=garbled", "after"),
        ("after=", "after"),
        ("after=%00%FF", "after"),
        ("after={good}&wait_ms=1001", "wait_ms"),
        ("after={good}&wait_ms=-1", "wait_ms"),
        ("after={good}&wait_ms=soon", "wait_ms"),
        ("after={good}&after={good}", "after"),
        ("after={other}", "after"),
        ("wait_ms=5", "wait_ms"),
        ("after={good}&k=0", "k"),
    ],
)
def test_what_is_wrong_about_a_wait_is_named(parts: Parts, query: str, field: str) -> None:
    good, other = (Token.of(parts.log.identity(EVENTS) + more, [Position(0, 1)]).encode() for more in (0, 1))

    async def story(client: httpx.AsyncClient) -> None:
        for path in (ASK, "/v1/slot"):
            refused = await client.get(f"{path}?user=ana&{query.format(good=good, other=other)}")
            assert (refused.status_code, refused.json()["error"]["field"]) == (400, field)

    told(parts, story)


def test_a_token_of_partitions_that_are_nowhere_is_not_waited_for(parts: Parts) -> None:
    """Whoever knows the form can write one: it must cost nothing, and break nothing."""
    made_up = [{9: 1}, {1 << 40: 1}, dict.fromkeys(range(2, 2000), 1), {(1 << 63): 1 << 63}]

    async def story(client: httpx.AsyncClient) -> None:
        token = await sent(client, view("kim", "belt-07"))
        log = decode_token(token).log
        for ends in made_up:
            answer = await asked(client, "nobody-2", Token(log, ends).encode(), wait_ms=1000)
            assert answer["after"]["waited_ms"] == 0
            assert answer["after"]["in"] is False

    told(parts, story)


def test_no_token_where_there_is_nothing_to_wait_for(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        for event, status in ((view("ana", ""), 400), (view("ana", "hat-01") | {"kind": ERASE}, 400)):
            answer = await client.post("/v1/events", json=event)
            assert (answer.status_code, "token" in answer.json()) == (status, False)
        shown = await client.post("/v1/events", json=view("ana", "hat-01") | {"kind": "impression"})
        assert (shown.status_code, "token" in shown.json()) == (202, False)
        lines = "\n".join(orjson.dumps(view("ana", f"hat-0{n}")).decode() for n in range(3))
        of_lines = await client.post("/v1/events", content=lines, headers={"content-type": "application/x-ndjson"})
        assert len(of_lines.json()["token"]) <= 24

    told(parts, story)


def test_what_is_only_on_the_disk_has_no_token(parts: Parts, tmp_path: Path) -> None:
    spool, log = Spool(tmp_path / "spool", 1 << 20), LogAway()

    async def story(client: httpx.AsyncClient) -> None:
        assert await sent(client, view("ana", "hat-01"))
        log.is_away = True
        answer = await client.post("/v1/events", json=view("ana", "hat-02"))
        log.is_away = False
        assert (answer.status_code, "token" in answer.json()) == (202, False)

    told(replace(parts, log=log, spool=spool), story)


def test_with_the_store_away_nobody_waits(tmp_path: Path, namespace: str, parts: Parts) -> None:
    with EmbeddedStore(tmp_path / "store") as store, connect(store.address, timeout_s=0.25) as client_of_store:
        states = UserStates(client_of_store, namespace, lengths)

        async def story(client: httpx.AsyncClient) -> None:
            token = await sent(client, view("ana", "hat-02"))
            await asyncio.to_thread(store.stop)
            for _ in range(3):
                begun = time.monotonic()
                answer = await asked(client, "ana", token, wait_ms=1000)
                assert (answer["after"]["in"], answer["degraded"]) == (False, True)
                assert time.monotonic() - begun < 0.9

        told(replace(parts, states=states), story)

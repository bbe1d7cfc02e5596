"""A visitor who turns out to be somebody: what was done before is that user's, once, and nobody else's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumers.timelines import TimelineConsumer
from serving.app import create_app
from serving.parts import Erasures, Parts
from store.connection import Client
from store.erased_users import ErasedUsers
from store.erasure_key import ErasureKey
from store.merged import leaves_tombstone
from store.tombstones import Tombstones
from store.user_record import UserRecord
from stream.events import ERASE, decode_event, item_key
from stream.loop import Loop
from stream.topics import EVENTS
from tests.eventually import until
from tests.running import running
from tests.small_server import parts_of

VISITOR, OTHER = "anon-" + "0f" * 16, "anon-" + "a1" * 16


@pytest.fixture
def parts(redis_client: Client, namespace: str, tmp_path: Path) -> Iterator[Parts]:
    """With a consumer that runs."""
    parts, stop = parts_of(redis_client, namespace, tmp_path), threading.Event()
    release = parts.releases.load(parts.releases.versions()[0])
    handler = TimelineConsumer(parts.states, lambda: release, parts.log.identity(EVENTS))
    loop = Loop(parts.log, EVENTS, "timelines", handler, poll_timeout_s=0.01)
    consumer = threading.Thread(target=loop.run, args=(stop,))
    consumer.start()
    yield parts
    stop.set()
    consumer.join()


def told(parts: Parts, story: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with running(create_app(parts)) as client:
            await story(client)

    asyncio.run(whole())


async def view(client: httpx.AsyncClient, user: str, *items: str) -> None:
    for item in items:
        event = {"user_id": user, "item_id": item, "kind": "view", "event_id": f"{user}-{item}"}
        assert (await client.post("/v1/events", json=event)).status_code == 202


async def identify(client: httpx.AsyncClient, anonymous_id: str, user_id: str) -> int:
    answer = await client.post("/v1/identify", json={"anonymous_id": anonymous_id, "user_id": user_id})
    assert answer.status_code == 202, answer.text
    return int(answer.json()["merged"])


def seen(parts: Parts, user: str) -> list[int]:
    (record,) = parts.states.read([user])
    return record.timeline["item"].tolist() if isinstance(record, UserRecord) else []


def keys(*items: str) -> list[int]:
    return [item_key(item) for item in items]


def test_what_a_visitor_did_is_the_users_from_then_on_and_no_visitor_is_left(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await view(client, "eve", "belt-03")
        await view(client, VISITOR, "hat-01", "hat-02", "not-in-the-release")
        assert await identify(client, VISITOR, "eve") == 2
        await view(client, "eve", "belt-04")

    told(parts, story)
    until(lambda: seen(parts, "eve") == keys("belt-03", "hat-01", "hat-02", "belt-04"))
    until(lambda: seen(parts, VISITOR) == [])


def test_the_erasure_of_a_visitor_who_became_a_user_says_that_it_leaves_no_tombstone(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await view(client, VISITOR, "hat-01")
        await identify(client, VISITOR, "eve")

    told(parts, story)
    log = parts.log
    records = [one for partition in range(log.partitions(EVENTS)) for one in log.read(EVENTS, partition, 0, 100)]
    (erased,) = [event for one in records if (event := decode_event(one.value)).kind == ERASE]
    assert (erased.user_id, leaves_tombstone(erased.context)) == (VISITOR, False)


def test_asking_again_changes_nothing(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await view(client, VISITOR, "hat-01")
        assert await identify(client, VISITOR, "eve") == 1
        assert await identify(client, VISITOR, "eve") == 0
        assert await identify(client, OTHER, "eve") == 0

    told(parts, story)
    until(lambda: seen(parts, "eve") == keys("hat-01"))


def test_nobody_becomes_another_user_by_naming_one(parts: Parts) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        for anonymous_id, user_id, field in (
            ("ana", "eve", "anonymous_id"),
            ("anon-1", "eve", "anonymous_id"),
            (VISITOR, OTHER, "user_id"),
            (VISITOR, "", "user_id"),
            (VISITOR, 7, "user_id"),
        ):
            refused = await client.post("/v1/identify", json={"anonymous_id": anonymous_id, "user_id": user_id})
            assert (refused.status_code, refused.json()["error"]["field"]) == (400, field)

    told(parts, story)
    assert seen(parts, "ana") == keys("hat-01")


def test_while_consumers_are_behind_a_merge_is_refused_and_may_be_asked_for_again(
    redis_client: Client, namespace: str, tmp_path: Path
) -> None:
    parts = parts_of(redis_client, namespace, tmp_path)  # and nobody consumes

    async def story(client: httpx.AsyncClient) -> None:
        await view(client, VISITOR, "hat-01")
        refused = await client.post("/v1/identify", json={"anonymous_id": VISITOR, "user_id": "eve"})
        assert (refused.status_code, refused.json()["error"]["field"]) == (503, "anonymous_id")

    told(parts, story)


def test_who_is_erased_is_erased_as_the_visitor_too_who_became_that_user(
    parts: Parts, redis_client: Client, namespace: str, tmp_path: Path
) -> None:
    users = ErasedUsers(redis_client, namespace, parts.states, idle_after_s=60)
    tombstones = Tombstones([tmp_path / "erasures"], ErasureKey(b"secret"))

    async def story(client: httpx.AsyncClient) -> None:
        await view(client, VISITOR, "hat-01")
        await identify(client, VISITOR, "eve")
        assert users.visitors("eve") == [VISITOR]
        await view(client, VISITOR, "hat-02")  # signed out again, in the same browser
        receipt = (await client.delete("/v1/users/eve")).json()["receipt"]["receipt"]
        assert receipt["visitors"] == [tombstones.key.name(VISITOR).hex()]
        assert (seen(parts, "eve"), seen(parts, VISITOR), users.visitors("eve")) == ([], [], [])

    told(replace(parts, erasures=Erasures(tombstones, users)), story)
    assert (seen(parts, "eve"), seen(parts, VISITOR)) == ([], [])

"""An event is struck over HTTP: through the log, into the record, and nobody else's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumers.timelines import TimelineConsumer
from serving.collector.origins import Origins
from serving.collector.paths import Door
from serving.collector.sites import Sites
from serving.parts import Parts
from store.connection import Client
from stream.decoding import Decoder
from stream.events import Border
from stream.log import Batch
from stream.strikes import Strike
from stream.topics import EVENTS
from tests.records import put
from tests.test_api import World, event
from tests.wire import serving
from tests.worlds import KINDS, NOW_MS, records, viewed

SEEN = ["hat-01", "belt-02", "umbrella"]


@pytest.fixture
def world(redis_client: Client, namespace: str, tmp_path: Path) -> World:
    return World(redis_client, namespace, tmp_path / "releases")


def consumed(world: World) -> None:
    """All of the log is in the records."""
    consumer = TimelineConsumer(world.states, lambda: world.release, world.log.identity(EVENTS))
    for partition in range(world.log.partitions(EVENTS)):
        start = consumer.assigned(partition) or 0
        if records := world.log.read(EVENTS, partition, start, 1000):
            consumer.handle([Decoder().decode(Batch.of(partition, records))[0]])
            consumer.handle([])


async def posted(client: httpx.AsyncClient, world: World, user: str, *items: str) -> None:
    events = [event(user_id=user, item_id=item, event_id=f"{item}-1") for item in items]
    assert (await client.post("/v1/events", json=events)).status_code == 202
    consumed(world)


async def told(client: httpx.AsyncClient, user: str) -> list[dict[str, Any]]:
    answer = (await client.get(f"/v1/users/{user}")).json()
    timeline: list[dict[str, Any]] = answer["timeline"]
    assert answer["events"] == len(timeline)
    return timeline


def test_a_struck_event_is_gone_and_its_retry_does_not_bring_it_back(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await posted(client, world, "never", "hat-01", "umbrella")
        await posted(client, world, "ana", *SEEN)
        timeline = await told(client, "ana")
        assert [one["item_id"] for one in timeline] == [None, "belt-02", "hat-01"], "newest first"
        path = f"/v1/users/ana/timeline/{timeline[1]['entry']}"
        struck = await client.delete(path)
        assert (struck.status_code, struck.json()["status"]) == (202, "accepted")
        consumed(world)
        assert await told(client, "ana") == [timeline[0], timeline[2]]
        asked = "/v1/recommendations?k=5&explain=true&user="
        with_strike, without = [(await client.get(asked + user)).json() for user in ("ana", "never")]
        assert {**with_strike, "user": ""} == {**without, "user": ""}
        await posted(client, world, "ana", "belt-02")
        assert await told(client, "ana") == [timeline[0], timeline[2]]
        assert (await client.delete(path)).status_code == 404

    world.run(story)


def test_the_reasons_name_the_entries_that_can_be_struck(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await posted(client, world, "ana", *SEEN)
        answer = (await client.get("/v1/recommendations?user=ana&k=3&explain=true")).json()
        named = [one["entry"] for one in answer["items"][0]["reasons"]["events"]]
        assert named == [one["entry"] for one in await told(client, "ana")]

    world.run(story)


def test_a_user_whose_id_looks_like_a_path_to_an_entry_is_told_apart_by_how_slashes_are_written(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await posted(client, world, "a/b", *SEEN)
        (entry, *_) = [one["entry"] for one in await told(client, "a/b")]
        for path in (f"a/b/timeline/{entry}", f"a%2Fb/timeline/{entry}"):
            assert (await client.delete(f"/v1/users/{path}")).json()["user"] == "a/b"
        strikes = [one for one in world.log.events() if one.kind == "strike"]
        assert {Strike.of(one.context).mark for one in strikes} == {Strike.of(strikes[0].context).mark}
        assert (await client.delete(f"/v1/users/a%2Fb%2Ftimeline%2F{entry}")).status_code == 202
        (erasure,) = [one for one in world.log.events() if one.kind == "erase"]
        assert erasure.user_id == f"a/b/timeline/{entry}"

    world.run(story)


@pytest.mark.parametrize(
    "path", ["ana/timeline/nonsense", "ana/timeline/", "nobody/timeline/AAAA", "a/timeline/b", "ana/timeline/a%2Fb"]
)
def test_what_names_no_entry_strikes_and_erases_nobody(world: World, path: str) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await posted(client, world, "ana", *SEEN)
        refused = await client.delete(f"/v1/users/{path}")
        assert (refused.status_code, refused.json()["error"]["field"]) == (404, "entry")
        assert {one.kind for one in world.log.events()} == {"view"}

    world.run(story)


@pytest.mark.parametrize("path", ["ana/timeline/%2e%2e", "ana/timeline/%2E", "ana/%2e%2e/bob", "%2e%2e"])
def test_a_path_that_somebody_on_the_way_may_read_as_another_erases_nobody(world: World, path: str) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await posted(client, world, "ana", *SEEN)
        refused = await client.delete(f"/v1/users/{path}")
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, "path")
        assert {one.kind for one in world.log.events()} == {"view"}
        for user in ("..", "."):
            sent = await client.post("/v1/events", json={"user_id": user, "item_id": "hat-01", "kind": "view"})
            assert (sent.status_code, sent.json()["verdicts"][0]["field"]) == (400, "user_id")

    world.run(story)


def test_reasons_written_in_escapes_are_refused(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        for path in ("/v1/recommendations?user=ana&e%78plain=true", "/v1/slot?user=ana&explain=true"):
            assert (await client.get(path)).status_code == 403

    world.run(story)


def test_on_a_real_server_reasons_need_the_admin_key_and_escaped_slashes_are_told_apart(world: World) -> None:
    put(world.states, records({"a/b": viewed("a/b", "hat-01", "belt-02")}, world.release))
    door = Door(Sites.of("shop=write-key", "admin-key", is_local=False), Origins.of(""))
    asked, admin = "/v1/recommendations?user=a%2Fb&k=2", {"x-ledstream-key": "admin-key"}

    async def story() -> None:
        parts = Parts(world.log, world.states, world.releases, Border(KINDS), lambda: NOW_MS)
        async with serving(parts, door=door) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            assert (await client.get(asked)).json()["source"] == "personal"
            assert (await client.get(asked + "&explain=true")).status_code == 401
            assert (await client.get(asked + "&%65xplain=true", headers=admin)).status_code == 403
            explained = (await client.get(asked + "&explain=true", headers=admin)).json()["items"]
            (newest, _) = explained[0]["reasons"]["events"]
            path = f"/v1/users/a%2Fb/timeline/{newest['entry']}"
            assert (await client.delete(path)).status_code == 401
            assert (await client.delete(path, headers=admin)).status_code == 202
            assert (await client.delete("/v1/users/a%2Fb%2Ftimeline%2Fx", headers=admin)).json()["user"] == (
                "a/b/timeline/x"
            )
        assert {(one.user_id, one.kind) for one in world.log.events()} == {
            ("a/b", "strike"),
            ("a/b/timeline/x", "erase"),
        }

    asyncio.run(story())

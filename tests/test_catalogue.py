"""What is known of items: put, kept in order, shown with answers; what is out of stock is shown to nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumers.catalogue import GROUP, CatalogueConsumer
from serving.app import create_app
from serving.parts import Parts
from store.catalogue import Catalogue
from store.connection import Client
from store.user_state import UserStates
from stream.announcements import announce
from stream.events import Border
from stream.items import ItemsDecoder
from stream.loop import Loop
from stream.memory_log import MemoryLog
from stream.topics import ITEMS, topics
from tests.records import lengths, put
from tests.running import running, until
from tests.worlds import KINDS, NOW_MS, records, releases, two_tastes, viewed

Story = Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]
HAT = {"item_id": "hat-01", "title": "A felt hat", "url": "/items/hat-01", "price": 39.9, "currency": "EUR", "stock": 3}


class World:
    """A server and the catalogue's consumer on a log in memory and a real store."""

    def __init__(self, client: Client, namespace: str, folder: Path) -> None:
        self.log = MemoryLog()
        for topic, partitions in topics(2).items():
            self.log.create_topic(topic, partitions)
        self.states = UserStates(client, namespace, lengths)
        self.catalogue = Catalogue(client, namespace)
        self.releases = releases(folder)
        self.release = self.releases.load(self.releases.publish(two_tastes(), now_ms=NOW_MS))
        announce(self.log, self.release.version, NOW_MS)

    def run(self, story: Story) -> None:
        async def whole() -> None:
            parts = Parts(self.log, self.states, self.releases, Border(KINDS), lambda: NOW_MS, catalogue=self.catalogue)
            with self.consuming():
                async with running(create_app(parts)) as client:
                    await story(client)

        asyncio.run(whole())

    @contextmanager
    def consuming(self) -> Iterator[None]:
        stop = threading.Event()
        handler = CatalogueConsumer(self.catalogue, self.log.identity(ITEMS))
        loop = Loop(self.log, ITEMS, GROUP, handler, decoder=ItemsDecoder(), poll_timeout_s=0.01)
        thread = threading.Thread(target=loop.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.fixture
def world(redis_client: Client, namespace: str, tmp_path: Path) -> World:
    return World(redis_client, namespace, tmp_path / "releases")


async def put_items(client: httpx.AsyncClient, *items: dict[str, Any]) -> dict[str, Any]:
    response = await client.put("/v1/items", json={"items": items})
    assert response.status_code in (202, 400), response.text
    answer: dict[str, Any] = response.json()
    return answer


async def wait_for(client: httpx.AsyncClient, item_id: str, **expected: object) -> dict[str, Any]:
    """The item once it is known so."""
    answer: dict[str, Any] = {}

    async def is_so() -> bool:
        answer.update((await client.get(f"/v1/items/{item_id}")).json())
        return expected.items() <= answer.items()

    await until(is_so)
    return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_what_was_put_of_an_item_is_shown_with_it_and_with_answers_that_ask_for_details(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "hat-02")}, world.release))

    async def story(client: httpx.AsyncClient) -> None:
        answer = await put_items(client, HAT | {"brand": "Ödön"}, {"item_id": "hat-03", "url": "javascript:alert(1)"})
        assert (answer["accepted"], answer["rejected"]) == (1, 1)
        assert answer["verdicts"][1]["field"] == "url"
        known = await wait_for(client, "hat-01", title="A felt hat")
        assert (known["brand"], known["stock"], known["in_release"], known["withheld"]) == ("Ödön", 3, True, False)
        assert known["popularity"] > 0
        plain = (await client.get("/v1/recommendations?user=ana&k=40")).json()
        detailed = (await client.get("/v1/recommendations?user=ana&k=40&details=true")).json()
        assert ids(plain) == ids(detailed)
        assert {frozenset(item) for item in plain["items"]} == {frozenset({"item_id", "score"})}
        (hat,) = [item for item in detailed["items"] if item["item_id"] == "hat-01"]
        assert {**HAT, "brand": "Ödön"}.items() <= hat.items()
        slot = (await client.get("/v1/slot?user=ana&k=40")).json()
        assert slot["items"] == detailed["items"]
        batch = (
            await client.post("/v1/recommendations/batch", json={"users": ["ana"], "k": 40, "details": True})
        ).json()
        assert batch["answers"][0] == detailed
        similar = (await client.get("/v1/items/hat-02/similar?details=true&k=40")).json()
        assert [item["title"] for item in similar["items"] if item["item_id"] == "hat-01"] == ["A felt hat"]

    world.run(story)


def test_an_item_out_of_stock_or_deleted_is_recommended_to_nobody_until_it_is_there_again(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "hat-02")}, world.release))

    async def story(client: httpx.AsyncClient) -> None:
        async def shown(user: str) -> set[str]:
            return set(ids((await client.get(f"/v1/recommendations?user={user}&k=60")).json()))

        async def shows(*expected: bool) -> bool:
            return ("hat-01" in await shown("ana"), "hat-01" in await shown("nobody")) == expected

        assert await shows(True, True)
        await put_items(client, HAT | {"stock": 0})
        await until(lambda: shows(False, False))
        assert len(await shown("ana")) == 58, "all but the seen one and this"
        assert (await wait_for(client, "hat-01", withheld=True))["stock"] == 0
        await put_items(client, HAT)
        await until(lambda: shows(True, True))
        assert (await client.delete("/v1/items/hat-01")).status_code == 202
        await until(lambda: shows(False, False))
        assert "title" not in {name for name, value in (await wait_for(client, "hat-01", title=None)).items() if value}
        await put_items(client, {"item_id": "hat-01"})
        await until(lambda: shows(True, True))

    world.run(story)

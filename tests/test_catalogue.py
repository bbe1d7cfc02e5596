"""What is known of items: put, kept in order, shown with answers; what is out of stock is shown to nobody."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from consumers.catalogue import GROUP, CatalogueConsumer
from serving.app import create_app
from serving.parts import Parts
from store.catalogue import Catalogue
from store.connection import Client, connect
from store.user_state import UserStates
from stream.announcements import announce
from stream.events import Border
from stream.items import ItemsDecoder
from stream.loop import Loop
from stream.memory_log import MemoryLog
from stream.topics import ITEMS, topics
from tests.records import lengths, put
from tests.running import running, until
from tests.worlds import KINDS, NOW_MS, records, releases, row_of, two_tastes, viewed

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

    def popularity(self, item: str) -> float:
        return float(self.release.popularity[row_of(self.release, item)])

    def run(self, story: Story, *, consuming: bool = True) -> None:
        async def whole() -> None:
            parts = Parts(self.log, self.states, self.releases, Border(KINDS), lambda: NOW_MS, catalogue=self.catalogue)
            with self.consuming() if consuming else nullcontext():
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


def test_one_bad_item_of_a_thousand_is_refused_alone(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        many = [{"item_id": f"item-{number}", "title": f"No. {number}"} for number in range(1000)]
        answer = await put_items(client, *many[:500], {"item_id": "bad", "price": -1}, *many[501:])
        assert (answer["accepted"], answer["rejected"], answer["failed"]) == (999, 1, 0)
        assert [verdict["status"] for verdict in answer["verdicts"]].index("rejected") == 500
        await wait_for(client, "item-999", title="No. 999")
        assert (await client.get("/v1/items/item-500")).status_code == 404
        refused = await client.put("/v1/items", json={"items": many + many[:1]})
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, "items")
        bodies: list[Any] = [[], {}, {"items": []}, {"items": {}}, {"items": many, "more": 1}]
        for body in bodies:
            assert (await client.put("/v1/items", json=body)).status_code == 400
        assert (await client.put("/v1/items", json={"items": [{"item_id": ""}]})).status_code == 400

    world.run(story)


def test_an_id_may_hold_slashes_and_items_are_found_by_id_and_by_words_of_the_title(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await put_items(
            client,
            {"item_id": "new/hats/1", "title": "Straw hat for the Sun"},
            {"item_id": "hat-05", "title": "A Panama HAT"},
            {"item_id": "new/belts/1", "title": "Leather belt"},
        )
        known = await wait_for(client, "new/belts/1", title="Leather belt")
        assert (known["in_release"], known["popularity"]) == (False, None)
        assert (await client.get("/v1/items/new%2Fhats%2F1")).json()["title"] == "Straw hat for the Sun"

        async def found(q: str, k: int = 5) -> list[str]:
            return ids((await client.get("/v1/items", params={"q": q, "k": k})).json())

        assert await found("hat pan") == ["hat-05"]
        assert await found("sun STRAW") == ["new/hats/1"]
        assert await found("new/") == ["new/belts/1", "new/hats/1"]
        assert (await found("hat-05"))[0] == "hat-05"
        popular = await found("hat-0", 3)
        assert len(popular) == 3
        assert popular == sorted(popular, key=lambda item: -world.popularity(item))
        assert await found("umbrella") == []
        assert (await client.get("/v1/items?q=")).status_code == 400
        assert (await client.get("/v1/items/umbrella")).status_code == 404

    world.run(story)


def test_the_map_draws_what_is_alike_near_each_other_and_the_same_each_time(world: World) -> None:
    async def story(client: httpx.AsyncClient) -> None:
        await put_items(client, HAT)
        await wait_for(client, "hat-01", title="A felt hat")
        drawn = (await client.get("/v1/catalogue/map")).json()
        assert (drawn["release"], len(drawn["items"])) == (world.release.version, 60)
        assert drawn == (await client.get("/v1/catalogue/map")).json()
        assert [item["popularity"] for item in drawn["items"]] == list(range(60, 0, -1))
        assert {item["title"] for item in drawn["items"]} == {None, "A felt hat"}
        sides = {taste: [i["x"] for i in drawn["items"] if i["item_id"].startswith(taste)] for taste in ("hat", "belt")}
        assert max(sides["hat"]) < min(sides["belt"]) or max(sides["belt"]) < min(sides["hat"])

    world.run(story)


def test_while_the_store_is_away_answers_come_without_details_and_say_so(world: World, tmp_path: Path) -> None:
    world.catalogue = Catalogue(connect(f"unix://{tmp_path}/nobody", timeout_s=0.1), "away")

    async def story(client: httpx.AsyncClient) -> None:
        answer = (await client.get("/v1/recommendations?user=ana&k=3&details=true")).json()
        assert (len(answer["items"]), answer["degraded"]) == (3, True)
        assert (await client.get("/v1/recommendations?user=ana&k=3")).json()["degraded"] is False
        assert (await client.get("/v1/items/hat-01")).status_code == 503

    world.run(story, consuming=False)


def test_reasons_and_details_may_be_asked_for_together(world: World) -> None:
    put(world.states, records({"ana": viewed("ana", "hat-02")}, world.release))

    async def story(client: httpx.AsyncClient) -> None:
        await put_items(client, HAT)
        await wait_for(client, "hat-01", title="A felt hat")
        answer = (await client.get("/v1/recommendations?user=ana&k=40&details=true&explain=true")).json()
        (hat,) = [item for item in answer["items"] if item["item_id"] == "hat-01"]
        terms = [event["contribution"] for event in hat["reasons"]["events"]]
        assert hat["title"] == "A felt hat"
        assert hat["reasons"]["bias"] + sum(terms) == pytest.approx(hat["score"], abs=1e-5)

    world.run(story)

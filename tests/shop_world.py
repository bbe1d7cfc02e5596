"""The demo's shop with all that is behind it in one process: recommender, consumers, catalogue. Five rings of forty."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from consumers import catalogue
from consumers.timelines import TimelineConsumer
from ledstream.shop.products import Assortment
from ledstream.shop.site import opened_shop
from ledstream.shop.stocking import Stocking
from serving.collector.origins import Origins
from serving.collector.paths import Door
from serving.parts import Parts
from store.catalogue import Catalogue
from store.connection import connect
from store.releases import Model
from store.user_state import UserStates
from stream.announcements import announce
from stream.events import Border
from stream.items import ItemsDecoder
from stream.loop import Loop
from stream.memory_log import MemoryLog
from stream.simulator import Placed, Simulator, SimulatorSettings
from stream.topics import EVENTS, ITEMS, topics
from tests.eventually import until
from tests.records import lengths
from tests.servers import free_ports
from tests.wire import in_the_servers_loop, serving
from tests.worlds import KINDS, NOW_MS, releases

SMALL = SimulatorSettings(items=200, tastes=5)
CATEGORIES = ("Mugs", "Lamps", "Sneakers", "Plants", "Headphones")


@dataclass(frozen=True)
class World:
    """Addresses of the shop and of the recommender."""

    shop: str
    server: str

    def timeline(self, user: str) -> list[dict[str, Any]]:
        """The user's, as the recommender tells; empty for nobody it knows."""
        answer = httpx.get(f"{self.server}/v1/users/{user}")
        events: list[dict[str, Any]] = answer.json()["timeline"] if answer.status_code == 200 else []
        return events


def model_of(placed: list[Placed]) -> Model:
    """Rings as they are: items of one are alike, and the more so the nearer they lie."""
    tastes = max(one.taste for one in placed) + 1
    angle = np.array([2 * np.pi * one.place / one.places for one in placed])
    ring = np.eye(tastes)[[one.taste for one in placed]]
    table = np.hstack([ring, 0.6 * np.cos(angle)[:, None], 0.6 * np.sin(angle)[:, None]]).astype(np.float32)
    return Model(
        item_ids=[one.item_id for one in placed],
        input_embeddings=table,
        output_embeddings=table,
        biases=np.linspace(0, 0.01, len(placed), dtype=np.float32),
        popularity=np.arange(1, len(placed) + 1, dtype=np.float32)[::-1].copy(),
        kind_weights=dict.fromkeys(KINDS, 1.0),
    )


@contextmanager
def shop_world(redis_address: str, namespace: str, folder: Path) -> Iterator[World]:
    """Stocked, and gone when this is left."""
    with ExitStack() as stack:
        client = stack.enter_context(connect(redis_address))
        log, published, items = MemoryLog(), releases(folder), Catalogue(client, namespace)
        for topic, partitions in topics(2).items():
            log.create_topic(topic, partitions)
        simulator = Simulator(SMALL)
        release = published.load(published.publish(model_of(simulator.on_sale()), now_ms=NOW_MS))
        announce(log, release.version, NOW_MS)
        states = UserStates(client, namespace, lengths)
        timelines = TimelineConsumer(states, lambda: release, log.identity(EVENTS))
        stock = catalogue.CatalogueConsumer(items, log.identity(ITEMS))
        for loop in (
            Loop(log, EVENTS, "timelines", timelines, poll_timeout_s=0.01),
            Loop(log, ITEMS, catalogue.GROUP, stock, decoder=ItemsDecoder(), poll_timeout_s=0.01),
        ):
            stack.enter_context(_running(loop.run))
        parts = Parts(log, states, published, Border(KINDS), catalogue=items)
        world = stack.enter_context(_open(parts, simulator))
        until(lambda: httpx.get(f"{world.server}/v1/items/item-00199").json().get("title") is not None)
        yield world


@contextmanager
def _running(run: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _open(parts: Parts, simulator: Simulator) -> Iterator[World]:
    """The recommender and the shop, in a thread and a loop of their own."""
    found: Future[World] = Future()
    shop = f"http://127.0.0.1:{free_ports(1)[0]}"

    async def serve(stop: threading.Event) -> None:
        assortment, door = Assortment(), Door(origins=Origins.of(shop))
        async with serving(parts, door=door) as port:
            world = World(shop, f"http://127.0.0.1:{port}")
            async with opened_shop(assortment, shop, world.server):
                stocking = asyncio.create_task(Stocking(assortment, shop, world.server, simulator).follow())
                found.set_result(world)
                await asyncio.to_thread(stop.wait)
                stocking.cancel()
                with suppress(asyncio.CancelledError):
                    await stocking

    with _running(lambda stop: in_the_servers_loop(serve(stop))):
        yield found.result(30)

"""A server that knows ana and her hat, for tests of what else is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson

from serving.parts import Limits, Parts
from store.catalogue import Catalogue
from store.connection import Client
from store.popularity import Popularity
from store.user_state import UserStates
from stream.announcements import announce
from stream.events import Border
from stream.memory_log import MemoryLog
from stream.topics import topics
from tests.records import lengths, put
from tests.wire import ask, in_the_servers_loop, serving
from tests.worlds import KINDS, NOW_MS, records, releases, two_tastes, viewed

ANA = "/v1/recommendations?user=ana&k=3"
GET_ANA = f"GET {ANA} HTTP/1.1\r\nhost: here\r\n\r\n".encode()
EVENT = orjson.dumps({"user_id": "ana", "item_id": "hat-01", "kind": "view"})
Story = Callable[[int], Awaitable[None]]


def parts_of(client: Client, namespace: str, folder: Path) -> Parts:
    log, states, published = MemoryLog(), UserStates(client, namespace, lengths), releases(folder)
    for topic, partitions in topics(2).items():
        log.create_topic(topic, partitions)
    release = published.load(published.publish(two_tastes(), now_ms=NOW_MS))
    announce(log, release.version, NOW_MS)
    put(states, records({"ana": viewed("ana", "hat-01")}, release))
    return Parts(
        log,
        states,
        published,
        Border(KINDS),
        lambda: NOW_MS,
        catalogue=Catalogue(client, namespace),
        popularity=Popularity(client, namespace),
    )


def told(parts: Parts, story: Story, limits: Limits | None = None, *, within_s: float = 30.0) -> None:
    async def whole() -> None:
        async with serving(parts, limits, within_s=within_s) as port:
            await asyncio.wait_for(story(port), 30)
            assert (await ask(port, ANA)).status == 200  # whatever happened before

    in_the_servers_loop(whole())

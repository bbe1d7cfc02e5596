"""A server that starts during a swap, or hears of one late: it ends on the right release, or /readyz says why not."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.app import create_app
from serving.parts import Limits, Parts
from store.connection import Client
from store.releases import BadRelease, Release, Releases
from store.user_state import UserStates
from stream.announcements import announce
from stream.events import Border, item_key, kind_code
from stream.log import Entry, LogUnavailable
from stream.memory_log import MemoryLog
from stream.topics import RELEASES, topics
from tests.records import lengths, put
from tests.running import running, until
from tests.worlds import KINDS, NOW_MS, records, releases, two_tastes, viewed

SOON = Limits(retry_release_every_s=0.05)


class LateLog(MemoryLog):
    """A log whose topic of releases can be away or gone, and to whom something may happen as it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.while_read: Callable[[], None] = lambda: None
        for topic, partitions in topics(2).items():
            self.create_topic(topic, partitions)

    def end_offsets(self, topic: str) -> dict[int, int]:
        if self.is_away:
            raise LogUnavailable("away")
        ends = super().end_offsets(topic)
        if topic == RELEASES:
            self.while_read()
        return ends

    def ping(self) -> None:
        if self.is_away:
            raise LogUnavailable("away")

    def lose_releases(self) -> None:
        """The topic is gone, with all that was announced."""
        with self._changed:
            del self._topics[RELEASES]


class World:
    """Two releases, and a user who viewed a hat under the first."""

    def __init__(self, client: Client, namespace: str, folder: Path) -> None:
        self.log, self.folder, self.releases = LateLog(), folder, releases(folder)
        self.first, self.second = (self.releases.publish(two_tastes(seed), now_ms=NOW_MS + seed) for seed in range(2))
        states = UserStates(client, namespace, lengths)
        put(states, records({"ana": viewed("ana", "hat-01")}, self.releases.load(self.first)))
        self.parts = Parts(self.log, states, self.releases, Border(KINDS), lambda: NOW_MS)

    def run(self, story: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with running(create_app(self.parts, SOON)) as client:
                await story(client)

        asyncio.run(whole())


@pytest.fixture
def world(redis_client: Client, namespace: str, tmp_path: Path) -> World:
    return World(redis_client, namespace, tmp_path / "releases")


async def ready(client: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/readyz")).json()
    return found


async def is_on(client: httpx.AsyncClient, version: str) -> None:
    """Returns once the server answers from that release, and says so."""

    async def both() -> bool:
        said = await ready(client)
        answered = (await client.get("/v1/recommendations?user=ana")).json()
        return said["release"] == said["announced"] == answered["release"] == version and said["refused"] is None

    await until(both)


async def is_told(client: httpx.AsyncClient, *, release: str | None, refused: str, reason: str) -> None:
    """Returns once /readyz names the refused release and why, beside the one that is served."""

    async def so() -> bool:
        said = await ready(client)
        told = said["refused"] or {"version": None, "reason": ""}
        return (said["release"], said["announced"], told["version"]) == (release, refused, refused) and reason in told[
            "reason"
        ]

    await until(so)


def test_what_is_announced_between_the_first_look_and_the_following_is_not_missed(world: World) -> None:
    announce(world.log, world.first, NOW_MS)
    said: list[str] = []

    def announce_once() -> None:
        if not said:
            said.append(world.second)
            announce(world.log, world.second, NOW_MS)

    world.log.while_read = announce_once

    async def story(client: httpx.AsyncClient) -> None:
        await is_on(client, world.second)

    world.run(story)


def test_what_is_announced_while_the_first_release_is_loaded_is_taken_next(world: World) -> None:
    announce(world.log, world.first, NOW_MS)
    loaded: list[str] = []

    class Slow(Releases):
        def load(self, version: str, *, with_index: bool = True) -> Release:
            if not loaded:
                announce(world.log, world.second, NOW_MS)
            loaded.append(version)
            return super().load(version, with_index=with_index)

    world.parts = replace(world.parts, releases=Slow(world.folder, item_key, {kind: kind_code(kind) for kind in KINDS}))

    async def story(client: httpx.AsyncClient) -> None:
        await is_on(client, world.second)
        assert loaded == [world.first, world.second]

    world.run(story)


def test_the_log_is_away_at_the_start_and_the_release_is_found_once_it_is_back(world: World) -> None:
    announce(world.log, world.first, NOW_MS)
    world.log.is_away = True

    async def story(client: httpx.AsyncClient) -> None:
        response = await client.get("/readyz")
        assert (response.status_code, response.json()["release"]) == (503, None)
        assert "away" in response.json()["log"]
        assert (await client.get("/v1/recommendations?user=ana")).json()["source"] == "popular"
        world.log.is_away = False
        await is_on(client, world.first)

    world.run(story)


def test_announcements_while_the_log_is_away_are_heard_afterwards(world: World) -> None:
    announce(world.log, world.first, NOW_MS)

    async def story(client: httpx.AsyncClient) -> None:
        await is_on(client, world.first)
        world.log.is_away = True
        await asyncio.sleep(0.3)
        said = msgpack.packb((1, world.second, NOW_MS))
        world.log.append(RELEASES, [Entry(b"current", said, NOW_MS)])
        world.log.is_away = False
        await is_on(client, world.second)

    world.run(story)


def test_a_server_starts_without_a_topic_of_releases_and_follows_it_once_it_is_made(world: World) -> None:
    world.log.lose_releases()

    async def story(client: httpx.AsyncClient) -> None:
        assert (await ready(client))["release"] is None
        assert (await client.get("/v1/recommendations?user=ana")).status_code == 200
        world.log.create_topic(RELEASES, 1)
        announce(world.log, world.second, NOW_MS)
        await is_on(client, world.second)

    world.run(story)


def test_a_topic_made_again_is_read_again_even_if_it_is_as_long_as_the_one_before(world: World) -> None:
    announce(world.log, world.first, NOW_MS)

    async def story(client: httpx.AsyncClient) -> None:
        await is_on(client, world.first)
        world.log.lose_releases()
        await asyncio.sleep(0.5)  # it is missed in the meantime
        world.log.is_away = True
        world.log.create_topic(RELEASES, 1)
        world.log.append(RELEASES, [Entry(b"current", msgpack.packb((1, world.second, NOW_MS)), NOW_MS)])
        world.log.is_away = False
        await is_on(client, world.second)

    world.run(story)


def test_an_announcement_that_cannot_be_read_leaves_the_server_without_a_release_until_the_next(world: World) -> None:
    world.log.append(RELEASES, [Entry(b"current", b"\xc1", NOW_MS)])

    async def story(client: httpx.AsyncClient) -> None:
        assert (await ready(client))["release"] is None
        announce(world.log, world.second, NOW_MS)
        await is_on(client, world.second)

    world.run(story)


@pytest.mark.parametrize(
    "version", ["", "..", "../elsewhere", ".hidden", "a\0b", "x" * 300, "x" * 5000, "\ud800", "no-such"]
)
def test_a_version_that_no_folder_can_have_is_refused_and_told(world: World, version: str) -> None:
    announce(world.log, world.first, NOW_MS)

    async def story(client: httpx.AsyncClient) -> None:
        await is_on(client, world.first)
        said = msgpack.packb((1, version, NOW_MS), unicode_errors="surrogatepass")
        world.log.append(RELEASES, [Entry(b"current", said, NOW_MS)])
        if version == "\ud800":  # no announcement at all
            await asyncio.sleep(0.5)
            assert (await client.get("/readyz")).json()["announced"] == world.first
        else:
            await is_told(client, release=world.first, refused=version, reason="")
        announce(world.log, world.second, NOW_MS)
        await is_on(client, world.second)

    world.run(story)


def test_a_folder_that_is_gone_is_told_and_the_release_in_memory_goes_on_until_the_next(world: World) -> None:
    announce(world.log, world.first, NOW_MS)

    async def story(client: httpx.AsyncClient) -> None:
        await is_on(client, world.first)
        shutil.rmtree(world.folder / world.first)
        assert (await client.get("/v1/recommendations?user=ana")).json()["source"] == "personal"
        whole = shutil.move(world.folder / world.second, world.folder / ".moved")
        announce(world.log, world.second, NOW_MS)
        await is_told(client, release=world.first, refused=world.second, reason="there is no release")
        assert (await client.get("/v1/recommendations?user=ana")).json()["release"] == world.first
        announce(world.log, world.first, NOW_MS)  # the way back needs no folder: it is what is served
        await is_on(client, world.first)
        shutil.move(whole, world.folder / world.second)
        announce(world.log, world.second, NOW_MS)
        await is_on(client, world.second)

    world.run(story)


def test_a_server_that_starts_when_the_folder_is_gone_says_so_and_takes_what_is_announced_next(world: World) -> None:
    announce(world.log, world.first, NOW_MS)
    shutil.rmtree(world.folder / world.first)

    async def story(client: httpx.AsyncClient) -> None:
        await is_told(client, release=None, refused=world.first, reason="there is no release")
        answer = (await client.get("/v1/recommendations?user=ana")).json()
        assert (answer["source"], answer["release"], answer["degraded"]) == ("popular", None, False)
        announce(world.log, world.second, NOW_MS)
        await is_on(client, world.second)

    world.run(story)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers() | st.none(), max_size=2),
)  # fmt: skip
FIELDS = ["format", "version", "dim", "items", "created_ms", "encoder", "index", "about", "files"]


@settings(derandomize=True, max_examples=150, suppress_health_check=list(HealthCheck), database=None)
@given(
    field=st.sampled_from([*FIELDS, "encoder.kind_weights", "encoder.half_life_s", "index.kind", None]), value=VALUES
)
def test_any_description_is_loaded_or_refused_in_words(world: World, field: str | None, value: Any) -> None:
    """Whatever else were raised would end the thread that takes releases, and no other would ever be taken."""
    path = world.folder / world.first / "release.json"
    whole = path.read_text()
    described = json.loads(whole)
    inside, _, name = (field or "").rpartition(".")
    (described[inside] if inside else described)[name] = value
    path.write_text(json.dumps(described if field else value))
    try:
        with suppress(BadRelease):
            releases(world.folder).load(world.first)
    finally:
        path.write_text(whole)

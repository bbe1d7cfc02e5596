"""Releases change under requests in flight: every answer is of one release, whole, whatever the records are of."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.app import create_app
from serving.parts import Limits, Parts
from store.connection import Client
from store.gate_reports import GateReport, check
from store.releases import Release, Releases
from store.user_state import UserStates
from stream.announcements import announce
from stream.events import Border
from stream.memory_log import MemoryLog
from stream.topics import topics
from tests.records import lengths, put
from tests.running import running, until
from tests.worlds import KINDS, NOW_MS, expected_scores, item_ids, records, releases, two_tastes, viewed

USERS = 40


class World:
    """Two releases with different embeddings, and users whose records a consumer made under either or under none."""

    def __init__(self, client: Client, namespace: str, folder: Path) -> None:
        self.log = MemoryLog()
        for topic, partitions in topics(2).items():
            self.log.create_topic(topic, partitions)
        self.folder = folder
        self.releases: Releases = releases(folder)
        versions = [self.releases.publish(two_tastes(seed), now_ms=NOW_MS + seed) for seed in range(2)]
        self.loaded: dict[str, Release] = {version: self.releases.load(version) for version in versions}
        self.first, self.second = versions
        states = UserStates(client, namespace, lengths)
        rng = np.random.default_rng(3)
        self.items = {f"user-{i}": list(rng.choice(item_ids(), size=1 + i % 12)) for i in range(USERS)}
        for number, (user, items) in enumerate(self.items.items()):
            made_by = [self.loaded[self.first], self.loaded[self.second], None][number % 3]
            put(states, records({user: viewed(user, *items)}, made_by))
        self.parts = Parts(self.log, states, self.releases, Border(KINDS))

    def check(self, answer: dict[str, Any]) -> None:
        """The scores are those of the release that the answer names, for the user's timeline."""
        assert answer["source"] == "personal"
        release = self.loaded[answer["release"]]
        items = [item["item_id"] for item in answer["items"]]
        scores = [item["score"] for item in answer["items"]]
        assert len(items) == 20
        np.testing.assert_allclose(
            scores, expected_scores(release, self.items[answer["user"]], items), rtol=1e-4, atol=1e-5
        )


@pytest.fixture
def world(redis_client: Client, namespace: str, tmp_path: Path) -> World:
    return World(redis_client, namespace, tmp_path / "releases")


async def current(client: httpx.AsyncClient) -> str | None:
    version: str | None = (await client.get("/readyz")).json()["release"]
    return version


def test_the_two_releases_score_differently(world: World) -> None:
    first, second = (expected_scores(release, ["hat-01"], item_ids()) for release in world.loaded.values())
    assert np.abs(np.array(first) - second).min() > 1e-3


def test_no_answer_mixes_two_releases_while_they_are_swapped_under_load(world: World) -> None:
    async def story() -> None:
        announce(world.log, world.first, NOW_MS)
        answers: list[dict[str, Any]] = []
        stop = asyncio.Event()

        async def ask(client: httpx.AsyncClient, lane: int) -> None:
            number = lane
            while not stop.is_set():
                response = await client.get("/v1/recommendations", params={"user": f"user-{number % USERS}"})
                assert response.status_code == 200
                answers.append(response.json())
                number += 7

        async with running(create_app(world.parts)) as client:
            lanes = [asyncio.create_task(ask(client, lane)) for lane in range(24)]
            for turn in range(6):
                version = [world.second, world.first][turn % 2]
                announce(world.log, version, NOW_MS)

                async def is_current(version: str = version) -> bool:
                    return await current(client) == version

                await until(is_current)
            stop.set()
            await asyncio.gather(*lanes)
        assert {answer["release"] for answer in answers} == {world.first, world.second}
        for answer in answers:
            world.check(answer)

    asyncio.run(story())


def test_a_release_that_cannot_be_loaded_is_refused_and_the_old_one_stays_until_it_can(world: World) -> None:
    async def story() -> None:
        announce(world.log, world.first, NOW_MS)
        broken = world.folder / world.second / "output_embeddings.npy"
        whole = broken.read_bytes()
        broken.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        async with running(create_app(world.parts, Limits(retry_release_every_s=0.05))) as client:
            assert await current(client) == world.first
            announce(world.log, world.second, NOW_MS)

            async def is_refused() -> bool:
                return (await client.get("/readyz")).json()["refused"] is not None

            await until(is_refused)
            ready = await client.get("/readyz")
            assert ready.status_code == 200
            assert ready.json()["release"] == world.first
            assert ready.json()["refused"]["version"] == world.second
            assert "checksum" in ready.json()["refused"]["reason"]
            world.check((await client.get("/v1/recommendations?user=user-4")).json())
            assert "ledstream_swap_refused_total 1.0" in (await client.get("/metrics")).text
            broken.write_bytes(whole)

            async def is_taken() -> bool:
                return await current(client) == world.second

            await until(is_taken)
            assert (await client.get("/readyz")).json()["refused"] is None

    asyncio.run(story())


def test_a_folder_that_arrives_after_its_announcement_is_taken_when_it_is_there(world: World) -> None:
    async def story() -> None:
        shutil.move(world.folder / world.first, world.folder / ".late")
        announce(world.log, world.first, NOW_MS)
        async with running(create_app(world.parts, Limits(retry_release_every_s=0.05))) as client:
            ready = (await client.get("/readyz")).json()
            assert (ready["ready"], ready["release"], ready["refused"]["version"]) == (True, None, world.first)
            shutil.move(world.folder / ".late", world.folder / world.first)

            async def is_taken() -> bool:
                return await current(client) == world.first

            await until(is_taken)

    asyncio.run(story())


def test_activation_is_the_way_forward_and_back(world: World) -> None:
    async def story() -> None:
        async with running(create_app(world.parts)) as client:
            assert (await client.get("/readyz")).json()["release"] is None
            for version in (world.first, world.second, world.first):
                assert (await client.post(f"/v1/releases/{version}/activate")).status_code == 200

                async def is_current(version: str = version) -> bool:
                    return await current(client) == version

                await until(is_current)
                listed = (await client.get("/v1/releases")).json()
                assert listed["current"] == listed["announced"] == version
                assert [r["version"] for r in listed["releases"] if r["current"]] == [version]
                assert listed["releases"][0]["items"] == 60
            assert f'ledstream_release_info{{version="{world.first}"}} 1.0' in (await client.get("/metrics")).text

            unknown = await client.post("/v1/releases/nothing/activate")
            assert (unknown.status_code, unknown.json()["error"]["field"]) == (404, "version")
            (world.folder / world.second / "biases.npy").unlink()
            bad = await client.post(f"/v1/releases/{world.second}/activate")
            assert bad.status_code == 409
            assert "biases.npy is missing" in bad.json()["error"]["reason"]
            (world.folder / world.second / "release.json").write_text("{")
            assert "cannot be read" in (await client.get("/v1/releases")).json()["releases"][1]["problem"]

    asyncio.run(story())


def test_what_the_gate_refused_is_activated_only_if_forced_and_shown_with_its_figures(world: World) -> None:
    refused = [check("replay", False, "recall@20 on the last hour 0.113, champion 0.159", 0.113, 0.157)]
    world.releases.reports.keep(GateReport(world.second, world.first, refused, NOW_MS, 12))

    async def story() -> None:
        async with running(create_app(world.parts)) as client:
            answer = await client.post(f"/v1/releases/{world.second}/activate")
            assert answer.status_code == 409
            assert "refused: recall@20 on the last hour 0.113" in answer.json()["error"]["reason"]
            first, second = (await client.get("/v1/releases")).json()["releases"]
            assert first["gate"] is None
            assert second["gate"]["passed"] is False
            assert second["gate"]["checks"][0]["figure"] == 0.113
            assert (await client.post(f"/v1/releases/{world.first}/activate")).status_code == 200
            assert (await client.post(f"/v1/releases/{world.second}/activate?force=true")).status_code == 200
            (world.folder / f"{world.second}.gate.json").write_text("{")
            assert "cannot be read" in (await client.get("/v1/releases")).json()["releases"][1]["problem"]

    asyncio.run(story())

"""A canary over HTTP: who gets it, what is told of it, and what its failures cost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.app import create_app
from serving.parts import Limits, Parts
from store.connection import Client
from store.tallies import Tallies
from store.user_state import UserStates
from stream.announcements import announce, announce_canary, promote, withdraw
from stream.events import Border
from stream.memory_log import MemoryLog
from stream.topics import topics
from tests.records import lengths, put
from tests.running import running, until
from tests.worlds import KINDS, NOW_MS, expected_scores, records, releases, two_tastes, viewed

USERS = [f"user-{number}" for number in range(60)]


class World:
    """Users encoded under the first of two releases, which is current."""

    def __init__(self, client: Client, namespace: str, folder: Path) -> None:
        self.log, self.folder = MemoryLog(), folder
        for topic, partitions in topics(1).items():
            self.log.create_topic(topic, partitions)
        self.releases, self.tallies = releases(folder), Tallies(client, namespace)
        self.first, self.second = (self.releases.publish(two_tastes(seed), now_ms=NOW_MS + seed) for seed in range(2))
        states = UserStates(client, namespace, lengths)
        put(states, records({user: viewed(user, "hat-01", "hat-02") for user in USERS}, self.releases.load(self.first)))
        announce(self.log, self.first, NOW_MS)
        border = Border(KINDS)
        self.parts = Parts(self.log, states, self.releases, border, lambda: NOW_MS, tallies=self.tallies)

    async def answers(self, client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
        """One to each user, at once; every score is checked against the release that it names."""
        asked = await asyncio.gather(*(client.get(f"/v1/recommendations?user={user}") for user in USERS))
        assert {response.status_code for response in asked} == {200}
        answers = {response.json()["user"]: response.json() for response in asked}
        for answer in answers.values():
            ids, scores = zip(*((item["item_id"], item["score"]) for item in answer["items"]), strict=True)
            expected = expected_scores(self.releases.load(answer["release"]), ["hat-01", "hat-02"], ids)
            np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=2e-3)
        return answers


@pytest.fixture
def world(redis_client: Client, namespace: str, tmp_path: Path) -> World:
    return World(redis_client, namespace, tmp_path)


async def canary_is(client: httpx.AsyncClient, version: str | None) -> None:
    async def is_so() -> bool:
        return bool((await client.get("/readyz")).json()["canary"] == version)

    await until(is_so)


def test_a_share_of_the_users_is_answered_from_the_canary_and_everybody_once_it_is_promoted(world: World) -> None:
    async def story() -> None:
        async with running(create_app(world.parts)) as client:
            trial = announce_canary(world.log, world.second, 0.4, NOW_MS, 600)
            await canary_is(client, world.second)
            answers = await world.answers(client)
            tried = {user for user in USERS if trial.is_tried_on(user)}
            assert 10 < len(tried) < 40
            assert {user for user, answer in answers.items() if answer["release"] == world.second} == tried
            assert (await client.get("/readyz")).json()["canary_share"] == 0.4
            nobody = await client.get("/v1/items/hat-01/similar")
            assert nobody.json()["release"] == world.first

            async def is_counted() -> bool:
                tally = world.tallies.read(trial.trial)
                return tally.calls("champion") > 0 < tally.calls("canary")

            await until(is_counted)
            promote(world.log, NOW_MS)
            await canary_is(client, None)
            assert {answer["release"] for answer in (await world.answers(client)).values()} == {world.second}
            assert world.tallies.read(trial.trial).counts["canary:errors"] == 0

    asyncio.run(story())


def test_a_canary_that_cannot_be_loaded_is_told_and_costs_nobody_an_answer(world: World) -> None:
    async def story() -> None:
        (world.folder / world.second / "biases.npy").unlink()
        async with running(create_app(world.parts, Limits(retry_release_every_s=0.05))) as client:
            announce_canary(world.log, world.second, 0.4, NOW_MS, 600)

            async def is_refused() -> bool:
                return (await client.get("/readyz")).json()["canary_refused"] is not None

            await until(is_refused)
            ready = (await client.get("/readyz")).json()
            assert (ready["ready"], ready["release"], ready["refused"], ready["canary"]) == (
                True,
                world.first,
                None,
                None,
            )
            assert "biases.npy is missing" in ready["canary_refused"]["reason"]
            assert {answer["release"] for answer in (await world.answers(client)).values()} == {world.first}
            withdraw(world.log, NOW_MS)

            async def is_forgotten() -> bool:
                return (await client.get("/readyz")).json()["canary_refused"] is None

            await until(is_forgotten)

    asyncio.run(story())

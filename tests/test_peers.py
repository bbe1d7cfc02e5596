"""What `python -m bench.peers` rests on: calls shared by requests that wait, and whose answers are right."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.peer_http import Ranked, Waiting
from bench.peer_load import als_scores, led_scores
from bench.peer_processes import make_world
from bench.peer_world import World


class Counting:
    """A peer that recommends to each user the user's own name, and notes how many a call was for."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def answer(self, users: Sequence[str]) -> list[Ranked]:
        self.calls.append(len(users))
        if "nobody" in users:
            raise LookupError("nobody")
        return [Ranked([user], [1.0]) for user in users]

    def saw(self, user: str, item_id: str) -> None:
        """Nothing changes."""


def test_requests_that_wait_share_a_call_and_each_gets_its_own_answer() -> None:
    async def ask(at_once: int) -> list[int]:
        peer = Counting()
        waiting = Waiting(peer, threads=1, at_once=at_once)
        users = [f"user-{number}" for number in range(10)]
        answers = await asyncio.gather(*(waiting.ask(user) for user in users))
        assert [answer.item_ids for answer in answers] == [[user] for user in users]
        return peer.calls

    assert asyncio.run(ask(1)) == [1] * 10
    assert asyncio.run(ask(8)) == [8, 2]


def test_a_call_that_fails_fails_those_it_was_for_and_nobody_after() -> None:
    async def ask() -> list[Ranked | BaseException]:
        waiting = Waiting(Counting(), threads=1, at_once=1)
        return await asyncio.gather(*map(waiting.ask, ["ana", "nobody", "ben"]), return_exceptions=True)

    ana, nobody, ben = asyncio.run(ask())
    assert isinstance(nobody, LookupError)
    assert (ana, ben) == (Ranked(["ana"], [1.0]), Ranked(["ben"], [1.0]))


def test_every_peer_reads_the_world_that_was_made(tmp_path: Path) -> None:
    made, world = make_world(items=1000, dim=8, users=30, seed=1)
    world.save(tmp_path)
    read = World.load(tmp_path)
    assert read.users == 30
    assert read.item_ids.tolist() == list(made.item_ids)
    assert all((read.timeline(user) == world.timeline(user)).all() for user in range(30))


def test_what_belongs_on_top_is_recomputed_the_slow_way() -> None:
    _, world = make_world(items=300, dim=8, users=3, seed=1)
    seen = np.array([5, 9, 5])
    mean = (2 * world.inputs[5] + world.inputs[9]) / 3
    assert np.allclose(led_scores(world)(seen), world.outputs @ mean + world.biases, atol=1e-5)
    confidence = np.ones(300)
    confidence[5] = 2
    wanted = np.isin(np.arange(300), seen)
    factors = world.outputs.astype(np.float64)
    user = np.linalg.solve(
        factors.T @ (confidence[:, None] * factors) + 0.01 * np.eye(8), factors.T @ (confidence * wanted)
    )
    assert np.allclose(als_scores(world)(seen), factors @ user, atol=1e-5)

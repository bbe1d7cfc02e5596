"""`implicit` as a server: its ALS model, users recalculated at each request from their items in a Redis list.

    PEER_FOLDER=… PEER_STORE=redis://… python -m bench.peer_implicit     # fills the store; uvicorn then serves `create`

An event is one LPUSH, so the next request knows of it. The item factors are the world's output embeddings instead of
trained ones: what is compared is serving. ALS has no biases; its scores are its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import redis
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from bench.peer_http import Application, Ranked
from bench.peer_world import LONGEST, USERS_AT_ONCE, World, user_id

K = 20
IDLE_AFTER_S = 30 * 86400


class ImplicitPeer:
    """Exact search by `recommend(recalculate_user=True)`, for one user or for many in one call."""

    def __init__(self, world: World, store: redis.Redis) -> None:
        self._store, self._item_ids = store, world.item_ids.tolist()
        self._rows = {item: row for row, item in enumerate(self._item_ids)}
        # With more threads inside a call, its default, a user cost twice the time: they wait for each other.
        self._model = AlternatingLeastSquares(factors=world.outputs.shape[1], num_threads=1)
        self._model.item_factors = world.outputs

    def answer(self, users: Sequence[str]) -> list[Ranked]:
        with self._store.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.lrange(_key(user), 0, -1)
            found = pipe.execute()
        seen = np.array([item for items in found for item in items], dtype=np.int32)
        ends = np.cumsum([0, *map(len, found)], dtype=np.int32)
        liked = csr_matrix((np.ones(len(seen), np.float32), seen, ends), shape=(len(users), len(self._item_ids)))
        liked.sum_duplicates()  # seen twice is twice the confidence
        rows, scores = self._model.recommend(
            np.arange(len(users)), liked, N=K, filter_already_liked_items=True, recalculate_user=True
        )
        ids = self._item_ids
        pairs = zip(rows.tolist(), scores.tolist(), strict=True)
        return [Ranked([ids[row] for row in of_user], scored) for of_user, scored in pairs]

    def saw(self, user: str, item_id: str) -> None:
        self.saw_many({user: [self._rows[item_id]]})

    def saw_many(self, seen: dict[str, list[int]]) -> None:
        with self._store.pipeline(transaction=False) as pipe:
            for user, rows in seen.items():
                pipe.lpush(_key(user), *rows)
                pipe.ltrim(_key(user), 0, LONGEST - 1)
                pipe.expire(_key(user), IDLE_AFTER_S)
            pipe.execute()


def create() -> Application:
    """PEER_AT_ONCE: most requests to a call."""
    return Application(_peer(), at_once=int(os.environ["PEER_AT_ONCE"]))


def main() -> None:
    world = World.load(Path(os.environ["PEER_FOLDER"]))
    peer = _peer()
    for first in range(0, world.users, USERS_AT_ONCE):
        some = range(first, min(world.users, first + USERS_AT_ONCE))
        peer.saw_many({user_id(number): world.timeline(number).tolist() for number in some})


def _peer() -> ImplicitPeer:
    world = World.load(Path(os.environ["PEER_FOLDER"]))
    return ImplicitPeer(world, redis.Redis.from_url(os.environ["PEER_STORE"]))


def _key(user: str) -> str:
    return f"items:{user}"


if __name__ == "__main__":
    main()

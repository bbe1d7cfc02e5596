"""Feast, Redis and faiss, glued as a team would: user features in Feast's online store, items in a faiss index.

    PEER_FOLDER=… PEER_STORE=redis://… python -m bench.peer_feast     # fills the store; uvicorn then serves `create`

The features of a user are the vector (the same mean as ours) and the newest items. A request asks Feast for both,
faiss for the best items and leaves out those seen. An event reads the items, takes the mean again and pushes both.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import faiss
import numpy as np
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
from feast.data_source import PushMode
from feast.repo_config import RegistryConfig
from feast.types import Array, Float32, Int64

from bench.peer_http import Application, Ranked
from bench.peer_world import F32, I64, LONGEST, USERS_AT_ONCE, World, user_id

K = 20
MIN_RECALL = 0.95
SAMPLE = 500
IDLE_AFTER = timedelta(days=30)
FEATURES = ["taste:vector", "taste:recent"]


class FeastPeer:
    """`get_online_features` for one user or many, one faiss search for them, seen items left out afterwards."""

    def __init__(self, world: World, store: FeatureStore, index: Any) -> None:
        self._world, self._store, self._index = world, store, index
        self._item_ids = world.item_ids.tolist()
        self._rows = {item: row for row, item in enumerate(self._item_ids)}

    def answer(self, users: Sequence[str]) -> list[Ranked]:
        found = self._features(users)
        nobody = [0.0] * self._world.inputs.shape[1]
        vectors = np.array([vector or nobody for vector in found["vector"]], np.float32)
        recent = [set(rows or ()) for rows in found["recent"]]
        ones = np.ones((len(users), 1), np.float32)
        scores, rows = self._index.search(np.hstack([vectors, ones]), K + max(map(len, recent)))
        answers = []
        for seen, of_user, scored in zip(recent, rows.tolist(), scores.tolist(), strict=True):
            pairs = [(row, score) for row, score in zip(of_user, scored, strict=True) if row >= 0 and row not in seen]
            answers.append(Ranked([self._item_ids[row] for row, _ in pairs[:K]], [score for _, score in pairs[:K]]))
        return answers

    def saw(self, user: str, item_id: str) -> None:
        (recent,) = self._features([user])["recent"]
        rows = np.array([*(recent or ()), self._rows[item_id]][-LONGEST:])
        self._store.push("events", _frame(self._world, {user: rows}), to=PushMode.ONLINE)

    def _features(self, users: Sequence[str]) -> dict[str, list[Any]]:
        rows = [{"user_id": user} for user in users]
        found: dict[str, list[Any]] = self._store.get_online_features(features=FEATURES, entity_rows=rows).to_dict()
        return found


def create() -> Application:
    """PEER_AT_ONCE: most requests to a call."""
    folder, at_once = Path(os.environ["PEER_FOLDER"]), int(os.environ["PEER_AT_ONCE"])
    faiss.omp_set_num_threads(1)
    peer = FeastPeer(World.load(folder), _feature_store(folder), faiss.read_index(str(folder / "items.faiss")))
    return Application(peer, at_once=at_once)


def main() -> None:
    folder = Path(os.environ["PEER_FOLDER"])
    world, store = World.load(folder), _feature_store(folder)
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    archive = FileSource(name="archive", path=str(folder / "taste.parquet"), timestamp_field="event_timestamp")
    schema = [Field(name="vector", dtype=Array(Float32)), Field(name="recent", dtype=Array(Int64))]
    source = PushSource(name="events", batch_source=archive)
    store.apply([user, FeatureView(name="taste", entities=[user], schema=schema, source=source, ttl=IDLE_AFTER)])
    for first in range(0, world.users, USERS_AT_ONCE):
        some = range(first, min(world.users, first + USERS_AT_ONCE))
        store.push("events", _frame(world, {user_id(number): world.timeline(number) for number in some}))
    sample = np.stack([world.inputs[world.timeline(number)].mean(axis=0) for number in range(SAMPLE)])
    faiss.write_index(_index(world, sample), str(folder / "items.faiss"))


def _feature_store(folder: Path) -> FeatureStore:
    address = urlsplit(os.environ["PEER_STORE"])
    ttl_s = int(IDLE_AFTER.total_seconds())
    return FeatureStore(
        config=RepoConfig(
            project="peers",
            provider="local",
            # Refreshed beside the requests, not within one.
            registry=RegistryConfig(path=str(folder / "registry.db"), cache_ttl_seconds=60, cache_mode="thread"),
            online_store={
                "type": "redis",
                "connection_string": f"{address.hostname}:{address.port}",
                "key_ttl_seconds": ttl_s,
            },
            entity_key_serialization_version=3,
        )
    )


def _frame(world: World, timelines: Mapping[str, I64]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": list(timelines),
            "vector": [world.inputs[rows].mean(axis=0) for rows in timelines.values()],
            "recent": list(timelines.values()),
            "event_timestamp": datetime.now(UTC),
        }
    )


def _index(world: World, sample: F32) -> Any:
    """Inverted lists, as many of them read as recall@20 on users takes to pass the gate that our releases pass."""
    items = np.hstack([world.outputs, world.biases[:, None]])
    queries = np.hstack([sample, np.ones((len(sample), 1), np.float32)])
    exact = faiss.IndexFlatIP(items.shape[1])
    exact.add(items)
    best = exact.search(queries, K)[1]
    lists = 2 * math.isqrt(len(items))
    index: Any = faiss.index_factory(items.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(items)
    index.add(items)
    for probes in range(1, lists + 1):
        index.nprobe = probes
        found = index.search(queries, K)[1]
        if np.mean([np.isin(mine, theirs).mean() for mine, theirs in zip(found, best, strict=True)]) >= MIN_RECALL:
            break
    return index


if __name__ == "__main__":
    main()

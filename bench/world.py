"""A seeded world to measure on: items in clusters with uneven lengths, users with Zipf-like activity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from led.encoder import F32, I64
from store.embedded import EmbeddedStore
from store.releases import Model
from stream.events import Event
from tests.servers import KafkaServer


def model(items: int, dim: int, seed: int) -> Model:
    """Items of clusters (one per 500), lengths log-normal as learned tables have them, popularity Zipf."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(items // 500, 2), dim)).astype(np.float32)
    cluster = rng.integers(len(centres), size=items)
    embeddings: F32 = centres[cluster]
    embeddings = embeddings + 0.7 * rng.normal(size=(items, dim)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    popularity = 1e6 / (1.0 + rng.permutation(items))
    lengths = np.exp(0.25 * rng.normal(size=items))[:, None]
    by_cluster = np.argsort(cluster, kind="stable")
    sample = np.stack([embeddings[by_cluster[_history(rng, items)]].mean(axis=0) for _ in range(1000)])
    return Model(
        item_ids=[item_id(row) for row in range(items)],
        input_embeddings=embeddings.astype(np.float32),
        output_embeddings=(embeddings * lengths).astype(np.float32),
        biases=(0.02 * np.log(popularity / popularity.sum())).astype(np.float32),
        popularity=popularity.astype(np.float32),
        kind_weights={"view": 1.0, "click": 1.0, "sale": 1.0},
        sample_vectors=sample.astype(np.float32),
        about={"world": {"items": items, "dim": dim, "seed": seed}},
    )


def events(count: int, *, users: int, items: int, seed: int, start_ms: int) -> Iterator[Event]:
    """Events a millisecond apart; activity of users and of items falls off as a power of their rank."""
    rng = np.random.default_rng(seed)
    for first in range(0, count, 100_000):
        size = min(100_000, count - first)
        who = (users * rng.random(size) ** 3).astype(np.int64)
        what = (items * rng.random(size) ** 2).astype(np.int64)
        kinds = np.array(["view", "click", "sale"])[np.searchsorted([0.85, 0.98], rng.random(size))]
        for place, (user, item, kind) in enumerate(zip(who, what, kinds, strict=True), first):
            yield Event(f"user-{user}", item_id(int(item)), str(kind), start_ms + place, f"{seed:x}-{place:x}")


def item_id(row: int) -> str:
    return f"item-{row:07d}"


@contextmanager
def servers(*, kafka: bool) -> Iterator[tuple[str, str, Path]]:
    """A fresh Valkey and, if asked for, Kafka: their addresses (log, store), and a folder; all gone afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ledstream-bench-")))
        store = stack.enter_context(EmbeddedStore(folder))
        log = store.address
        if kafka:
            broker = KafkaServer(folder / "kafka")
            broker.start()
            stack.callback(broker.stop)
            log = f"kafka://{broker.bootstrap}"
        yield log, store.address, folder


def _history(rng: np.random.Generator, items: int) -> I64:
    """A user's items by their place in the order of clusters: one to three tastes, one to twenty items."""
    tastes = rng.integers(items, size=int(rng.integers(1, 4)))
    chosen = rng.choice(tastes, size=int(rng.integers(1, 21)))
    return np.asarray(np.clip(chosen + rng.integers(-200, 200, size=len(chosen)), 0, items - 1), dtype=np.int64)

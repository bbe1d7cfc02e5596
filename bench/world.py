"""A seeded world to measure on: items in clusters with uneven lengths, users with Zipf-like activity."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from led.encoder import F32, I64
from ledstream import parts
from ledstream.own_system import free_port
from ledstream.settings import Settings, read_settings
from store.embedded import EmbeddedStore
from store.releases import DESCRIPTION, U64, Model, Release
from store.user_record import TIMELINE, Applied, Timeline, UserRecord, encode_record, source_of
from store.user_state import NOTHING, UserStates, encode_timelines
from stream.announcements import announce
from stream.events import Event, item_key, kind_code
from stream.topics import EVENTS
from tests.servers import KafkaServer, free_ports


def model(items: int, dim: int, seed: int) -> Model:
    """Items around centres (one per 500), lengths log-normal as learned tables have them, popularity Zipf.

    Centres are normal; an item is its centre with normal noise of .7 of its spread, made as long as 1: cosine to the
    centre .82 on average, .67 between two items of it. Lengths of outputs: exp(.25 N(0, 1)). Biases: .02 of the log of
    the share of events. Sample vectors: users of up to 99 events, others than `histories` gives to 100.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(_clusters(items), dim)).astype(np.float32)
    embeddings: F32 = centres[_cluster_of(items, seed)]
    embeddings = embeddings + 0.7 * rng.normal(size=(items, dim)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    popularity = 1e6 / (1.0 + rng.permutation(items))
    lengths = np.exp(0.25 * rng.normal(size=items))[:, None]
    sample = np.stack([embeddings[rows].mean(axis=0) for rows in histories(1000, items, 99, seed)])
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


def published_often(settings: Settings, items: int, dim: int, seed: int, times: int) -> list[str]:
    """Versions of so many releases, two models in turn that score differently; the first one is announced.

    All but the first two are copies under names of their own: files that no process has seen.
    """
    releases, now_ms = parts.releases(settings), int(time.time() * 1000)
    versions = [releases.publish(model(items, dim, seed + turn), now_ms=now_ms + turn) for turn in range(2)]
    for turn in range(2, times):
        versions.append(copied(settings, versions[turn % 2], f"{turn:02}"))
    os.sync()
    log = parts.open_log(settings)
    announce(log, versions[0], now_ms)
    log.close()
    return versions


def copied(settings: Settings, version: str, suffix: str) -> str:
    """The version of a copy of the release: files of its own, which no process has seen."""
    copy = f"{version}-{suffix}"
    shutil.copytree(settings.releases_dir / version, settings.releases_dir / copy)
    description = settings.releases_dir / copy / DESCRIPTION
    description.write_text(description.read_text().replace(version, copy))
    return copy


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
def servers(*, kafka: bool, tcp: bool = False) -> Iterator[tuple[str, str, Path]]:
    """A fresh Valkey and, if asked for, Kafka: their addresses (log, store), and a folder; all gone afterwards.

    tcp: Valkey is spoken to over TCP, as one on another machine would be.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ledstream-bench-")))
        # Not in the data folder of a system on top: `ledstream up` ends a store that it finds there as an orphan.
        (port,) = free_ports(1)
        extra = ("--port", str(port), "--bind", "127.0.0.1") if tcp else ()
        address = stack.enter_context(EmbeddedStore(folder / "servers", extra=extra)).address
        address = f"redis://127.0.0.1:{port}/0" if tcp else address
        log = address
        if kafka:
            broker = KafkaServer(folder / "kafka")
            broker.start()
            stack.callback(broker.stop)
            log = f"kafka://{broker.bootstrap}"
        (folder / "data").mkdir()
        yield log, address, folder / "data"


@contextmanager
def announced(chosen: argparse.Namespace) -> Iterator[tuple[Settings, Release, UserStates, list[int]]]:
    """An empty store, a release announced, and the log's partitions by number. chosen: items, dim, workers, seed."""
    with servers(kafka=False) as (log_address, store, folder):
        flags = {"log": log_address, "store": store, "data_dir": folder, "workers": chosen.workers}
        settings = read_settings({}, flags | {"port": free_port("127.0.0.1", 0)})
        releases, now_ms = parts.releases(settings), int(time.time() * 1000)
        version = releases.publish(model(chosen.items, chosen.dim, chosen.seed), now_ms=now_ms)
        log = parts.open_log(settings)
        announce(log, version, now_ms)
        sources = [source_of(log.identity(EVENTS), number) for number in range(settings.partitions)]
        log.close()
        yield settings, releases.load(version), parts.user_states(settings, parts.open_store(settings)), sources


def histories(users: int, items: int, longest: int, seed: int) -> Iterator[I64]:
    """Rows of each user's items: one to three tastes (a stretch of a cluster each), one to `longest` events."""
    by_cluster = np.argsort(_cluster_of(items, seed), kind="stable")
    rng = np.random.default_rng((seed, longest))
    for _ in range(users):
        tastes = rng.integers(items, size=int(rng.integers(1, 4)))
        chosen = rng.choice(tastes, size=int(rng.integers(1, longest + 1)))
        yield by_cluster[np.clip(chosen + rng.integers(-200, 200, size=len(chosen)), 0, items - 1)]


def fill(states: UserStates, release: Release, timelines: Mapping[str, Timeline], log_identity: int) -> None:
    """Records of these users, as the consumer would have made them under the release, before the log's first event."""
    sums = encode_timelines(list(timelines.values()), release)
    before = Applied(source_of(log_identity, 0), -1)
    records = []
    for place, timeline in enumerate(timelines.values()):
        moving = (float(sums.weights[place]), int(sums.at_ms[place]), float(sums.masses[place]))
        record = UserRecord(before, timeline, len(timeline), release.key, sums.totals[place], *moving)
        records.append(encode_record(record))
    refused = states.replace(states.keys(list(timelines)), [NOTHING] * len(records), records)
    assert not refused, "the store held these users already"


def timeline_of(rows: I64, keys: U64, first_ms: int) -> Timeline:
    """A timeline of views a second apart; keys: of all items, by row."""
    timeline = np.zeros(len(rows), TIMELINE)
    timeline["item"], timeline["kind"] = keys[rows], kind_code("view")
    timeline["time_ms"] = first_ms + 1000 * np.arange(len(rows))
    return timeline


def item_keys(items: int) -> U64:
    """Keys of all items, by row of `model`."""
    return np.fromiter((item_key(item_id(row)) for row in range(items)), np.uint64, items)


def _cluster_of(items: int, seed: int) -> I64:
    return np.random.default_rng((seed, 0)).integers(_clusters(items), size=items)


def _clusters(items: int) -> int:
    return max(items // 500, 2)

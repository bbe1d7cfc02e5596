"""A shop for the console to look at: users, three releases, trouble, and a consumer that applies events."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from consumers.catalogue import CatalogueConsumer
from consumers.popularity import Counting
from consumers.timelines import TimelineConsumer
from ledstream.canary_command import status
from ledstream.pulse import Pulse
from serving.collector.origins import Origins
from serving.collector.paths import Door
from serving.collector.sites import Sites
from serving.parts import Erasures, Limits, Parts, wall_clock_ms
from store.catalogue import Catalogue
from store.connection import Client, connect
from store.erased_users import ErasedUsers
from store.erasure_key import erasure_key
from store.gate_reports import GateReport, check
from store.heartbeats import Heartbeats
from store.popularity import Popularity
from store.releases import Model, Releases
from store.tallies import Tallies
from store.tombstones import Tombstones
from store.user_state import UserStates
from stream.announcements import announce
from stream.current import CurrentRelease
from stream.dead_letters import DeadLetter, bury
from stream.events import Border
from stream.items import ItemsDecoder
from stream.log import Log
from stream.loop import Loop, Progress
from stream.memory_log import MemoryLog
from stream.topics import EVENTS, ITEMS, topics
from tests.records import lengths
from tests.wire import in_the_servers_loop, serving
from tests.worlds import KINDS, item_ids, releases, two_tastes
from training.curves import Curve

ANA = ("hat-01", "hat-04", "hat-09", "belt-03", "hat-12", "hat-17", "belt-08", "hat-21")
LOSS = Curve("training loss", "epoch", list(range(13)), [4.2 * 0.9**n + 1.1 for n in range(13)])
NDCG = Curve("validation ndcg@100", "epoch", LOSS.numbers[::2], [0.16 - 0.05 * 0.8**n for n in LOSS.numbers[::2]], 10)


@dataclass
class Console:
    """Where the server is, what it keeps, and its releases, oldest first."""

    address: str
    log: Log
    versions: list[str]
    key: str

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The answer to a request with the admin key."""
        answer = httpx.request(method, self.address + path, headers={"x-ledstream-key": self.key}, **more)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def view(self, user: str, *items: str, kind: str = "view") -> None:
        """One event of each item, a minute apart, the last one now."""
        now_ms = wall_clock_ms()
        times = [now_ms - 60_000 * (len(items) - 1 - place) for place in range(len(items))]
        events = [
            {"user_id": user, "item_id": one, "kind": kind, "time_ms": at} for one, at in zip(items, times, strict=True)
        ]
        self.ask("POST", "/v1/events", json=events)


@contextmanager
def console(redis_address: str, namespace: str, folder: Path, *, admin_key: str = "") -> Iterator[Console]:
    """The whole of it, gone when this is left."""
    found: Future[int] = Future()
    stop = threading.Event()
    with connect(redis_address) as client:
        parts = _parts(client, namespace, folder)

        async def serve() -> None:
            async with serving(
                parts, Limits(probe_every_s=0.2), door=Door(Sites.of("", admin_key, is_local=True), Origins.of(""))
            ) as port:
                found.set_result(port)
                await asyncio.to_thread(stop.wait)

        threads = [
            threading.Thread(target=lambda: in_the_servers_loop(serve())),
            threading.Thread(target=_consume, args=(parts, client, namespace, stop)),
            threading.Thread(target=_stock, args=(parts, client, namespace, stop)),
        ]
        for thread in threads:
            thread.start()
        try:
            made = Console(f"http://127.0.0.1:{found.result(30)}", parts.log, parts.releases.versions(), admin_key)
            _fill(made)
            yield made
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _parts(client: Client, namespace: str, folder: Path) -> Parts:
    log, published, now_ms = MemoryLog(), releases(folder), wall_clock_ms()
    for topic, partitions in topics(2).items():
        log.create_topic(topic, partitions)
    _publish(published, now_ms)
    for later, version in enumerate(published.versions()[:2]):
        announce(log, version, now_ms + later)
    tallies, states = Tallies(client, namespace), UserStates(client, namespace, lengths)
    tombstones = Tombstones([folder], erasure_key("", folder))
    return Parts(
        log,
        states,
        published,
        Border(KINDS),
        heartbeats=Heartbeats(client, namespace),
        tallies=tallies,
        erasures=Erasures(tombstones, ErasedUsers(client, namespace, states, idle_after_s=3600)),
        catalogue=Catalogue(client, namespace),
        popularity=Popularity(client, namespace),
        trial=lambda: status(log, tallies, wall_clock_ms()),
    )


def _publish(published: Releases, now_ms: int) -> None:
    """An hour apart: two closed forms, and a fine-tuned one that the gate refuses."""
    finetuning = {"best_epoch": 10, "ndcg": 0.155}
    story = {
        "curves": [asdict(LOSS), asdict(NDCG)],
        "about": {"finetuning": finetuning},
        "cpu_seconds": 32.5,
        "peak_mb": 410,
    }
    tuned = replace(two_tastes(2), attachments={"training.json": json.dumps(story).encode()})
    before = None
    for place, model in enumerate((two_tastes(0), two_tastes(1), tuned)):
        version = published.publish(_told(model, place), now_ms=now_ms - (3 - place) * 3_600_000)
        recall = 0.31 - place / 100
        says = f"recall@20 .{31 - place}, champion .31"
        checks = [
            check("files", True, "format, checksums and shapes are as described"),
            check("index recall", True, f"the index finds .99{place} of the best 20", 0.99 + place / 1000, 0.9),
            check("recall of the newest events", place < 2, says, recall, 0.295),
        ]
        published.reports.keep(GateReport(version, before, checks, now_ms, 240))
        before = version


def _told(model: Model, place: int) -> Model:
    about = {
        "events": 41_000 + 900 * place,
        "users": 3_100 + 40 * place,
        "bias": 0.05,
        "spectral": {"dim": 8, "a": 0.4, "p": 0.5},
    }
    return replace(
        model, about={**about, "validation": {"view": {"ndcg": 0.12 + place / 100, "recall": 0.3 + place / 90}}}
    )


def _consume(parts: Parts, client: Client, namespace: str, stop: threading.Event) -> None:
    """As `ledstream consume timelines` does."""
    current = CurrentRelease(parts.log, lambda version: parts.releases.load(version, with_index=False))
    current.start()
    handler = TimelineConsumer(parts.states, current.get, parts.log.identity(EVENTS), max_events=50)
    identity = parts.log.identity(EVENTS)
    counting = Counting(handler, Popularity(client, namespace), identity, time.monotonic, flush_every_s=0.2)
    beats = Heartbeats(client, namespace)
    with Pulse(beats, "timelines") as timelines, Pulse(beats, "archive") as archive:

        def tick(progress: Progress) -> None:
            timelines.show(progress)
            archive.show(progress)

        Loop(parts.log, EVENTS, "timelines", counting, poll_timeout_s=0.02, on_tick=tick).run(stop)
    current.stop()


def _stock(parts: Parts, client: Client, namespace: str, stop: threading.Event) -> None:
    """As `ledstream consume catalogue` does."""
    handler = CatalogueConsumer(Catalogue(client, namespace), parts.log.identity(ITEMS))
    with Pulse(Heartbeats(client, namespace), "catalogue") as pulse:
        loop = Loop(parts.log, ITEMS, "catalogue", handler, decoder=ItemsDecoder(), on_tick=pulse.show)
        loop.run(stop)


def _fill(world: Console) -> None:
    named = [(item, *item.split("-")) for item in item_ids()]
    priced = {"price": 29.9, "currency": "EUR", "stock": 7, "image": "/console/icon.svg"}
    items = [
        {"item_id": i, "title": f"{taste.title()} number {n}", "category": f"{taste}s", **priced}
        for i, taste, n in named
    ]
    world.ask("PUT", "/v1/items", json={"items": items})
    world.view("ana", *ANA)
    world.view("ben", "belt-01", "belt-02", "hat-05")
    world.view("ana", "hat-21", kind="click")
    wrong = {"user_id": "eve", "item_id": "hat-01"}
    httpx.post(f"{world.address}/v1/events", json=[{**wrong, "kind": "wink"}, {**wrong, "kind": "view", "time_ms": 1}])
    cause = "not msgpack: Unpack failed: incomplete input"
    letters = [DeadLetter(EVENTS, 0, 900_000 + n, cause, b"ana", b"\x94\x01\x02", wall_clock_ms()) for n in range(3)]
    bury(world.log, letters)
    deadline = time.monotonic() + 20
    known = {"x-ledstream-key": world.key}
    while not (
        httpx.get(f"{world.address}/v1/users/ana", headers=known).is_success
        and httpx.get(f"{world.address}/v1/items/belt-29").json().get("title")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)

"""Releases swapped for each other under load: errors, answers that mix two, and what a swap costs those who wait.

    python -m bench.swap --swaps 6

The whole system runs. Requests and events come at their own rates, whatever the system does; every few seconds
`POST /v1/releases/{version}/activate` makes the other release current. Requests are for users whose timelines are
known, so that every score of every answer can be computed anew from the release it names. Events of those users are
repeated sends, which change no timeline but have the consumer write the record under the release it is at; the other
events are of everybody else.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import orjson

from bench.report import closing, opening, percentiles_ms
from bench.world import events, histories, item_id, item_keys, model, servers, timeline_of
from led.encoder import F32, I64
from ledstream import parts
from ledstream.own_system import OwnSystem, free_port
from ledstream.settings import Settings, read_settings
from store.releases import Release
from store.user_record import Timeline
from store.user_state import encode_timelines
from stream.announcements import announce
from stream.events import Event, item_key

KNOWN_USERS = 200
FIRST_MS_AGO = 600_000
REPEATED_SHARE = 0.3  # of the events
EVENTS_AT_ONCE = 20
AFTER_S = 1.0
WITHIN_S = 20.0  # a swap that is not seen by then has failed


class Asked(NamedTuple):
    """One request: when it was sent, how long it took, and the body of its 200, None for anything else."""

    at_s: float
    seconds: float
    body: bytes | None


class Swap(NamedTuple):
    """When it was asked for, and when the first answer of the new release came."""

    asked_s: float
    seen_s: float


@dataclass
class Run:
    """What one run saw."""

    asked: list[Asked] = field(default_factory=list)
    swaps: list[Swap] = field(default_factory=list)
    posts_failed: int = 0
    newest: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=6)
    parser.add_argument("--every", type=float, default=4.0, help="seconds from one swap to the next")
    parser.add_argument("--requests", type=float, default=300.0, help="a second")
    parser.add_argument("--events", type=float, default=300.0, help="a second")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--log", choices=("kafka", "redis"), default="redis")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    opening("bench.swap", vars(chosen))
    with servers(kafka=chosen.log == "kafka") as (log, store, folder):
        flags = {"log": log, "store": store, "data_dir": folder, "port": free_port("127.0.0.1", 0)}
        figures = asyncio.run(measure(read_settings({}, flags), chosen))
    closing(figures)


async def measure(settings: Settings, chosen: argparse.Namespace) -> dict[str, object]:
    """Known users are made, then load runs while releases are swapped; everything is checked afterwards."""
    loaded = _publish_two(settings, chosen)
    rows = list(histories(KNOWN_USERS, chosen.items, settings.timeline_events, chosen.seed))
    users = {f"known-{number}": of_user for number, of_user in enumerate(rows)}
    first_ms = int(time.time() * 1000) - FIRST_MS_AGO
    run, stop = Run(), asyncio.Event()
    async with OwnSystem(settings) as system, aiohttp.ClientSession() as session:
        load = Load(system.address, session, run, chosen)
        known = [_known_events(user, of_user, first_ms) for user, of_user in users.items()]
        await load.make_known(known)
        tasks = [asyncio.create_task(load.ask(list(users), stop)), asyncio.create_task(load.post(known, stop))]
        await asyncio.sleep(chosen.every)
        for number in range(chosen.swaps):
            run.swaps.append(await load.swap(list(loaded)[(number + 1) % 2]))
            await asyncio.sleep(chosen.every)
        stop.set()
        await asyncio.gather(*tasks)
    keys = item_keys(chosen.items)
    return figures_of(run, loaded, {user: timeline_of(of_user, keys, first_ms) for user, of_user in users.items()})


class Load:
    """The clients: each request and each post in a task of its own, sent when its time comes."""

    def __init__(self, address: str, session: aiohttp.ClientSession, run: Run, chosen: argparse.Namespace) -> None:
        self._address, self._session, self._run, self._chosen = address, session, run, chosen
        self._random = Random(chosen.seed)

    async def make_known(self, known: Sequence[Sequence[Event]]) -> None:
        """Post the known users' events; returns when all are applied."""
        for some in known:
            await self._post(some)
        assert not self._run.posts_failed, "the known users' events were not accepted"
        for some in known:
            path = f"{self._address}/v1/users/{some[0].user_id}"
            deadline = time.monotonic() + WITHIN_S
            while (await self._json(path)).get("events") != len(some):
                assert time.monotonic() < deadline, f"{some[0].user_id} is not complete after {WITHIN_S:g} s"
                await asyncio.sleep(0.05)

    async def ask(self, users: Sequence[str], stop: asyncio.Event) -> None:
        """Requests for known users at the rate chosen, until stop."""
        async with asyncio.TaskGroup() as tasks:
            async for _ in _beats(self._chosen.requests, stop):
                tasks.create_task(self._ask(self._random.choice(users)))

    async def post(self, known: Sequence[Sequence[Event]], stop: asyncio.Event) -> None:
        """Events at the rate chosen, a few at once, until stop."""
        now_ms = int(time.time() * 1000)
        others = events(10_000_000, users=100_000, items=self._chosen.items, seed=self._chosen.seed, start_ms=now_ms)
        async with asyncio.TaskGroup() as tasks:
            async for _ in _beats(self._chosen.events / EVENTS_AT_ONCE, stop):
                some = [
                    self._random.choice(self._random.choice(known))
                    if self._random.random() < REPEATED_SHARE
                    else next(others)._replace(time_ms=int(time.time() * 1000))
                    for _ in range(EVENTS_AT_ONCE)
                ]
                tasks.create_task(self._post(some))

    async def swap(self, version: str) -> Swap:
        """Activate the release; returns when an answer came from it."""
        asked_s = time.perf_counter()
        async with self._session.post(f"{self._address}/v1/releases/{version}/activate") as response:
            assert response.status == 200, await response.text()
        while self._run.newest != version:
            assert time.perf_counter() - asked_s < WITHIN_S, f"no answer from {version} in {WITHIN_S:g} s"
            await asyncio.sleep(0.001)
        return Swap(asked_s, time.perf_counter())

    async def _ask(self, user: str) -> None:
        started, body = time.perf_counter(), None
        try:
            async with self._session.get(f"{self._address}/v1/recommendations?user={user}&k=20") as response:
                content = await response.read()
                body = content if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            pass
        self._run.asked.append(Asked(started, time.perf_counter() - started, body))
        if body is not None:
            self._run.newest = orjson.loads(body)["release"]

    async def _post(self, some: Sequence[Event]) -> None:
        body = orjson.dumps([{n: v for n, v in event._asdict().items() if v is not None} for event in some])
        try:
            async with self._session.post(f"{self._address}/v1/events", data=body) as response:
                verdicts = orjson.loads(await response.read())
                self._run.posts_failed += response.status != 202 or verdicts["accepted"] != len(some)
        except (aiohttp.ClientError, TimeoutError):
            self._run.posts_failed += 1

    async def _json(self, url: str) -> dict[str, Any]:
        async with self._session.get(url) as response:
            answer: dict[str, Any] = orjson.loads(await response.read())
            return answer


def figures_of(run: Run, loaded: dict[str, Release], timelines: dict[str, Timeline]) -> dict[str, object]:
    """The last line, from what the run saw. An answer is mixed if a score is not its release's own."""
    answers = [orjson.loads(asked.body) for asked in run.asked if asked.body is not None]
    vectors = {
        version: dict(zip(timelines, encode_timelines(list(timelines.values()), release).vectors(), strict=True))
        for version, release in loaded.items()
    }
    mixed = sum(not is_whole(answer, loaded, vectors) for answer in answers)
    windows = [(swap.asked_s, swap.seen_s + AFTER_S) for swap in run.swaps]
    near = [one.seconds for one in run.asked if any(start <= one.at_s <= end for start, end in windows)]
    steady = [one.seconds for one in run.asked if not any(start <= one.at_s <= end for start, end in windows)]
    by_release = {version: sum(answer["release"] == version for answer in answers) for version in loaded}
    print(f"answers by release {by_release}; steady {percentiles_ms(steady)}; around swaps {percentiles_ms(near)}")
    visible = [swap.seen_s - swap.asked_s for swap in run.swaps]
    p99_near, p99_steady = percentiles_ms(near)["p99_ms"], percentiles_ms(steady)["p99_ms"]
    return {
        "swaps": len(run.swaps),
        "errors": sum(asked.body is None for asked in run.asked) + run.posts_failed,
        "mixed": mixed,
        "p99_ratio": round(p99_near / p99_steady, 2),
        "p99_ms_steady": p99_steady,
        "p99_ms_around_swaps": p99_near,
        "answers": len(answers),
        "activate_to_first_answer_s": round(statistics.median(visible), 3),
        "activate_to_first_answer_s_max": round(max(visible), 3),
    }


def is_whole(answer: dict[str, Any], loaded: dict[str, Release], vectors: dict[str, dict[str, F32]]) -> bool:
    """Whether the answer is personal and its scores are those of the release it names, from the known timeline."""
    release = loaded[answer["release"]]
    keys = np.array([item_key(item["item_id"]) for item in answer["items"]], np.uint64)
    rows = release.rows(keys)
    expected = release.output_embeddings[rows] @ vectors[answer["release"]][answer["user"]] + release.biases[rows]
    scores = [item["score"] for item in answer["items"]]
    return bool(answer["source"] == "personal" and np.allclose(scores, expected, rtol=1e-4, atol=1e-5))


def _publish_two(settings: Settings, chosen: argparse.Namespace) -> dict[str, Release]:
    """Two releases of the same items, the first one announced; they must score differently."""
    releases, now_ms = parts.releases(settings), int(time.time() * 1000)
    versions = [
        releases.publish(model(chosen.items, chosen.dim, chosen.seed + turn), now_ms=now_ms + turn) for turn in range(2)
    ]
    log = parts.open_log(settings)
    announce(log, versions[0], now_ms)
    log.close()
    return {version: releases.load(version) for version in versions}


def _known_events(user: str, rows: I64, first_ms: int) -> list[Event]:
    """What `timeline_of` holds, as events with ids."""
    return [
        Event(user, item_id(int(row)), "view", first_ms + 1000 * place, f"{user}-{place}")
        for place, row in enumerate(rows)
    ]


async def _beats(per_s: float, stop: asyncio.Event) -> AsyncIterator[int]:
    """Yields at an even rate, catching up after a delay, until stop."""
    started, number = time.perf_counter(), 0
    while not stop.is_set():
        number += 1
        await asyncio.sleep(max(0.0, started + number / per_s - time.perf_counter()))
        yield number


if __name__ == "__main__":
    main()

"""Twenty releases swapped for each other under load: errors, answers that mix two, waiting, memory, and what one costs.

    python -m bench.swap                                            # users are few for the load, and costs short
    python -m bench.swap --users 10000 1000000                      # the long form

The whole system runs. Requests and events come at their own rates, whatever the system does; every few seconds a
release that no process has seen is announced, as training does. Requests are for users whose timelines are known, so
that every score of every answer can be computed anew from the release it names. A part of the events are the newest of
those users, sent again, which changes no timeline but has the consumer write the record under the release it is at; the
others are of everybody else. What a swap costs is measured apart, without load (`bench/swap_cost.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import numpy.typing as npt
import orjson

from bench.asking import Answer, asking, read_answers
from bench.report import closing, opening, percentiles_ms
from bench.server import anonymous_mb, mapped_below, mapped_mb
from bench.swap_cost import costs
from bench.world import events, histories, item_id, item_keys, published_often, servers, timeline_of
from led.encoder import F32, F64, I64, Bool
from ledstream import parts
from ledstream.own_system import OwnSystem, free_port
from ledstream.settings import Settings, read_settings
from store.releases import Release
from store.user_record import IDS_KEPT, Timeline
from store.user_state import encode_timelines
from stream.announcements import announce
from stream.events import Event, item_key

KNOWN_USERS = 200
FIRST_MS_AGO = 600_000
REPEATED_SHARE = 0.3  # of the events
EVENTS_AT_ONCE = 20
AFTER_S = 1.0
WITHIN_S = 20.0
LET_GO_S = 3.0  # after the announcement, nothing of the release before may be mapped


class Swap(NamedTuple):
    """When a release was announced. mapped: how many releases any one process had mapped LET_GO_S later.

    memory_mb: of the processes that have a release, then: of no file, and of the releases' files, counted once.
    """

    version: str
    at_s: float
    mapped: int
    memory_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--every", type=float, default=5.0, help="seconds from one swap to the next")
    parser.add_argument("--requests", type=float, default=500.0, help="a second")
    parser.add_argument("--events", type=float, default=1000.0, help="a second")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--users", type=int, nargs="*", default=[10_000, 200_000], help="in the store, for the cost")
    parser.add_argument("--cost-swaps", type=int, default=9, help="of each number of users; the medians count")
    parser.add_argument("--log", choices=("kafka", "redis"), default="redis")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    opening("bench.swap", vars(chosen))
    with servers(kafka=chosen.log == "kafka") as (log, store, folder):
        flags = {"log": log, "store": store, "data_dir": folder, "workers": chosen.workers}
        figures = asyncio.run(measure(read_settings({}, flags | {"port": free_port("127.0.0.1", 0)}), chosen))
    closing(figures | (asyncio.run(costs(chosen)) if chosen.users else {}))


async def measure(settings: Settings, chosen: argparse.Namespace) -> dict[str, object]:
    """Known users are made, then load runs while releases are swapped; everything is checked afterwards."""
    versions = published_often(settings, chosen.items, chosen.dim, chosen.seed, 1 + chosen.swaps)
    rows = list(histories(KNOWN_USERS, chosen.items, settings.timeline_events, chosen.seed))
    users = {f"known-{number}": of_user for number, of_user in enumerate(rows)}
    first_ms = int(time.time() * 1000) - FIRST_MS_AGO
    paths, stop = [f"/v1/recommendations?user={user}&k=20" for user in users], asyncio.Event()
    async with OwnSystem(settings) as system, aiohttp.ClientSession() as session:
        events = Events(system.address, session, chosen)
        known = [_known_events(user, of_user, first_ms) for user, of_user in users.items()]
        await events.make_known(known)
        with asking(settings.host, settings.port, chosen.requests, paths, settings.data_dir) as answers:
            posting = asyncio.create_task(events.post(known, stop))
            await asyncio.sleep(chosen.every)
            before_mb = _memory_mb(system.pid, settings)
            swaps = [await _swap(system, version, chosen.every) for version in versions[1:]]
            stop.set()
            await posting
    keys = item_keys(chosen.items)
    timelines = {user: timeline_of(of_user, keys, first_ms) for user, of_user in users.items()}
    loaded = {version: parts.releases(settings).load(version) for version in versions}
    figures = figures_of(list(read_answers(answers)), swaps, loaded, timelines)
    figures["errors"] += events.failed
    memory = {"memory_mb_before": before_mb, "memory_mb": swaps[-1].memory_mb}
    return figures | {"mapped_after": max(swap.mapped for swap in swaps)} | memory


async def _swap(system: OwnSystem, version: str, every_s: float) -> Swap:
    """Announce the release; returns when the next one is due."""
    log, at_s = parts.open_log(system.settings), time.perf_counter()
    announce(log, version, int(time.time() * 1000))
    log.close()
    await asyncio.sleep(LET_GO_S)
    mapped = max(map(len, mapped_below(system.pid, system.settings.releases_dir).values()))
    memory_mb = _memory_mb(system.pid, system.settings)
    await asyncio.sleep(at_s + every_s - time.perf_counter())
    return Swap(version, at_s, mapped, memory_mb)


def _memory_mb(pid: int, settings: Settings) -> float:
    """Of the processes that have a release."""
    own = anonymous_mb(member for member, mapped in mapped_below(pid, settings.releases_dir).items() if mapped)
    return round(mapped_mb(pid, settings.releases_dir.resolve())[1] + own, 1)


class Events:
    """The client that posts: each post in a task of its own, sent when its time comes. failed: those not accepted."""

    def __init__(self, address: str, session: aiohttp.ClientSession, chosen: argparse.Namespace) -> None:
        self._address, self._session, self._chosen = address, session, chosen
        self._random = Random(chosen.seed)
        self.failed = 0

    async def make_known(self, known: Sequence[Sequence[Event]]) -> None:
        """Post the known users' events; returns when all are applied."""
        for some in known:
            await self._post(some)
        assert not self.failed, "the known users' events were not accepted"
        for some in known:
            path = f"{self._address}/v1/users/{some[0].user_id}"
            deadline = time.monotonic() + WITHIN_S
            while (await self._json(path)).get("events") != len(some):
                assert time.monotonic() < deadline, f"{some[0].user_id} is not complete after {WITHIN_S:g} s"
                await asyncio.sleep(0.05)

    async def post(self, known: Sequence[Sequence[Event]], stop: asyncio.Event) -> None:
        """Events at the rate chosen, a few at once, until stop."""
        now_ms = int(time.time() * 1000)
        others = events(10_000_000, users=100_000, items=self._chosen.items, seed=self._chosen.seed, start_ms=now_ms)
        async with asyncio.TaskGroup() as tasks:
            async for _ in _beats(self._chosen.events / EVENTS_AT_ONCE, stop):
                some = [
                    self._random.choice(self._random.choice(known)[-IDS_KEPT:])
                    if self._random.random() < REPEATED_SHARE
                    else next(others)._replace(time_ms=int(time.time() * 1000))
                    for _ in range(EVENTS_AT_ONCE)
                ]
                tasks.create_task(self._post(some))

    async def _post(self, some: Sequence[Event]) -> None:
        body = orjson.dumps([{n: v for n, v in event._asdict().items() if v is not None} for event in some])
        try:
            async with self._session.post(f"{self._address}/v1/events", data=body) as response:
                verdicts = orjson.loads(await response.read())
                self.failed += response.status != 202 or verdicts["accepted"] != len(some)
        except (aiohttp.ClientError, TimeoutError):
            self.failed += 1

    async def _json(self, url: str) -> dict[str, Any]:
        async with self._session.get(url) as response:
            answer: dict[str, Any] = orjson.loads(await response.read())
            return answer


class Seen(NamedTuple):
    """All answers as arrays: when each was due, how long it took, and the release it names, "" where none came."""

    due_s: F64
    seconds: F64
    release: npt.NDArray[np.str_]

    def between(self, start_s: float, end_s: float) -> Bool:
        """Which were due then."""
        return np.asarray((self.due_s >= start_s) & (self.due_s <= end_s))


def figures_of(
    answers: Sequence[Answer], swaps: Sequence[Swap], loaded: Mapping[str, Release], timelines: Mapping[str, Timeline]
) -> dict[str, Any]:
    """From what was answered. An answer is mixed if a score is not its release's own.

    ratio_median: of p99 in a swap's window to p99 in as long a time just before it; of all swaps the median, which one
    busy moment of the machine does not change.
    """
    told = [orjson.loads(answer.body) if answer.status == 200 else None for answer in answers]
    vectors = {
        version: dict(zip(timelines, encode_timelines(list(timelines.values()), release).vectors(), strict=True))
        for version, release in loaded.items()
    }
    seen = Seen(
        np.array([answer.due_s for answer in answers]),
        np.array([answer.seconds for answer in answers]),
        np.array([one["release"] if one is not None else "" for one in told]),
    )
    is_near, ratios, last_old_s = np.zeros(len(answers), np.bool_), [], []
    for number, swap in enumerate(swaps):
        end_s = _last_old(seen, swap, swaps[number + 1].at_s if number + 1 < len(swaps) else float("inf"))
        window = seen.between(swap.at_s, end_s + AFTER_S)
        before = seen.between(2 * swap.at_s - end_s - AFTER_S, swap.at_s)
        last_old_s.append(end_s - swap.at_s)
        ratios.append(_show(seen, swap, window, before, last_old_s[-1]))
        is_near |= window
    steady, near = percentiles_ms(seen.seconds[~is_near]), percentiles_ms(seen.seconds[is_near])
    print(f"steady {steady}; around swaps {near}")
    return {
        "swaps": len(swaps),
        "errors": told.count(None),
        "mixed": sum(one is not None and not is_whole(one, loaded, vectors) for one in told),
        "p99_steady_ms": steady["p99_ms"],
        "p99_swap_ms": near["p99_ms"],
        "ratio": round(near["p99_ms"] / steady["p99_ms"], 2),
        "ratio_median": round(float(np.median(ratios)), 2),
        "answers": len(answers),
        "last_old_answer_s": round(float(np.median(last_old_s)), 3),
    }


def _last_old(seen: Seen, swap: Swap, next_s: float) -> float:
    """When the last answer of the release before the swap came; the window of the swap ends AFTER_S later."""
    came_s = seen.due_s + seen.seconds
    old = came_s[(came_s > swap.at_s) & (came_s < next_s) & (seen.release != swap.version) & (seen.release != "")]
    return float(old.max(initial=swap.at_s))


def _show(seen: Seen, swap: Swap, window: Bool, before: Bool, last_old_s: float) -> float:
    """A line on one swap; returns p99 in its window to p99 before."""
    near, was = percentiles_ms(seen.seconds[window]), percentiles_ms(seen.seconds[before])
    slowest = np.flatnonzero(window)[np.argsort(-seen.seconds[window])[:5]]
    due = ", ".join(f"{seconds:.2f}" for seconds in seen.due_s[slowest] - swap.at_s)
    print(f"old until {last_old_s:.2f} s, before {was}, then {near}, slowest due at {due} s; {swap}", flush=True)
    return near["p99_ms"] / was["p99_ms"]


def is_whole(answer: dict[str, Any], loaded: Mapping[str, Release], vectors: Mapping[str, Mapping[str, F32]]) -> bool:
    """Whether the answer is personal and its scores are those of the release it names, from the known timeline."""
    release = loaded[answer["release"]]
    keys = np.array([item_key(item["item_id"]) for item in answer["items"]], np.uint64)
    rows = release.rows(keys)
    expected = release.output_embeddings[rows] @ vectors[answer["release"]][answer["user"]] + release.biases[rows]
    scores = [item["score"] for item in answer["items"]]
    return bool(answer["source"] == "personal" and np.allclose(scores, expected, rtol=1e-4, atol=1e-5))


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

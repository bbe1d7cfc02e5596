"""From "accepted" to "in the next answer", on the whole system under load: events, requests, and probes among them.

    python -m bench.freshness --rate 500 --for 30 --log kafka

A probe posts one event of a user nobody has seen and asks until the answer is as of that event. Its time runs from the
server's 202 to the end of the first such answer, so it includes one request.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from itertools import count

import aiohttp
import orjson

from bench.report import closing, opening, percentiles_ms
from bench.world import servers
from ledstream.own_system import OwnSystem, free_port
from ledstream.settings import Settings, read_settings
from ledstream.traffic import Traffic, TrafficSettings, connected
from stream.events import Event
from stream.simulator import Simulator, SimulatorSettings

WARM_UP_S = 8.0
PROBE_EVERY_S = 0.05
LONGEST_S = 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", choices=("kafka", "redis"), default="redis")
    parser.add_argument("--rate", type=float, default=300.0, help="events a second, and as many requests")
    parser.add_argument("--for", dest="for_s", type=float, default=30.0, help="seconds measured")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    opening("bench.freshness", vars(chosen))
    with servers(kafka=chosen.log == "kafka") as (log, store, folder):
        flags = {"log": log, "store": store, "data_dir": folder, "port": free_port("127.0.0.1", 0)}
        figures = asyncio.run(measure(read_settings({}, flags | {"archive_flush_s": 2}), chosen))
    closing(figures)


async def measure(settings: Settings, chosen: argparse.Namespace) -> dict[str, object]:
    """The figures of one run: a release is trained after the warm-up, then probes run beside the traffic."""
    shop = SimulatorSettings(events_per_s=chosen.rate, seed=chosen.seed)
    stop = asyncio.Event()
    async with OwnSystem(settings) as system:
        driver = TrafficSettings(address=system.address, run=f"freshness-{time.time():.0f}")
        async with connected(driver) as traffic, aiohttp.ClientSession() as session:
            events = Simulator(shop, start_ms=int(time.time() * 1000)).events()
            drive = asyncio.create_task(traffic.drive(events, stop))
            await asyncio.sleep(WARM_UP_S)
            await system.train()
            before, started = _seen(traffic), time.perf_counter()
            end = started + chosen.for_s
            probes = await probe(system.address, session, _viewed_now, lambda: time.perf_counter() >= end)
            passed_s, after = time.perf_counter() - started, _seen(traffic)
            stop.set()
            await drive
    print(f"{len(probes)} probes, slowest {max(probes) * 1000:.1f} ms")
    return {
        "log": chosen.log,
        "events_per_s": round((after[0] - before[0]) / passed_s, 1),
        "answers_per_s": round((after[1] - before[1]) / passed_s, 1),
        "answer_errors": traffic.figures.answer_errors,
        "probes": len(probes),
        **percentiles_ms(probes),
    }


async def probe(
    address: str, session: aiohttp.ClientSession, event_of: Callable[[str], Event], is_over: Callable[[], bool]
) -> list[float]:
    """Seconds until visible, one probe after the other. event_of: what a new user does."""
    seconds: list[float] = []
    for number in count():
        if is_over():
            return seconds
        user = f"probe-{number}"
        event = {name: value for name, value in event_of(user)._asdict().items() if value is not None}
        async with session.post(f"{address}/v1/events", data=orjson.dumps(event)) as response:
            assert response.status == 202, await response.text()
        accepted = time.perf_counter()
        while True:
            async with session.get(f"{address}/v1/recommendations?user={user}&k=1") as response:
                answer = orjson.loads(await response.read())
            if answer["as_of"] == event["time_ms"]:
                break
            assert time.perf_counter() - accepted < LONGEST_S, answer
            await asyncio.sleep(0.001)
        seconds.append(time.perf_counter() - accepted)
        await asyncio.sleep(PROBE_EVERY_S)
    raise AssertionError


def _viewed_now(user: str) -> Event:
    return Event(user, "item-00001", "view", int(time.time() * 1000), user)


def _seen(traffic: Traffic) -> tuple[int, int]:
    return traffic.ledger.sent, traffic.figures.answers


if __name__ == "__main__":
    main()

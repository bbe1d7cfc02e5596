"""From "accepted" to "in the next answer", on the whole system under load: events, requests, and probes among them.

    python -m bench.freshness --rate 1000 --requests 500 --for 60 --log kafka

A probe posts one event of a user nobody has seen and asks, with the token of the post, for an answer that has it in.
Its time runs from the server's 202 to the end of that answer, so it includes one request. Probes are a process of their
own: what the traffic's process is late by is none of theirs. Beside them stands what the server's own probes say.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import aiohttp
import orjson
from prometheus_client.parser import text_string_to_metric_families

from bench.report import closing, opening, percentiles_ms
from bench.world import servers
from ledstream.own_system import OwnSystem, free_port
from ledstream.settings import Settings, read_settings
from ledstream.traffic import Traffic, TrafficSettings, connected
from stream.events import Event
from stream.simulator import Simulator, SimulatorSettings

WARM_UP_S = 8.0
PROBE_EVERY_S = 0.05
OWN_PROBES_EVERY_S = 0.1
FRESH = "ledstream_freshness_seconds"


def main() -> None:
    if sys.argv[1:2] == ["probe"]:  # the process of its own
        address, for_s = sys.argv[2:]
        print(orjson.dumps(asyncio.run(_probing(address, float(for_s)))).decode())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", choices=("kafka", "redis", "embedded"), default="embedded")
    parser.add_argument("--rate", type=float, default=300.0, help="events a second")
    parser.add_argument("--requests", type=float, help="requests a second, at most as many; default: as many")
    parser.add_argument("--for", dest="for_s", type=float, default=30.0, help="seconds measured")
    parser.add_argument("--train", action="store_true", help="train another release while it is measured")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.requests is not None and not 0 <= chosen.requests <= chosen.rate:
        parser.error(f"--requests {chosen.requests:g}: must lie in 0..{chosen.rate:g}, which --rate is")
    opening("bench.freshness", vars(chosen))
    with settings_of(chosen.log) as settings:
        closing(asyncio.run(measure(settings, chosen)))


@contextmanager
def settings_of(log: str) -> Iterator[Settings]:
    """Of a system on servers of its own; embedded: it starts its store by itself, which is its log too."""
    with servers(kafka=log == "kafka", tcp=log != "embedded") as (log_address, store, folder):
        addresses = {} if log == "embedded" else {"log": log_address, "store": store}
        flags = {"data_dir": folder, "port": free_port("127.0.0.1", 0), "archive_flush_s": 2}
        yield read_settings({}, addresses | flags | {"probe_every_s": OWN_PROBES_EVERY_S})


async def measure(settings: Settings, chosen: argparse.Namespace) -> dict[str, object]:
    """The figures of one run: a release is trained after the warm-up, then probes run beside the traffic."""
    requests = chosen.rate if chosen.requests is None else chosen.requests
    shop, stop = SimulatorSettings(events_per_s=chosen.rate, seed=chosen.seed), asyncio.Event()
    async with OwnSystem(settings) as system:
        run = f"freshness-{time.time():.0f}"
        async with connected(TrafficSettings(system.address, run, requests / chosen.rate)) as traffic:
            events = Simulator(shop, start_ms=int(time.time() * 1000)).events()
            drive = asyncio.create_task(traffic.drive(events, stop))
            await asyncio.sleep(WARM_UP_S)
            await system.train()
            before, of_server, started = _seen(traffic), await _fresh(system.address), time.perf_counter()
            training = asyncio.create_task(system.train() if chosen.train else asyncio.sleep(0))
            probes = await _probes(system.address, chosen.for_s)
            passed_s, after = time.perf_counter() - started, _seen(traffic)
            of_server = {name: value - of_server.get(name, 0) for name, value in (await _fresh(system.address)).items()}
            await training
            stop.set()
            await drive
    print(f"{len(probes)} probes, slowest {max(probes) * 1000:.1f} ms; the server's own, by bucket: {of_server}")
    return {
        "log": chosen.log,
        "events_per_s": round((after[0] - before[0]) / passed_s, 1),
        "answers_per_s": round((after[1] - before[1]) / passed_s, 1),
        "answer_errors": traffic.figures.answer_errors,
        "probes": len(probes),
        **percentiles_ms(probes),
        "own_share_within_50_ms": round(of_server.get("0.05", 0) / max(of_server.get("+Inf", 0), 1), 4),
    }


async def _probes(address: str, for_s: float) -> list[float]:
    """Seconds of each, from the process of their own."""
    command = [sys.executable, "-m", "bench.freshness", "probe", address, f"{for_s:g}"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"the process that probes ended with {process.returncode}")
    seconds: list[float] = orjson.loads(told)
    return seconds


async def _probing(address: str, for_s: float) -> list[float]:
    gc.disable()
    end = time.perf_counter() + for_s
    async with aiohttp.ClientSession() as session:
        return await probe(address, session, _viewed_now, lambda: time.perf_counter() >= end)


async def probe(
    address: str, session: aiohttp.ClientSession, event_of: Callable[[str], Event], is_over: Callable[[], bool]
) -> list[float]:
    """Seconds until visible, one probe after the other. event_of: what a new user does."""
    seconds, name = list[float](), f"probe-{time.time_ns()}"
    for number in count():
        if is_over():
            return seconds
        user = f"{name}-{number}"
        event = {name: value for name, value in event_of(user)._asdict().items() if value is not None}
        async with session.post(f"{address}/v1/events", data=orjson.dumps(event)) as response:
            verdict = orjson.loads(await response.read())
            assert response.status == 202, verdict
        accepted = time.perf_counter()
        is_in = False
        while not is_in:
            path = f"/v1/recommendations?user={user}&k=1&wait_ms=1000&after={verdict['token']}"
            async with session.get(address + path) as response:
                answer = orjson.loads(await response.read())
            is_in = answer["after"]["in"]
        assert answer["as_of"] == event["time_ms"], answer
        seconds.append(time.perf_counter() - accepted)
        await asyncio.sleep(PROBE_EVERY_S)
    raise AssertionError


async def _fresh(address: str) -> dict[str, float]:
    """The server's own probes so far, by the bucket's upper end in seconds."""
    async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics") as response:
        families = list(text_string_to_metric_families(await response.text()))
    samples = [sample for family in families for sample in family.samples if sample.name == f"{FRESH}_bucket"]
    return {sample.labels["le"]: sample.value for sample in samples}


def _viewed_now(user: str) -> Event:
    return Event(user, "item-00001", "view", int(time.time() * 1000), user)


def _seen(traffic: Traffic) -> tuple[int, int]:
    return traffic.ledger.sent, traffic.figures.answers


if __name__ == "__main__":
    main()

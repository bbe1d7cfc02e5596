"""What a swap costs the processes of a system by itself, with few users in the store and with many."""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import time
from contextlib import AsyncExitStack
from datetime import datetime
from random import Random
from typing import NamedTuple

from bench.ingest_world import fill
from bench.server import cpu_ns
from bench.world import published_often, servers
from ledstream import parts
from ledstream.own_system import OwnSystem, free_port
from ledstream.settings import Settings, read_settings
from store.user_record import source_of
from stream.announcements import announce
from stream.topics import EVENTS

WINDOW_S = 2.0  # in which a swap is over
CURRENT = re.compile(r"^(\S+ \S+) .* release (\S+) is current here$")


class Cost(NamedTuple):
    """cpu_s: of all processes, less what they spend in as long a time without a swap. wall_s: from the announcement
    until the release was current in the last of them."""

    cpu_s: float
    wall_s: float


async def costs(chosen: argparse.Namespace) -> dict[str, object]:
    """The last figures of `bench.swap`: medians for each number of users, and the last of them to the first.

    The systems run side by side and are swapped in turns, so that what else the machine does meets all of them.
    """
    async with AsyncExitStack() as stack:
        systems = {users: await _system(stack, users, chosen) for users in chosen.users}
        found: dict[int, list[Cost]] = {users: [] for users in systems}
        random = Random(chosen.seed)
        for turn in range(1, 1 + chosen.cost_swaps):
            for users in random.sample(list(systems), len(systems)):
                system, versions = systems[users]
                found[users].append(await _cost(system, versions[turn]))
    medians = {users: Cost(*map(statistics.median, zip(*some, strict=True))) for users, some in found.items()}
    for users, some in found.items():
        print(f"{users:,} users: CPU s {[round(one.cpu_s, 3) for one in some]}, wall {[one.wall_s for one in some]}")
    few, many = medians[chosen.users[0]], medians[chosen.users[-1]]
    told = {"cost_10k": few, "cost_many": many}
    figures: dict[str, object] = {
        name: {"cpu_s": round(cost.cpu_s, 4), "wall_s": round(cost.wall_s, 3)} for name, cost in told.items()
    }
    return figures | {"cost_users": chosen.users, "cost_ratio": round(many.cpu_s / few.cpu_s, 3)}


async def _system(stack: AsyncExitStack, users: int, chosen: argparse.Namespace) -> tuple[OwnSystem, list[str]]:
    """Running and filled, and the versions that it is to be swapped through."""
    log_address, store, folder = stack.enter_context(servers(kafka=False))
    flags = {"log": log_address, "store": store, "data_dir": folder, "workers": chosen.workers}
    settings = read_settings({}, flags | {"port": free_port("127.0.0.1", 0)})
    versions = published_often(settings, chosen.items, chosen.dim, chosen.seed, 1 + chosen.cost_swaps)
    _fill(settings, versions[0], users, chosen.seed)
    return await stack.enter_async_context(OwnSystem(settings)), versions


def _fill(settings: Settings, version: str, users: int, seed: int) -> None:
    log = parts.open_log(settings)
    states = parts.user_states(settings, parts.open_store(settings))
    sources = [source_of(log.identity(EVENTS), number) for number in range(settings.partitions)]
    release = parts.releases(settings).load(version, with_index=False)
    fill(states, release, users, seed, sources=sources, before_ms=int(time.time() * 1000))
    log.close()


async def _cost(system: OwnSystem, version: str) -> Cost:
    idle_s = await _spent(system)
    log, announced = parts.open_log(system.settings), time.time()
    announce(log, version, int(announced * 1000))
    log.close()
    spent_s = await _spent(system)
    current = [
        datetime.fromisoformat(match[1].replace(",", ".")).timestamp()
        for line in system.log.read_text().splitlines()
        if (match := CURRENT.match(line)) and match[2] == version
    ]
    expected = system.settings.workers + 1  # and the consumer of timelines
    assert len(current) == expected, (
        f"{version} is current in {len(current)} processes after {WINDOW_S} s, not {expected}"
    )
    return Cost(spent_s - idle_s, round(max(current) - announced, 3))


async def _spent(system: OwnSystem) -> float:
    """Seconds of CPU of all processes in WINDOW_S."""
    before = cpu_ns(system.pid)
    await asyncio.sleep(WINDOW_S)
    return (cpu_ns(system.pid) - before) / 1e9

"""The log away while events come: what is kept, what the disk gives back, how long that takes, and in which order.

    python -m bench.away --log kafka --rate 1000 --away-s 600 --workers 2

The log is killed (SIGKILL) and started again after a while; the server runs through. Each user's next event is sent
once the last one was answered, so that its order is known. What was answered 202 is looked for in the log afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import orjson

from bench.fault_processes import KillableStore
from bench.report import closing, opening, percentiles_ms
from bench.server import serving
from ledstream import parts
from ledstream.own_system import free_port
from ledstream.settings import Settings, read_settings
from store.embedded import EmbeddedStore
from stream.events import decode_event
from stream.log import Log, LogUnavailable
from stream.probes import PROBE
from stream.spool import Spool
from stream.topics import EVENTS
from tests.servers import KafkaServer

USERS, TOGETHER = 20_000, 10
BEFORE_S, AFTER_S, DRAINED_WITHIN_S = 2.0, 2.0, 600.0
READ_AT_ONCE = 5000


@dataclass
class Sent:
    """What was sent. accepted: by user, numbers of its events, as they were answered."""

    accepted: dict[str, list[int]] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class Sender:
    """Posts of several users' next events, so many a second."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self._url, self._session = f"http://{settings.host}:{settings.port}/v1/events", session
        self._free = deque(f"user-{number}" for number in range(USERS))
        self._numbers: Counter[str] = Counter()
        self.sent = Sent()

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        """Until told to stop, and all is answered."""
        started, posts = time.perf_counter(), set[asyncio.Task[None]]()
        number = 0
        while not stop.is_set():
            if len(self._free) >= TOGETHER:
                posts.add(asyncio.create_task(self._post([self._free.popleft() for _ in range(TOGETHER)])))
                posts = {post for post in posts if not post.done()} if len(posts) % 100 == 0 else posts
            number += 1
            await asyncio.sleep(max(0.0, started + number * TOGETHER / rate - time.perf_counter()))
        await asyncio.gather(*posts)

    async def _post(self, users: list[str]) -> None:
        self._numbers.update(users)
        numbers = [self._numbers[user] for user in users]
        events = [
            {"user_id": user, "item_id": "hat", "kind": "view", "event_id": f"{user}-{number}", "value": float(number)}
            for user, number in zip(users, numbers, strict=True)
        ]
        begun = time.perf_counter()
        async with self._session.post(self._url, data=orjson.dumps(events)) as response:
            verdicts = orjson.loads(await response.read()).get("verdicts", [])
        self.sent.seconds.append(time.perf_counter() - begun)
        self.sent.statuses[response.status] += len(users)
        for user, number, verdict in zip(users, numbers, verdicts, strict=False):
            if verdict["status"] == "accepted":
                self.sent.accepted.setdefault(user, []).append(number)
        self._free.extend(users)


async def measure(settings: Settings, kill: Callable[[], object], start: Callable[[], object], away: Away) -> Figures:
    """One outage. The spool is looked at, and written to by the server alone."""
    log, spool = parts.open_log(settings), Spool(settings.data_dir / "spool", 1)
    stop = asyncio.Event()
    timeout = aiohttp.ClientTimeout(total=120)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        sender = Sender(settings, session)
        traffic = asyncio.create_task(sender.run(away.rate, stop))
        await asyncio.sleep(BEFORE_S)
        await asyncio.to_thread(kill)
        await asyncio.sleep(away.seconds)
        largest_mb = spool.size() / 1e6
        await asyncio.to_thread(start)
        back = time.perf_counter()
        while not spool.is_empty():
            if time.perf_counter() > back + DRAINED_WITHIN_S:
                raise SystemExit(f"{spool.size():,} bytes are still on the disk")
            await asyncio.sleep(0.05)
        drained_s = time.perf_counter() - back
        await asyncio.sleep(AFTER_S)
        stop.set()
        await traffic
    try:
        return Figures.of(sender.sent, await asyncio.to_thread(lambda: list(found(log))), largest_mb, drained_s)
    finally:
        log.close()


@dataclass(frozen=True)
class Away:
    """How long the log is away, and how many events a second come meanwhile."""

    seconds: float
    rate: float


@dataclass(frozen=True)
class Figures:
    """lost: events answered 202 and not in the log. doubled: in it more than once. misplaced: users out of order."""

    accepted: int
    statuses: dict[int, int]
    lost: int
    doubled: int
    misplaced: int
    largest_mb: float
    drained_s: float
    p99_ms: float

    @classmethod
    def of(cls, sent: Sent, logged: list[tuple[str, int]], largest_mb: float, drained_s: float) -> Figures:
        times, order = Counter(logged), dict[str, list[int]]()
        for user, number in dict.fromkeys(logged):
            order.setdefault(user, []).append(number)
        accepted = [(user, number) for user, numbers in sent.accepted.items() for number in numbers]
        return cls(
            len(accepted),
            dict(sent.statuses),
            sum(one not in times for one in accepted),
            sum(count - 1 for count in times.values()),
            sum(numbers != sorted(numbers) for numbers in order.values()),
            round(largest_mb, 2),
            round(drained_s, 2),
            percentiles_ms(sent.seconds)["p99_ms"],
        )


def found(log: Log) -> Iterator[tuple[str, int]]:
    """User and number of every event in the log, each partition in its order."""
    for partition, end in log.end_offsets(EVENTS).items():
        at = 0
        while at < end:
            records = log.read(EVENTS, partition, at, READ_AT_ONCE)
            if not records:
                raise LogUnavailable(f"partition {partition} cannot be read at {at}")
            for record in records:
                if record.value == PROBE:
                    continue
                event = decode_event(record.value)
                yield event.user_id, int(event.value or 0)
            at = records[-1].offset + 1


@contextmanager
def killable(kind: str, folder: Path) -> Iterator[tuple[str, Callable[[], object], Callable[[], object]]]:
    """A log of its own: its address, what kills it, and what starts it again."""
    if kind == "kafka":
        broker = KafkaServer(folder / "kafka")
        broker.start()
        try:
            yield f"kafka://{broker.bootstrap}", broker.kill, broker.start
        finally:
            broker.kill()
    else:
        store = KillableStore(folder / "log")
        with store:
            yield store.address, store.kill, store.start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", choices=("kafka", "redis"), default="kafka")
    parser.add_argument("--rate", type=float, default=1000.0, help="events a second")
    parser.add_argument("--away-s", type=float, default=600.0)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    opening("bench.away", vars(chosen))
    figures = run(chosen.log, Away(chosen.away_s, chosen.rate), chosen.workers)
    closing({"log": chosen.log} | vars(figures))


def run(kind: str, away: Away, workers: int = 1) -> Figures:
    """One outage of servers started for it."""
    with TemporaryDirectory(prefix="ledstream-away-") as name, EmbeddedStore(Path(name) / "store") as store:
        folder = Path(name)
        (folder / "data").mkdir()
        with killable(kind, folder) as (address, kill, start):
            flags = {"log": address, "store": store.address, "data_dir": folder / "data", "workers": workers}
            settings = read_settings({}, flags | {"port": free_port("127.0.0.1", 0), "partitions": 4})
            with serving(settings):
                return asyncio.run(measure(settings, kill, start, away))


if __name__ == "__main__":
    main()

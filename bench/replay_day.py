"""A recorded day of clicks on the whole system: replayed through HTTP as fast as it goes, retrained, swapped, compared.

    python -m bench.replay_day --log kafka --day 2017-10-12
    python -m bench.replay_day --log embedded

Before anything is measured, the clicks of earlier days become archive files, those of the day before come through the
log, and a first release is trained. The day's clicks are then posted in order, with questions before a share of them;
in the middle a release is trained on the archive as it is then, and swapped in. Probes measure how soon an event shows
in an answer. At the end every user's record is compared with a fold of the log.

Recall@20 is of the next click of a reader seen before, on an article new to that reader, against the most popular of
the last hour and of the last 24 hours of event time; all three leave out what the reader has seen.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import numpy as np
import pyarrow.parquet as pq

from bench.every_user import Comparison, compare, folded, logged_events
from bench.freshness import probe
from bench.replay_load import Popularity, ReplayLoad, Seen
from bench.replay_report import Course, Sample, figures_of, print_course
from bench.replay_training import News, Training, train_for_news, write_history
from bench.report import closing, opening
from bench.server import descendants, resident_mb
from bench.world import servers
from ledstream import parts
from ledstream.own_system import OwnSystem, free_port
from ledstream.settings import Settings, read_settings
from stream.events import Event, encode_event
from stream.log import Entry, Log
from stream.topics import EVENTS

DAY_MS = 86_400_000
EMPTY_WITHIN_S = 300.0
APPENDED_AT_ONCE = 2000
PROCESSES = {  # a part of the command line, and what to call such a process and those it starts
    "kafka.Kafka": "kafka",
    "valkey": "valkey",
    "ledstream up": "up",
    "ledstream serve": "server",
    "consume timelines": "timelines",
    "consume archive": "archive",
}


class Clicks:
    """The recorded clicks, as columns; events are made when they are needed."""

    def __init__(self, path: Path) -> None:
        table = pq.read_table(path, columns=["ts_ms", "user", "item"])
        self._times, self._users, self._items = (table[name].to_numpy() for name in ("ts_ms", "user", "item"))

    def between(self, start_ms: int, end_ms: int) -> Iterator[Event]:
        """Events of start_ms <= time < end_ms in time order; their place in the file is their event id."""
        first, end = np.searchsorted(self._times, [start_ms, end_ms])
        for row in range(first, end):
            user, item = str(self._users[row]), str(self._items[row])
            yield Event(user, item, "click", int(self._times[row]), f"{row:x}")

    def count(self, start_ms: int, end_ms: int) -> int:
        first, end = np.searchsorted(self._times, [start_ms, end_ms])
        return int(end - first)


def main() -> None:
    chosen = _arguments()
    data = Path(os.environ.get("LEDSTREAM_DATA", "../shared/data")) / "globo_clicks.parquet"
    if not data.is_file():
        raise SystemExit(f"{data} is not there: set LEDSTREAM_DATA to the folder that holds globo_clicks.parquet")
    opening("bench.replay_day", vars(chosen))
    with _addresses(chosen.log) as (flags, folder):
        flags |= {
            "data_dir": folder,
            "port": free_port("127.0.0.1", 0),
            "max_event_age_s": time.time(),  # anything since 1970
            "idle_after_s": 30 * 86400,
            "archive_flush_s": 2.0,
        }
        closing(asyncio.run(Replay(read_settings({}, flags), Clicks(data), chosen).run()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", choices=("kafka", "embedded"), default="embedded")
    parser.add_argument("--day", default="2017-10-12", help="the day replayed; training begins with all days before")
    parser.add_argument("--limit", type=int, default=10_000_000, help="clicks replayed at most")
    parser.add_argument("--before-h", type=float, default=24.0, help="hours before the day that come through the log")
    parser.add_argument("--asked-share", type=float, default=0.5)
    parser.add_argument("--retrains", type=int, default=1, help="evenly spread over the day")
    parser.add_argument("--hold", action="store_true", help="stand still while training, as time nearly does outside")
    for name, value in News()._asdict().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


@contextmanager
def _addresses(log: str) -> Iterator[tuple[dict[str, object], Path]]:
    """Flags and a data folder: real Kafka and Valkey, or none of them for the embedded default."""
    if log == "kafka":
        with servers(kafka=True) as (log_address, store_address, folder):
            yield {"log": log_address, "store": store_address}, folder
    else:
        with TemporaryDirectory(prefix="ledstream-bench-") as folder_name:
            yield {}, Path(folder_name)


class Replay:
    """One run, from history to comparison."""

    def __init__(self, settings: Settings, clicks: Clicks, chosen: argparse.Namespace) -> None:
        self._settings, self._clicks, self._chosen = settings, clicks, chosen
        day = datetime.fromisoformat(chosen.day).replace(tzinfo=UTC)
        self._day_ms = int(day.timestamp() * 1000)
        self._before_ms = self._day_ms - int(chosen.before_h * 3_600_000)
        self._since_day = f"{day - timedelta(hours=chosen.window_h):%Y-%m-%d}"
        self._news = News(*(getattr(chosen, name) for name in News._fields))
        self._events = min(chosen.limit, clicks.count(self._day_ms, self._day_ms + DAY_MS))
        self._course, self._popularity = Course(), Popularity()

    async def run(self) -> dict[str, object]:
        history = write_history(self._settings, self._clicks.between(0, self._before_ms))
        print(f"{history} clicks in archive files of the days before", flush=True)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as trainer:
            async with OwnSystem(self._settings) as system, aiohttp.ClientSession() as session:
                log = parts.open_log(self._settings)
                await self._begin(log, system, session, trainer)
                load = ReplayLoad(
                    system.address,
                    session,
                    self._popularity,
                    asked_share=self._chosen.asked_share,
                    seed=self._chosen.seed,
                )
                await self._measured(load, system, session, trainer)
                comparison = await asyncio.to_thread(self._compare, log)
                ends, starts = log.end_offsets(EVENTS), log.start_offsets(EVENTS)
                self._course.appended = sum(ends.values()) - sum(starts.values())
                log.close()
        print_course(self._course, load.seen.asked)
        print(f"  {comparison}")
        return figures_of(self._course, load.seen, comparison)

    async def _begin(
        self, log: Log, system: OwnSystem, session: aiohttp.ClientSession, trainer: ProcessPoolExecutor
    ) -> None:
        """The day before through the log, and a first release in every process. Nothing of it is measured."""
        before = list(self._clicks.between(self._before_ms, self._day_ms))
        self._course.before = len(before)
        for event in before:
            self._popularity.add(event)
        await asyncio.to_thread(_append, log, before)
        await self._wait_until_empty(log, "timelines", "archive")
        first = await self._train(trainer)
        deadline = time.monotonic() + 20
        while await self._release(system, session) != first.version:
            assert time.monotonic() < deadline, f"release {first.version} is not current after 20 s"
            await asyncio.sleep(0.1)
        print(f"{len(before)} clicks of the hours before applied; first release: {first}", flush=True)

    async def _measured(
        self, load: ReplayLoad, system: OwnSystem, session: aiohttp.ClientSession, trainer: ProcessPoolExecutor
    ) -> None:
        course, is_over = self._course, asyncio.Event()
        course.started_s = time.perf_counter()
        clicks = islice(self._clicks.between(self._day_ms, self._day_ms + DAY_MS), self._events)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sample(load.seen, system, session, is_over))
            probing = tasks.create_task(
                probe(system.address, session, partial(_probing, load.seen), is_over.is_set), name="probes"
            )
            retraining = tasks.create_task(self._retrain(load, trainer))
            await load.drive(clicks)
            course.posted_s = time.perf_counter()
            log = parts.open_log(self._settings)
            await self._wait_until_empty(log, "timelines")
            course.empty_s = time.perf_counter()
            await retraining
            is_over.set()
            course.probes = await probing
            await self._wait_until_empty(log, "timelines", "archive")
            log.close()

    async def _retrain(self, load: ReplayLoad, trainer: ProcessPoolExecutor) -> None:
        for number in range(1, self._chosen.retrains + 1):
            while load.seen.events < self._events * number / (self._chosen.retrains + 1):
                await asyncio.sleep(0.02)
            if self._chosen.hold:
                load.going.clear()
            started = time.perf_counter()
            training = await self._train(trainer)
            announced = time.perf_counter()
            if self._chosen.hold:
                self._course.held_s += announced - started
                load.going.set()
            while load.seen.newest != training.version:
                if self._course.posted_s:
                    return  # the day was over before anybody could ask the new release
                await asyncio.sleep(0.002)
            self._course.training_s.append((started, announced))
            self._course.swaps_s.append((announced, time.perf_counter()))

    async def _train(self, trainer: ProcessPoolExecutor) -> Training:
        work = partial(train_for_news, self._settings, self._news, self._since_day)
        training = await asyncio.get_running_loop().run_in_executor(trainer, work)
        self._course.trainings.append(training)
        return training

    async def _sample(
        self, seen: Seen, system: OwnSystem, session: aiohttp.ClientSession, is_over: asyncio.Event
    ) -> None:
        store = parts.open_store(self._settings)
        while not is_over.is_set():
            at_s = time.perf_counter() - self._course.started_s
            lag = await self._metric(system, session, "ledstream_lag_records")
            used = int((await asyncio.to_thread(store.info, "memory"))["used_memory"])
            self._course.samples.append(Sample(at_s, seen.events, lag, used / 1e6, processes_mb()))
            await asyncio.sleep(1.0)
        store.close()

    async def _wait_until_empty(self, log: Log, *groups: str) -> None:
        deadline = time.monotonic() + EMPTY_WITHIN_S
        while True:
            ends = await asyncio.to_thread(log.end_offsets, EVENTS)
            done = [await asyncio.to_thread(log.committed, EVENTS, group) for group in groups]
            if all(of_group.get(number, 0) >= end for of_group in done for number, end in ends.items()):
                return
            assert time.monotonic() < deadline, f"{groups} did not reach the end of the log in {EMPTY_WITHIN_S:g} s"
            await asyncio.sleep(0.05)

    async def _metric(self, system: OwnSystem, session: aiohttp.ClientSession, name: str) -> float:
        async with session.get(f"{system.address}/metrics") as response:
            text = await response.text()
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(values[0]) if values else float("nan")

    async def _release(self, system: OwnSystem, session: aiohttp.ClientSession) -> str | None:
        async with session.get(f"{system.address}/readyz") as response:
            version: str | None = (await response.json())["release"]
            return version

    def _compare(self, log: Log) -> Comparison:
        expected = folded(logged_events(log), self._settings.timeline_events)
        releases = parts.releases(self._settings)
        loaded = [releases.load(training.version, with_index=False) for training in self._course.trainings]
        states = parts.user_states(self._settings, parts.open_store(self._settings))
        return compare(expected, states, log.identity(EVENTS), {release.key: release for release in loaded})


def processes_mb() -> dict[str, float]:
    """Resident memory, shared pages included, of every process below this one, by what it is; this one as "clients"."""
    names = {os.getpid(): "clients"}
    found: dict[str, float] = {"clients": resident_mb(os.getpid())}
    for pid, parent in descendants(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended meanwhile
        above = names.get(parent, "others")
        name = next((name for part, name in PROCESSES.items() if part in command), above)
        names[pid] = name = "trainer" if name == "clients" else name
        found[name] = found.get(name, 0.0) + resident_mb(pid)
    return found


def _probing(seen: Seen, user: str) -> Event:
    """What a probe does: it clicks on the article clicked last, at that time."""
    return Event(user, seen.item, "click", seen.clock_ms, user)


def _append(log: Log, events: list[Event]) -> None:
    now_ms = int(time.time() * 1000)
    for first in range(0, len(events), APPENDED_AT_ONCE):
        some = events[first : first + APPENDED_AT_ONCE]
        for outcome in log.append(EVENTS, [Entry(e.user_id.encode(), encode_event(e), now_ms) for e in some]):
            if isinstance(outcome, Exception):
                raise outcome


if __name__ == "__main__":
    main()

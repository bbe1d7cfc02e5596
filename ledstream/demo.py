"""The demo: the whole system on this machine, driven by simulated shoppers or recorded events, judged at the end.

It starts the system, lets traffic warm it up, trains a first release, and trains and swaps again while requests go
on. At the end it waits for the log to be empty, compares every user's record with what was sent, and says whether
everything held. Beside the simulated shoppers anybody may visit: their shop is there to be clicked (`ledstream.shop`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from ledstream.live_view import Moment, View, counted, opened
from ledstream.own_system import OwnSystem, SystemFailed, free_port
from ledstream.scoring import Latencies, Ledger
from ledstream.settings import Settings, read_settings
from ledstream.shop.products import Assortment
from ledstream.shop.site import opened_shop
from ledstream.shop.stocking import Stocking
from ledstream.traffic import Figures, Traffic, TrafficError, TrafficSettings, connected
from stream.events import Event
from stream.replay import read_parquet, spaced
from stream.simulator import Simulator, SimulatorSettings

LOOK_EVERY_S = 0.5
EMPTY_WITHIN_S = 60.0
LATE_BY_S = 90.0  # how much longer than asked for a slow machine may take until a swap is seen
NO_TRAINING_AT_THE_END_S = 8.0
RECORDED_IDLE_AFTER_S = 86_400  # real users may return after any time; simulated ones show how users expire
VISITED_IDLE_AFTER_S = 1_800  # somebody who clicks may stop to read; a run of BRIEF_S shows how users expire
BRIEF_S = 120
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Plan:
    """How the demo goes. idle_after_s: of simulated users; longer than any of them stays away before returning."""

    shop: SimulatorSettings = field(default_factory=SimulatorSettings)
    warm_up_events: int = 3000
    retrain_every_s: float = 20.0
    idle_after_s: int = 30
    port: int = 8080
    shop_port: int = 8081

    def __post_init__(self) -> None:
        if self.idle_after_s <= 1.2 * self.shop.longest_absence_s:
            least = f"{1.2 * self.shop.longest_absence_s:.0f}"
            raise ValueError(f"idle_after_s = {self.idle_after_s}: must be above {least}, or returning users are gone")


def run(*, for_s: float | None, data: Path | None, started_at: float | None, plan: Plan | None = None) -> int:
    """Run for for_s seconds of traffic, or until Ctrl-C; 0 if everything held, else 1. Prints what it found.

    data: a Parquet file to replay instead of the simulation. started_at: Unix seconds from which first_answer_s
    counts; None: from now. Raises ReplayError for a file that cannot be replayed.
    """
    demo = _Demo(plan or Plan(), Console(), for_s, time.time() if started_at is None else started_at)
    recorded = None if data is None else read_parquet(data)
    with tempfile.TemporaryDirectory(prefix="ledstream-demo-") as folder:
        try:
            return asyncio.run(demo.run(Path(folder), recorded))
        except SystemFailed as error:
            Console(stderr=True).print(str(error), markup=False, highlight=False)
            return 1


def settings_of(plan: Plan, folder: Path, shop: str | None, for_s: float | None) -> Settings:
    """Of the system. shop: whose pages may talk to it; None where there is none, as with recorded events."""
    if shop is None:
        idle_after_s = RECORDED_IDLE_AFTER_S
    elif for_s is not None and for_s <= BRIEF_S:
        idle_after_s = plan.idle_after_s
    else:
        idle_after_s = max(VISITED_IDLE_AFTER_S, plan.idle_after_s)
    chosen = {"data_dir": folder, "port": free_port(HOST, plan.port), "idle_after_s": idle_after_s}
    chosen |= {"cors_origins": shop or "", "archive_flush_s": 2.0, "supervisor_pid": os.getpid()}
    chosen |= {"refuse_bots": False}  # a browser that is driven by a program may visit the shop
    return read_settings({}, chosen)


@dataclass(frozen=True)
class _Look:
    at_s: float
    sent: int = 0
    answers: int = 0
    users: int = 0


class _Demo:
    def __init__(self, plan: Plan, console: Console, for_s: float | None, started_at: float) -> None:
        self._plan, self._console, self._for_s, self._started_at = plan, console, for_s, started_at
        self._doing = "warming up"
        self._stop = asyncio.Event()
        self._problems: list[str] = []
        self._stocking: Stocking | None = None

    async def run(self, folder: Path, recorded: Iterable[Event] | None) -> int:
        shop = None if recorded is not None else f"http://{HOST}:{free_port(HOST, self._plan.shop_port)}"
        settings = settings_of(self._plan, folder, shop, self._for_s)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            system = await stack.enter_async_context(OwnSystem(settings))
            self._say_where(system.address, shop)
            run = f"demo-{int(self._started_at * 1000):x}"
            driver = TrafficSettings(address=system.address, run=run, idle_after_s=settings.idle_after_s)
            traffic = await stack.enter_async_context(connected(driver))
            start_ms = int(time.time() * 1000)
            if shop is None:
                events = spaced(recorded or (), start_ms=start_ms, per_s=self._plan.shop.events_per_s)
            else:
                simulator = Simulator(self._plan.shop, start_ms=start_ms)
                events, assortment = simulator.events(), Assortment()
                await stack.enter_async_context(opened_shop(assortment, shop, system.address))
                self._stocking = Stocking(assortment, shop, system.address, simulator)
            with opened(self._console) as view:
                await self._run_traffic(system, traffic, view, events)
            return self._judge(traffic)

    def _say_where(self, server: str, shop: str | None) -> None:
        for sentence in (
            f"HTTP API at {server}, its docs at {server}/docs",
            f"console at {server}/console",
            *([f"shop at {shop} : turn recommendations on, look around, and watch them follow"] if shop else []),
        ):
            self._console.print(sentence, highlight=False, soft_wrap=True)

    async def _run_traffic(self, system: OwnSystem, traffic: Traffic, view: View, events: Iterable[Event]) -> None:
        """Everything from the first event to the last comparison. What goes wrong is noted in _problems."""
        drive = asyncio.create_task(traffic.drive(events, self._stop))
        watch = asyncio.create_task(self._watch(traffic, view))
        others = [
            asyncio.create_task(self._train_again_and_again(system, traffic, view)),
            asyncio.create_task(self._end_in_time(traffic)),
            asyncio.create_task(self._notice_an_end(system)),
        ]
        if self._stocking is not None:
            others.append(asyncio.create_task(self._stocking.follow()))
        try:
            ended, _ = await asyncio.wait([drive, watch, *others], return_when=asyncio.FIRST_COMPLETED)
            if any(task.exception() for task in ended):
                return  # nothing would answer, or nothing new would come: the traffic is cut off
            self._stop.set()
            await drive
            await _cancel(others)
            await self._wait_until_empty(traffic)
            self._doing = "comparing every user's record with what was sent"
            await traffic.verify()
        except TrafficError as error:
            self._problems.append(str(error))
        finally:
            self._problems += await _cancel([watch, *others, drive])

    async def _train_again_and_again(self, system: OwnSystem, traffic: Traffic, view: View) -> None:
        started_s = time.monotonic()
        while traffic.ledger.sent < self._plan.warm_up_events:
            await asyncio.sleep(0.1)
        for number in range(1, 1_000_000):
            self._doing = f"training release {number}"
            began_s = time.monotonic()
            await system.train()
            self._doing = "serving"
            view.say(f"release {number} trained in {time.monotonic() - began_s:.1f} s and announced")
            await asyncio.sleep(max(0.0, began_s + self._plan.retrain_every_s - time.monotonic()))
            left_s = float("inf") if self._for_s is None else started_s + self._for_s - time.monotonic()
            if left_s < NO_TRAINING_AT_THE_END_S and number > 1:
                await self._stop.wait()

    async def _end_in_time(self, traffic: Traffic) -> None:
        """Returns when for_s is over and a swap was seen, or is too late."""
        if self._for_s is None:
            await self._stop.wait()
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), self._for_s)
        late_s = time.monotonic() + LATE_BY_S
        while traffic.figures.swaps == 0 and time.monotonic() < late_s and not self._stop.is_set():
            await asyncio.sleep(0.2)

    async def _notice_an_end(self, system: OwnSystem) -> None:
        raise await system.ended()

    async def _watch(self, traffic: Traffic, view: View) -> None:
        """Look at the system and show it, until cancelled."""
        started_s = time.monotonic()
        before = _Look(started_s)
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                metrics = await traffic.metrics()
            except TrafficError:
                metrics = {}  # a busy moment; the driver counts what matters
            look = _Look(time.monotonic(), traffic.ledger.sent, traffic.figures.answers, traffic.ledger.users)
            view.show(self._moment(traffic, metrics, look, before, look.at_s - started_s))
            before = look

    def _moment(
        self, traffic: Traffic, metrics: dict[str, float], look: _Look, before: _Look, since_start_s: float
    ) -> Moment:
        figures, passed_s = traffic.figures, look.at_s - before.at_s
        latencies, figures.recent_latencies = figures.recent_latencies, Latencies()
        personal, popular = figures.recall.recent()
        return Moment(
            at_s=since_start_s,
            events_per_s=(look.sent - before.sent) / passed_s,
            answers_per_s=(look.answers - before.answers) / passed_s,
            p50_ms=latencies.quantile_ms(0.5),
            p99_ms=latencies.quantile_ms(0.99),
            lag_records=metrics.get("ledstream_lag_records"),
            users_known=before.users,  # the newest may not have arrived yet, and have not expired
            users_alive=metrics.get("ledstream_users"),
            release=figures.releases[-1] if figures.releases else None,
            doing=self._doing,
            recall_personal=personal,
            recall_popular=popular,
            answer_errors=figures.answer_errors,
        )

    async def _wait_until_empty(self, traffic: Traffic) -> None:
        self._doing = "waiting for the log to be empty"
        deadline = time.monotonic() + EMPTY_WITHIN_S
        while (lag := (await traffic.metrics()).get("ledstream_lag_records")) != 0:
            if time.monotonic() > deadline:
                self._problems.append(f"{counted(lag)} records still in the log after {EMPTY_WITHIN_S:.0f} s")
                return
            await asyncio.sleep(0.2)

    def _judge(self, traffic: Traffic) -> int:
        """Print the outcome; the exit code."""
        figures, ledger = traffic.figures, traffic.ledger
        first_s = figures.first_personal_at and round(figures.first_personal_at - self._started_at, 1)
        outcome = {
            "events_sent": ledger.sent,
            "events_applied": ledger.applied,
            "events_lost": ledger.missing,
            "answers": figures.answers,
            "answer_errors": figures.answer_errors,
            "swaps_under_load": figures.swaps,
            "recall20_personal": round(figures.recall.personal, 4),
            "recall20_popular": round(figures.recall.popular, 4),
            "answer_p50_ms": round(figures.latencies.quantile_ms(0.5), 2),
            "answer_p99_ms": round(figures.latencies.quantile_ms(0.99), 2),
            "first_answer_s": first_s,
        }
        problems = list(dict.fromkeys(self._problems + broken_promises(figures, ledger)))
        for sentence in [*_summary(traffic), *(f"FAILED: {problem}" for problem in problems)]:
            self._console.print(sentence, highlight=False, markup=False, soft_wrap=True)
        print(json.dumps(outcome), flush=True)
        return 1 if problems else 0


def _summary(traffic: Traffic) -> list[str]:
    figures, ledger, recall = traffic.figures, traffic.ledger, traffic.figures.recall
    return [
        f"{ledger.sent} events of {ledger.users} users sent, {ledger.applied} found in their records, "
        f"{ledger.missing} lost; {figures.post_retries} posts repeated, {figures.rejected} events refused",
        f"{figures.answers} answers, {figures.personal} of them personal, {figures.degraded} degraded, "
        f"{figures.answer_errors} errors; releases seen in answers: {', '.join(figures.releases) or 'none'}",
        f"recall@20 of the next unseen item: {recall.personal:.3f} personal, {recall.popular:.3f} most popular lately, "
        f"over the same {recall.asked} requests",
    ]


def broken_promises(figures: Figures, ledger: Ledger) -> list[str]:
    """What a run must not show, if it did; one sentence each."""
    recall = figures.recall
    promises = {
        f"{ledger.missing} events were lost": ledger.missing == 0,
        f"{ledger.surplus} events were applied more than once": ledger.surplus == 0,
        f"{figures.rejected} events were refused": figures.rejected == 0,
        f"{figures.answer_errors} answers were errors: {'; '.join(figures.errors)}": figures.answer_errors == 0,
        "no release was swapped for another under load": figures.swaps > 0,
        f"personal recall {recall.personal:.4f} is not above popularity's {recall.popular:.4f}": recall.personal
        > recall.popular,
    }
    return [promise for promise, is_kept in promises.items() if not is_kept]


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> list[str]:
    """Cancel what still runs; what had failed, in words. Anything but our own errors is raised."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    failures = []
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, SystemFailed | TrafficError):
            failures.append(str(result))
        elif isinstance(result, Exception):
            raise result
    return failures

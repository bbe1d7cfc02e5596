"""`ledstream replay` and `ledstream simulate`: events, recorded or made up, sent to a running server."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ledstream.settings import Settings
from ledstream.traffic import TrafficError, TrafficSettings, connected
from stream.events import Event
from stream.replay import as_now, read_parquet, spaced
from stream.simulator import Simulator, SimulatorSettings

REPORT_EVERY_S = 2.0


def replay(settings: Settings, file: Path, rate: float | None, *, as_recorded: bool, key: str | None = None) -> int:
    """Send a file's events, at `rate` a second or as fast as they are taken; 0 if every one was accepted.

    key: the write key they go with; None: the first of the settings, if there are any.

    Event ids are made of the file's name and the event's place in it, so that replaying again counts nothing twice
    while the first run's events are in the timelines.
    """
    events: Iterable[Event] = _with_ids(read_parquet(file), file.name)
    if rate is not None:
        events = spaced(events, start_ms=_now_ms(), per_s=rate)
    elif not as_recorded:
        events = as_now(events, _now_ms)
    return asyncio.run(_send(settings, events, key, paced=rate is not None))


def simulate(settings: Settings, rate: float, for_s: float | None, seed: int, key: str | None = None) -> int:
    """Send simulated shoppers' events until for_s is over or Ctrl-C; 0 if every one was accepted. key: see `replay`."""
    shop = SimulatorSettings(events_per_s=rate, seed=seed)
    start_ms = _now_ms()
    events: Iterable[Event] = Simulator(shop, start_ms=start_ms).events()
    if for_s is not None:
        events = _until(events, start_ms + int(for_s * 1000))
    return asyncio.run(_send(settings, events, key, paced=True))


async def _send(settings: Settings, events: Iterable[Event], key: str | None, *, paced: bool) -> int:
    run = f"run-{os.getpid()}-{_now_ms():x}"
    if key is None:
        key = settings.write_keys.partition(",")[0].partition("=")[2].strip()
    driver = TrafficSettings(address=settings.url(settings.port), run=run, asked_share=0.0, paced=paced, key=key)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with connected(driver) as traffic:
        started = time.monotonic()

        def line() -> str:
            passed_s = time.monotonic() - started
            sent, refused = traffic.ledger.sent, traffic.figures.rejected
            return f"{sent:,} events accepted, {sent / passed_s:,.0f}/s, {refused:,} refused"

        report = asyncio.create_task(_report(line))
        try:
            await traffic.drive(events, stop)
        except TrafficError as error:
            sys.stderr.write(f"{error}\n")
            return 1
        finally:
            report.cancel()
        print(line())
        for example in traffic.figures.errors:
            print(f"  {example}")
        return 1 if traffic.figures.rejected else 0


async def _report(line: Callable[[], str]) -> None:
    while True:
        await asyncio.sleep(REPORT_EVERY_S)
        sys.stderr.write(f"{line()}\n")


def _with_ids(events: Iterable[Event], name: str) -> Iterator[Event]:
    for place, event in enumerate(events):
        yield event if event.event_id else event._replace(event_id=f"{name}-{place}"[-128:])


def _until(events: Iterable[Event], end_ms: int) -> Iterator[Event]:
    for event in events:
        if event.time_ms >= end_ms:
            return
        yield event


def _now_ms() -> int:
    return int(time.time() * 1000)

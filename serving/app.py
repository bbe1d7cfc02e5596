"""The application of one server process: its parts put together, started and stopped with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence, Set
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serving.answering import Answering
from serving.answers import Recommender
from serving.api import Lifespan, Routes, build_api
from serving.awaited import Awaited
from serving.catalogue.details import Details
from serving.catalogue.withheld import Withheld
from serving.collector.identity import Identities
from serving.collector.paths import Collector, Door, Intake
from serving.hot import Hot
from serving.live import Outcomes, live
from serving.metrics import Metrics, lag
from serving.parts import Limits, Parts
from serving.posts import Posts
from serving.probes import Probes
from serving.publisher import Publisher, publisher
from serving.readiness import Readiness
from serving.recent import RecentItems, newest_items
from serving.served import Served
from store.item_index import use_threads
from store.lookups import Lookups
from store.releases import Releases
from stream.current import CurrentRelease
from stream.kept import KeptLog


def create_app(
    parts: Parts, limits: Limits | None = None, door: Door | None = None, on_ready: Callable[[], object] = lambda: None
) -> Collector:
    """The ASGI application. Its threads start and stop with its lifespan; the log is closed by who opened it.

    on_ready: called once it is about to answer.
    """
    limits, door = limits or Limits(), door or Door()
    details, withheld = _catalogued(parts)
    metrics, recent = Metrics(parts.workers), RecentItems(withheld=withheld.keys)
    current = _following(parts, limits, metrics, withheld)
    outcomes = Outcomes(parts.tallies, current)
    recommender = Recommender(lambda: live(current), recent, attempt=outcomes.attempt, kinds=parts.border.codes())
    metrics.watch_stages(recommender.stages)
    lookups = parts.states.lookups()
    questions = _answering(parts, limits, recommender, metrics, lookups)
    awaited = Awaited(parts.log, parts.states, lookups, max_waiting=limits.waiting_writes)
    log = KeptLog(parts.log, parts.spool)
    events = publisher(log, max_waiting=limits.waiting_events)
    posts = Posts(parts.border, events, recent, parts.now_ms, awaited.token, events_per_s=limits.events_per_s)
    hot = Hot(questions, awaited, details, metrics)
    _watch(metrics, parts, Readiness(parts, current))
    routes = Routes(parts, hot, questions, events, current, metrics, details, awaited.token)

    async def begin() -> None:
        recent.add(await asyncio.to_thread(newest_items, parts.log))
        await asyncio.to_thread(current.start)
        on_ready()

    probes = Probes(events, awaited, questions, metrics, parts.now_ms, every_s=limits.probe_every_s)
    asked, threads = (questions, awaited, details, probes), (metrics, outcomes, log, withheld)
    others = build_api(routes, _lifespan(asked, events, current, begin, threads))
    return Collector(hot, metrics, others, Intake(posts, Identities(parts, current.get, events, awaited.token)), door)


def _catalogued(parts: Parts) -> tuple[Details, Withheld]:
    details = Details(parts.catalogue.lookups() if parts.catalogue else None)
    return details, Withheld(parts.catalogue, details.forget)


def _following(parts: Parts, limits: Limits, metrics: Metrics, withheld: Withheld) -> CurrentRelease[Served]:
    return CurrentRelease(
        parts.log,
        _loading(parts.releases, withheld.keys),
        with_canary=True,
        prepare=parts.releases.load,
        retry_every_s=limits.retry_release_every_s,
        on_swap=metrics.swapped,
        on_refusal=metrics.refused,
    )


def _answering(parts: Parts, limits: Limits, recommender: Recommender, metrics: Metrics, lookups: Lookups) -> Answering:
    return Answering(
        recommender,
        parts.states.keys,
        lookups,
        max_batch=limits.batch,
        max_waiting=limits.waiting_questions,
        on_batch=metrics.batch_size.observe,
    )


def _watch(metrics: Metrics, parts: Parts, readiness: Readiness) -> None:
    """What is read at a scrape."""
    metrics.watch("ledstream_users", "Keys in the store that expire: users, and few others", parts.states.count)
    metrics.watch("ledstream_lag_records", "Events the timelines consumers have not committed", lambda: lag(parts.log))
    metrics.watch("ledstream_consumer_groups_troubled", "Groups that wait or have no process", readiness.troubled)
    if parts.spool is not None:
        metrics.watch("ledstream_spool_bytes", "Events on the disk, for the log to come back", parts.spool.size)


def _loading(releases: Releases, withheld: Set[int]) -> Callable[[str], Served]:
    def load(version: str) -> Served:
        use_threads(1)  # of the thread that loads, too
        return Served(releases.load(version), withheld)

    return load


def _lifespan(
    asked: tuple[Answering, Awaited, Details, Probes],
    events: Publisher,
    current: CurrentRelease[Served],
    begin: Callable[[], Awaitable[None]],
    others: Sequence[Metrics | Outcomes | KeptLog | Withheld],
) -> Lifespan:
    """others: started before events are taken, and stopped after the last of them."""

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        use_threads(1)
        for part in asked:
            await part.start()
        for other in others:
            other.start()
        events.start()
        await begin()
        yield
        await asyncio.to_thread(current.stop)
        await events.stop()
        for other in others:
            await asyncio.to_thread(other.stop)
        for part in reversed(asked):
            await part.stop()

    return running

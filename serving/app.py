"""The application of one server process: its parts put together, started and stopped with it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serving.answering import Answering
from serving.answers import Recommender
from serving.api import Lifespan, Routes, build_api
from serving.hot import Hot, HotPaths
from serving.live import Outcomes, live
from serving.metrics import Metrics, lag
from serving.parts import Limits, Parts
from serving.posts import Posts
from serving.publisher import Publisher, publisher
from serving.readiness import Readiness
from serving.recent import RecentItems, newest_items
from serving.served import Served
from store.item_index import use_threads
from store.releases import Releases
from stream.current import CurrentRelease


def create_app(parts: Parts, limits: Limits | None = None) -> HotPaths:
    """The ASGI application. Its threads start and stop with its lifespan; the log is closed by who opened it."""
    limits = limits or Limits()
    metrics, recent = Metrics(), RecentItems()
    current = CurrentRelease(
        parts.log,
        _loading(parts.releases),
        with_canary=True,
        prepare=parts.releases.load,
        retry_every_s=limits.retry_release_every_s,
        on_swap=metrics.swapped,
        on_refusal=metrics.refused,
    )
    outcomes = Outcomes(parts.tallies, current)
    recommender = Recommender(lambda: live(current), recent, attempt=outcomes.attempt)
    metrics.watch_stages(recommender.stages)
    questions = Answering(
        recommender,
        parts.states.keys,
        parts.states.lookups(),
        max_batch=limits.batch,
        max_waiting=limits.waiting_questions,
        on_batch=metrics.batch_size.observe,
    )
    events = publisher(parts.log, max_waiting=limits.waiting_events)
    hot = Hot(questions, Posts(parts.border, events, recent, parts.now_ms), metrics)
    metrics.watch("ledstream_users", "Keys in the store: users, and a few others", parts.states.count)
    metrics.watch("ledstream_lag_records", "Events the timelines consumers have not committed", lambda: lag(parts.log))
    readiness = Readiness(parts, current)
    metrics.watch("ledstream_consumer_groups_troubled", "Groups that wait or have no process", readiness.troubled)
    routes = Routes(parts, hot, questions, events, current, metrics)

    async def begin() -> None:
        recent.add(await asyncio.to_thread(newest_items, parts.log))
        await asyncio.to_thread(current.start)

    return HotPaths(hot, metrics, build_api(routes, _lifespan(begin, current, questions, events, outcomes)))


def _loading(releases: Releases) -> Callable[[str], Served]:
    def load(version: str) -> Served:
        use_threads(1)  # of the thread that loads, too
        return Served(releases.load(version))

    return load


def _lifespan(
    begin: Callable[[], Awaitable[None]],
    current: CurrentRelease[Served],
    questions: Answering,
    events: Publisher,
    outcomes: Outcomes,
) -> Lifespan:
    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        use_threads(1)
        await questions.start()
        outcomes.start()
        events.start()
        await begin()
        # What lives as long as the process need not be looked through again: a full collection took tens of ms. What a
        # request makes dies by itself.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        yield
        await asyncio.to_thread(current.stop)
        await asyncio.to_thread(outcomes.stop)
        await events.stop()
        await questions.stop()

    return running

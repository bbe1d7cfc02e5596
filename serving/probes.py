"""How fresh answers are, measured all the time: probes go the way of events, and the clock stops at an answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from serving.answering import Answering
from serving.awaited import Awaited
from serving.metrics import Metrics
from serving.publisher import Publisher
from serving.questions import Question
from serving.refusals import Overloaded
from stream.log import Position
from stream.probes import new_probe

logger = logging.getLogger(__name__)
LONGEST_S = 30.0  # then it counts as late as that
AGAIN_AFTER_S = 0.25  # where the store is away
NOBODY = Question("probe")


class Probes:
    """One every so many seconds, each to a partition drawn by lot. Used inside one event loop. every_s: 0 for none."""

    def __init__(
        self,
        publisher: Publisher,
        awaited: Awaited,
        questions: Answering,
        metrics: Metrics,
        now_ms: Callable[[], int],
        *,
        every_s: float = 0,
    ) -> None:
        self._publisher, self._awaited, self._questions = publisher, awaited, questions
        self._metrics, self._now_ms, self._every_s = metrics, now_ms, every_s
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Called once; the first one is sent after every_s."""
        if self._every_s:
            self._begin(self._send_forever())

    async def stop(self) -> None:
        """Returns when none is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a probe failed", exc_info=error)

    async def _send_forever(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            self._begin(self.probe())

    async def probe(self) -> None:
        """Send one and see it in. What the log does not take says nothing of freshness, and is counted apart."""
        try:
            (outcome,) = await self._publisher.ask([new_probe(self._now_ms())], 1)
        except Overloaded:
            self._metrics.probes_lost.inc()
            return
        accepted = time.perf_counter()
        if not isinstance(outcome, Position):
            self._metrics.probes_lost.inc()
            return
        while not await self._is_shown(outcome) and time.perf_counter() - accepted < LONGEST_S:
            await asyncio.sleep(AGAIN_AFTER_S)
        self._metrics.freshness_seconds.observe(time.perf_counter() - accepted)

    async def _is_shown(self, at: Position) -> bool:
        """Whether an answer that was asked for after it was in came."""
        if not (await self._awaited.reached(at, LONGEST_S)).is_in:
            return False
        try:
            await self._questions.ask([NOBODY])
        except Overloaded:
            return False
        return True

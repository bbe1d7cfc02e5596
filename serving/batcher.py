"""Requests that arrive together are worked on together: the loop collects while one thread works on the batch before.

Nothing waits for a timer: an idle worker takes a single request at once, a busy one finds all that came meanwhile.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Generic, TypeVar

from serving.refusals import Overloaded

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Asked from one event loop, works on one thread.

    work: answers in the order of its questions; what it raises, all of that batch's askers get, and nobody else.
    max_batch, max_waiting: in the sizes that `ask` is given. A batch is closed once it reaches max_batch.
    gather_s: after a batch of several askers, wait so long for more to come before the next is closed; a single asker
    finds a worker that starts at once.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Q]], Sequence[A]],
        *,
        max_batch: int = 256,
        max_waiting: int = 4096,
        gather_s: float = 0,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._name, self._work, self._on_batch = name, work, on_batch
        self._max_batch, self._max_waiting, self._gather_s = max_batch, max_waiting, gather_s
        self._queue: SimpleQueue[tuple[Q, asyncio.Future[A], int] | None] = SimpleQueue()
        self._waiting = 0  # asked and not yet answered; touched by the loop alone
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Called once, inside the loop that will ask."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Returns when everything asked before is answered; what is asked later is refused."""
        self._stopping = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def ask(self, question: Q, size: int = 1) -> asyncio.Future[A]:
        """The answer, when it is there. Raises Overloaded. The asker may go away at any time."""
        loop = self._loop
        if loop is None:
            raise RuntimeError(f"{self._name} was not started")
        if self._stopping or (self._waiting and self._waiting + size > self._max_waiting):
            raise Overloaded(self._name)
        self._waiting += size
        future: asyncio.Future[A] = loop.create_future()
        self._queue.put((question, future, size))
        return future

    def _run(self) -> None:
        ends, askers = False, 1
        while not ends:
            batch: list[tuple[Q, asyncio.Future[A], int]] = []
            size = 0
            following = self._queue.get()
            if askers > 1 and self._gather_s:
                time.sleep(self._gather_s)
            while following is not None:
                batch.append(following)
                size += following[2]
                if size >= self._max_batch or self._queue.empty():
                    break
                following = self._queue.get()
            ends, askers = following is None, len(batch)
            if batch:
                self._answer(batch, size)

    def _answer(self, batch: list[tuple[Q, asyncio.Future[A], int]], size: int) -> None:
        futures = [future for _, future, _ in batch]
        answers: Sequence[A] | BaseException
        try:
            answers = self._work([question for question, _, _ in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{self._name}: {len(answers)} answers to {len(batch)} questions")  # noqa: TRY301
        except Exception as error:  # not swallowed: the askers get it
            answers = error
        self._on_batch(size)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._deliver, futures, answers, size)

    def _deliver(self, futures: list[asyncio.Future[A]], answers: Sequence[A] | BaseException, size: int) -> None:
        self._waiting -= size
        for place, future in enumerate(futures):
            if future.done():
                continue  # the asker went away
            if isinstance(answers, BaseException):
                future.set_exception(answers)
            else:
                future.set_result(answers[place])

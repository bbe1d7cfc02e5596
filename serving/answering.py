"""Questions that arrive together are answered together, inside the event loop and without waiting for the store.

While the records of one batch are looked up, the next one gathers; its own look-up is sent before the first is worked
on, so that the store and this process work at the same time. Nothing waits for a timer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from serving.answers import Answer, Recommender
from serving.questions import Question
from serving.refusals import Overloaded
from store.connection import StoreUnavailable
from store.lookups import Found, Lookups

logger = logging.getLogger(__name__)
WAIT_S = 0.02  # the longest a question is let wait for those before it
PATIENCE_S = 0.5  # of who asks many questions, with every part but the first
AT_ONCE = 2  # batches whose records are looked up: while one is worked on, the store has the other
FIRST_GUESS_S = 0.0001
LEARNS = 0.1  # weight of the newest batch in what an answer takes
Done = Callable[[Answer | Exception], None]
Asked = tuple[Question, Done]


class Answering:
    """Asked from one event loop. keys: where users' records are.

    max_batch: questions answered together. max_waiting: beyond so many, or beyond what WAIT_S suffices for at the pace
    of the moment, but not less than two batches, more are refused: it is better to answer most in good time than all of
    them late.
    """

    def __init__(
        self,
        recommender: Recommender,
        keys: Callable[[Sequence[str]], list[bytes]],
        lookups: Lookups,
        *,
        max_batch: int = 64,
        max_waiting: int = 2048,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._recommender, self._keys, self._lookups, self._on_batch = recommender, keys, lookups, on_batch
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._waiting: deque[Asked] = deque()
        self._most = max_waiting
        self._each_s = FIRST_GUESS_S
        self._busy_since: float | None = None
        self._is_due = self._stopping = False
        self._looking_up = 0

    async def start(self) -> None:
        """Called once, inside the loop that will ask."""
        self._loop = asyncio.get_running_loop()
        await self._lookups.start()

    async def stop(self) -> None:
        """Returns when everything asked before is answered; what is asked later is refused."""
        self._stopping = True
        while self._waiting or self._looking_up:
            await asyncio.sleep(0.001)
        self._lookups.stop()

    def submit(self, question: Question, done: Done) -> None:
        """Have `done` called, later, with the answer or a mistake of ours. Raises Overloaded."""
        self._admit(1)
        self._waiting.append((question, done))
        self._see_to_it()

    async def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers, in order; some at a time, with other questions in between.

        Every part is let in like anybody else's question. One that is not at once is tried again for a moment: what was
        answered before it would be lost. Raises Overloaded.
        """
        answers: list[Answer] = []
        at_once = max(1, self._max_batch // 2)
        for start in range(0, len(questions), at_once):
            some = questions[start : start + at_once]
            await self._let_in(len(some), PATIENCE_S if start else 0)
            futures: list[asyncio.Future[Answer]] = [self._loop.create_future() for _ in some]
            self._waiting += [(asked, partial(_put, future)) for asked, future in zip(some, futures, strict=True)]
            self._see_to_it()
            answers += await asyncio.gather(*futures)
        return answers

    def _admit(self, number: int) -> None:
        if self._stopping or (self._waiting and len(self._waiting) + number > self._most):
            raise Overloaded("questions")

    async def _let_in(self, number: int, patience_s: float) -> None:
        deadline = time.perf_counter() + patience_s
        while True:
            try:
                return self._admit(number)
            except Overloaded:
                if self._stopping or time.perf_counter() >= deadline:
                    raise
            await asyncio.sleep(WAIT_S / 4)

    def _see_to_it(self) -> None:
        if not self._is_due and self._looking_up < AT_ONCE:
            self._is_due = True
            self._loop.call_soon(self._look_up)  # what came in this turn of the loop comes along

    def _look_up(self) -> None:
        self._is_due = False
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]
        if not batch:
            return
        users = [question.user for question, _ in batch if question.record is None and question.user is not None]
        if not users:
            self._answer(batch, [])
            if self._waiting:  # more than one batch holds, and no look-up to come back from
                self._see_to_it()
            return
        self._looking_up += 1
        self._lookups.ask(self._keys(users), partial(self._found, batch, time.perf_counter()))

    def _found(self, batch: list[Asked], asked_at: float, found: Found) -> None:
        self._looking_up -= 1
        self._recommender.stages.lap("look up", asked_at)
        if self._waiting:
            self._look_up()
        self._answer(batch, found)

    def _answer(self, batch: list[Asked], found: Found) -> None:
        """To each its answer; a mistake of ours all askers of the batch get, and nobody else."""
        questions = [question for question, _ in batch]
        try:
            answers = self._recommender.answer(questions, _records(questions, found))
        except Exception as error:  # not swallowed: the askers get it
            for _, done in batch:
                _tell(done, error)
            return
        self._on_batch(len(batch))
        since = time.perf_counter()
        for (_, done), answer in zip(batch, answers, strict=True):
            _tell(done, answer)
        self._recommender.stages.lap("reply", since)
        self._keep_pace(len(batch))

    def _keep_pace(self, answered: int) -> None:
        """Learn what an answer takes, with all that is done around it, while there is always a next one.

        Two batches may wait at any pace: with one, there would be no next one, and a bad moment be learnt for good.
        """
        now = time.perf_counter()
        if self._busy_since is not None:
            self._each_s += LEARNS * ((now - self._busy_since) / answered - self._each_s)
            self._most = min(self._max_waiting, max(2 * self._max_batch, int(WAIT_S / self._each_s)))
        self._busy_since = now if self._waiting else None


def _tell(done: Done, outcome: Answer | Exception) -> None:
    """One asker who cannot take it keeps nobody else from theirs."""
    try:
        done(outcome)
    except Exception:
        logger.exception("an answer was not taken")


def _put(future: asyncio.Future[Answer], outcome: Answer | Exception) -> None:
    if future.done():
        return  # the asker went away
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _records(questions: Sequence[Question], found: Found) -> list[bytes | None]:
    """Each question's record, its own or the stored one; None where the store did not answer."""
    if isinstance(found, StoreUnavailable):
        return [b"" if q.user is None and q.record is None else q.record for q in questions]
    following = iter(found)
    return [_own(q) if q.record is not None or q.user is None else next(following) for q in questions]


def _own(question: Question) -> bytes:
    return question.record or b""

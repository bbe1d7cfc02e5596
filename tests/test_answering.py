"""Questions answered together: one asker's trouble is nobody else's, and a bad moment is not remembered for good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from serving.answering import Answering
from serving.answers import Answer, Recommender
from serving.live import Live
from serving.questions import Question
from serving.recent import RecentItems
from serving.refusals import Overloaded
from store.connection import Client
from store.lookups import Lookups

NOBODY = Question(None, b"")  # needs no look-up


def answering(client: Client, *, max_batch: int, on_batch: Callable[[int], None] = lambda _: None) -> Answering:
    recommender = Recommender(lambda: Live(None), RecentItems())
    return Answering(recommender, lambda _: [], Lookups(client), max_batch=max_batch, on_batch=on_batch)


def test_an_asker_who_cannot_take_the_answer_keeps_nobody_else_from_theirs(redis_client: Client) -> None:
    taken: list[str] = []

    def cannot(_: Answer | Exception) -> None:
        raise RuntimeError("gone")

    async def story() -> None:
        questions = answering(redis_client, max_batch=4)
        await questions.start()
        questions.submit(NOBODY, lambda _: taken.append("first"))
        questions.submit(NOBODY, cannot)
        questions.submit(NOBODY, lambda _: taken.append("third"))
        await questions.stop()

    asyncio.run(story())
    assert taken == ["first", "third"]


def test_after_a_bad_moment_as_many_may_wait_as_before_it(redis_client: Client) -> None:
    halt_s = 0.3

    async def asked(questions: Answering, number: int) -> int:
        """How many of so many that come at once are refused; returns when the others are answered."""
        refused, futures = 0, []
        for _ in range(number):
            future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            try:
                questions.submit(NOBODY, future.set_result)
                futures.append(future)
            except Overloaded:
                refused += 1
        await asyncio.gather(*futures)
        return refused

    async def story() -> None:
        nonlocal halt_s
        questions = answering(redis_client, max_batch=2, on_batch=lambda _: time.sleep(halt_s))
        await questions.start()
        assert await asked(questions, 6) == 0
        halt_s = 0.0
        assert await asked(questions, 30) > 0  # the pace of that moment allows few
        for _ in range(300):
            await asked(questions, 4)
        assert await asked(questions, 30) == 0
        await questions.stop()

    asyncio.run(story())


def test_every_part_of_a_large_request_is_let_in_like_a_question_of_its_own(redis_client: Client) -> None:
    """Two hundred questions in one request, while others ask as much as may wait, and once they do no more."""

    async def story() -> None:
        questions = answering(redis_client, max_batch=4, on_batch=lambda _: time.sleep(0.02))
        await questions.start()

        async def crowd() -> None:
            while True:
                with suppress(Overloaded):
                    while True:
                        questions.submit(NOBODY, lambda _: None)
                await asyncio.sleep(0)

        for _ in range(20):
            questions.submit(NOBODY, lambda _: None)
        await asyncio.sleep(0.3)  # the pace is known by now
        asking = asyncio.create_task(questions.ask([NOBODY] * 200))
        await asyncio.sleep(0)  # its first part is in
        crowding = asyncio.create_task(crowd())
        with pytest.raises(Overloaded):
            await asking
        crowding.cancel()
        await asyncio.sleep(0.5)
        assert len(await questions.ask([NOBODY] * 200)) == 200
        await questions.stop()

    asyncio.run(story())

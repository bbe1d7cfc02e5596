"""The batcher: what arrives together is worked on together, and nobody pays for another's trouble."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from serving.batcher import Batcher
from serving.refusals import Overloaded


class Doubling:
    """Doubles numbers, one batch at a time, when allowed to go on; -1 is more than it can take."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.began = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.began.set()
        assert self.may_go_on.wait(5)
        if -1 in numbers:
            raise ArithmeticError("-1 cannot be doubled here")
        return [2 * number for number in numbers]

    async def hold(self, batcher: Batcher[int, int]) -> asyncio.Future[int]:
        """Asks 0 and returns once the worker is busy with it."""
        self.may_go_on.clear()
        self.began.clear()
        first = batcher.ask(0)
        assert await asyncio.to_thread(self.began.wait, 5)
        return first


def test_what_arrives_while_the_worker_is_busy_is_one_batch() -> None:
    async def story() -> None:
        work = Doubling()
        batcher = Batcher("numbers", work)
        batcher.start()
        first = await work.hold(batcher)
        others = [batcher.ask(number) for number in range(1, 6)]
        work.may_go_on.set()
        assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10]
        assert work.batches == [[0], [1, 2, 3, 4, 5]]
        await batcher.stop()
        assert not batcher.is_alive()

    asyncio.run(story())


def test_after_a_batch_of_several_the_worker_waits_for_more_and_after_one_alone_it_does_not() -> None:
    async def story() -> None:
        work = Doubling()
        batcher = Batcher("numbers", work, gather_s=0.3)
        batcher.start()
        first = await work.hold(batcher)
        others = [batcher.ask(number) for number in (1, 2)]
        work.may_go_on.set()
        await asyncio.gather(first, *others)
        early = batcher.ask(3)
        await asyncio.sleep(0.05)
        await asyncio.gather(early, batcher.ask(4))
        assert work.batches == [[0], [1, 2], [3, 4]]
        await batcher.stop()

    asyncio.run(story())


def test_a_batch_is_closed_at_its_limit() -> None:
    async def story() -> None:
        work = Doubling()
        batcher = Batcher("numbers", work, max_batch=3)
        batcher.start()
        first = await work.hold(batcher)
        others = [batcher.ask(number) for number in range(1, 8)]
        work.may_go_on.set()
        await asyncio.gather(first, *others)
        assert work.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]
        await batcher.stop()

    asyncio.run(story())


def test_an_error_reaches_the_askers_of_its_batch_and_nobody_else() -> None:
    async def story() -> None:
        work = Doubling()
        batcher = Batcher("numbers", work, max_batch=2)
        batcher.start()
        first = await work.hold(batcher)
        others = [batcher.ask(number) for number in (1, -1, 3, 4)]
        work.may_go_on.set()
        outcomes = await asyncio.gather(first, *others, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [int, ArithmeticError, ArithmeticError, int, int]
        assert await batcher.ask(21) == 42
        await batcher.stop()

    asyncio.run(story())


def test_who_goes_away_costs_the_others_nothing() -> None:
    async def story() -> None:
        work = Doubling()
        batcher = Batcher("numbers", work)
        batcher.start()
        first = await work.hold(batcher)
        gone, stays = batcher.ask(1), batcher.ask(2)
        gone.cancel()
        work.may_go_on.set()
        assert (await first, await stays) == (0, 4)
        await batcher.stop()

    asyncio.run(story())


def test_beyond_the_limit_questions_are_refused_until_some_are_answered() -> None:
    async def story() -> None:
        work = Doubling()
        batcher = Batcher("numbers", work, max_waiting=3)
        batcher.start()
        first = await work.hold(batcher)
        others = [batcher.ask(1), batcher.ask(2)]
        with pytest.raises(Overloaded) as refused:
            batcher.ask(3)
        assert refused.value.status == 503
        work.may_go_on.set()
        await asyncio.gather(first, *others)
        assert await batcher.ask(3) == 6
        await batcher.stop()

    asyncio.run(story())


def test_what_was_asked_before_the_end_is_answered_and_what_comes_after_is_refused() -> None:
    async def story() -> None:
        work = Doubling()
        batcher = Batcher("numbers", work)
        batcher.start()
        first = await work.hold(batcher)
        second = batcher.ask(1)
        ending = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            batcher.ask(2)
        work.may_go_on.set()
        await ending
        assert (await first, await second) == (0, 2)

    asyncio.run(story())

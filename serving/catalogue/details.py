"""What is known of the items of an answer, put into it: title, address, image, price.

Looked up for all items of an answer in one question to the store, inside the event loop; what was found is remembered
until anything in the catalogue changes. Who does not ask for details pays nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import orjson

from serving.answers import Answer
from serving.questions import Question
from serving.served import beginning
from store.connection import StoreUnavailable
from store.lookups import Found, Lookups

KEPT_ITEMS = 20_000  # each some hundred bytes
Done = Callable[[Answer | Exception], None]
HEAD, TAIL = beginning("").split(b'""')


class Details:
    """Asked from one event loop. lookups: of items' fields by their ids; None where nothing is known of any."""

    def __init__(self, lookups: Lookups | None) -> None:
        self._lookups = lookups
        self._kept: dict[str, bytes] = {}

    async def start(self) -> None:
        """Called once, inside the loop that will ask."""
        if self._lookups is not None:
            await self._lookups.start()

    async def stop(self) -> None:
        if self._lookups is not None:
            self._lookups.stop()

    def forget(self) -> None:
        """What is remembered is not so any more. From any thread: what is looked up at this moment is not kept."""
        self._kept = {}

    def before(self, done: Done) -> Done:
        """Takes an answer, and has `done` called with it once details are in it."""

        def take(outcome: Answer | Exception) -> None:
            if isinstance(outcome, Exception):
                done(outcome)
            else:
                self.fill(outcome, done)

        return take

    def fill(self, answer: Answer, done: Callable[[Answer], None]) -> None:
        """Have `done` called, now or later, with the answer and what is known of its items.

        Where the store is away nothing more is, and the answer says that it is degraded.
        """
        kept, ids = self._kept, [_id_of(item) for item in answer.items]
        known = {item: kept[item] for item in ids if item in kept}
        missing = [item for item in ids if item not in known]
        if not missing or self._lookups is None:
            done(_filled(answer, [known.get(item, b"") for item in ids]))
            return

        def found(fields: Found) -> None:
            is_away = isinstance(fields, StoreUnavailable)
            if not isinstance(fields, StoreUnavailable):
                new = dict(zip(missing, fields, strict=True))
                known.update(new)
                if len(kept) + len(new) > KEPT_ITEMS:
                    kept.clear()
                kept.update(new)
            filled = _filled(answer, [known.get(item, b"") for item in ids])
            done(filled._replace(degraded=True) if is_away else filled)

        self._lookups.ask([item.encode() for item in missing], found)

    async def asked(self, questions: Sequence[Question], answers: list[Answer]) -> list[Answer]:
        """The answers, with details if the questions, which are alike in that, ask for them."""
        if not questions[0].details:
            return answers
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in answers]
        for answer, future in zip(answers, futures, strict=True):
            self.fill(answer, lambda filled, future=future: None if future.done() else future.set_result(filled))  # type: ignore[misc]
        return list(await asyncio.gather(*futures))


def _id_of(item: bytes) -> str:
    item_id: str = orjson.loads(item[len(HEAD) : -len(TAIL)])
    return item_id


def _filled(answer: Answer, fields: Sequence[bytes]) -> Answer:
    """fields: of each item, a JSON object or nothing."""
    items = [
        b"%b,%b%b" % (item[: -len(TAIL)], known[1:-1], TAIL) if len(known) > 2 else item
        for item, known in zip(answer.items, fields, strict=True)
    ]
    return answer._replace(items=items)

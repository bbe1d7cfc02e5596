"""The clients of a replay: recorded events through HTTP as fast as it goes, with questions before some of them.

Users are spread over lanes. A lane asks its questions, then posts the events they were asked before, then goes on, and
never has a question in hand together with an earlier event of the same user.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple
from zlib import crc32

import aiohttp
import orjson

from ledstream.scoring import PopularLately
from stream.events import Event

K = 20
HOUR_MS = 3_600_000
RANKED_EVERY_MS = 60_000
RETRY_FOR_S = 60.0


class Question(NamedTuple):
    """Asked before the event. The two lists are the baselines' answers at the event's own time."""

    user: str
    next_item: str
    last_hour: list[str]
    last_day: list[str]


class Asked(NamedTuple):
    """One answer: when the question was sent, how long it took, from which release, and who would have hit."""

    at_s: float
    seconds: float
    release: str | None
    is_personal: bool
    hits: tuple[bool, bool, bool]  # the answer, the last hour, the last day


@dataclass
class Seen:
    """What the clients have seen so far."""

    events: int = 0  # accepted
    rejected: int = 0
    post_retries: int = 0
    answer_errors: int = 0
    asked: list[Asked] = field(default_factory=list)
    newest: str | None = None  # release of the answer that came last
    clock_ms: int = 0  # time of the newest event dispatched
    item: str = ""  # its item


class Popularity:
    """The two baselines, by event time, and what each user has seen."""

    def __init__(self) -> None:
        self._hour = PopularLately(window_ms=HOUR_MS, refresh_ms=RANKED_EVERY_MS)
        self._day = PopularLately(window_ms=24 * HOUR_MS, refresh_ms=RANKED_EVERY_MS)
        self._seen: dict[str, set[str]] = defaultdict(set)

    def add(self, event: Event) -> None:
        self._hour.add(event.item_id, event.time_ms)
        self._day.add(event.item_id, event.time_ms)
        self._seen[event.user_id].add(event.item_id)

    def question(self, event: Event) -> Question | None:
        """What to ask before the event; None where its user is new, or has had the item."""
        seen = self._seen.get(event.user_id)
        if seen is None or event.item_id in seen:
            return None
        hour, day = (window.top(K, seen, event.time_ms) for window in (self._hour, self._day))
        return Question(event.user_id, event.item_id, hour, day)


_Lane = asyncio.Queue[tuple[Event, Question | None] | None]


class ReplayLoad:
    """asked_share: of the events whose user is known and to whom the item is new."""

    def __init__(
        self, address: str, session: aiohttp.ClientSession, popularity: Popularity, *, asked_share: float, seed: int
    ) -> None:
        self._address, self._session, self._popularity = address, session, popularity
        self._asked_share, self._random = asked_share, Random(seed)
        self._slots = asyncio.Semaphore(64)
        self.seen = Seen()
        self.going = asyncio.Event()  # cleared by whoever wants the replay to stand still
        self.going.set()

    async def drive(self, events: Iterable[Event], *, lanes: int = 4, batch: int = 100) -> None:
        """Send all events, in order for each user; returns when all are accepted and all questions answered."""
        queues: list[_Lane] = [asyncio.Queue(2 * batch) for _ in range(lanes)]
        async with asyncio.TaskGroup() as tasks:
            for queue in queues:
                tasks.create_task(self._send(queue, batch))
            for event in events:
                await self.going.wait()
                question = self._popularity.question(event) if self._random.random() < self._asked_share else None
                self._popularity.add(event)
                self.seen.clock_ms, self.seen.item = event.time_ms, event.item_id
                await queues[crc32(event.user_id.encode()) % lanes].put((event, question))
            for queue in queues:
                await queue.put(None)

    async def _send(self, queue: _Lane, batch: int) -> None:
        entry = await queue.get()
        while entry is not None:
            events: list[Event] = []
            questions: list[Question] = []
            users: set[str] = set()
            while entry is not None and len(events) < batch:
                event, question = entry
                if question is not None and event.user_id in users:
                    break  # what is asked must come after what was posted
                events.append(event)
                users.add(event.user_id)
                if question is not None:
                    questions.append(question)
                entry = await queue.get()
            await asyncio.gather(*map(self._ask, questions))
            await self._post(events)

    async def _ask(self, question: Question) -> None:
        async with self._slots:
            started = time.perf_counter()
            try:
                url = f"{self._address}/v1/recommendations?user={question.user}&k={K}"
                async with self._session.get(url) as response:
                    body = await response.read()
            except (aiohttp.ClientError, TimeoutError):
                self.seen.answer_errors += 1
                return
            seconds = time.perf_counter() - started
        if response.status != 200:
            self.seen.answer_errors += 1
            return
        answer = orjson.loads(body)
        items = [item["item_id"] for item in answer["items"]]
        hits = tuple(question.next_item in ranked for ranked in (items, question.last_hour, question.last_day))
        release, is_personal = answer["release"], answer["source"] == "personal"
        self.seen.asked.append(Asked(started, seconds, release, is_personal, (hits[0], hits[1], hits[2])))
        self.seen.newest = release

    async def _post(self, events: Sequence[Event]) -> None:
        """Returns when each event is accepted or rejected; what failed is sent again under the same id."""
        deadline = time.monotonic() + RETRY_FOR_S
        while events:
            body = orjson.dumps([{n: v for n, v in event._asdict().items() if v is not None} for event in events])
            try:
                async with self._session.post(f"{self._address}/v1/events", data=body) as response:
                    content = await response.read()
                verdicts = orjson.loads(content)["verdicts"] if response.status in (202, 400) else None
            except (aiohttp.ClientError, TimeoutError):
                verdicts = None
            statuses = [verdict["status"] for verdict in verdicts] if verdicts else ["failed"] * len(events)
            self.seen.events += statuses.count("accepted")
            self.seen.rejected += statuses.count("rejected")
            events = [event for event, status in zip(events, statuses, strict=True) if status == "failed"]
            if events:
                self.seen.post_retries += 1
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(events)} events were not accepted in {RETRY_FOR_S:g} s")
                await asyncio.sleep(0.2)

"""Drives a running server over HTTP: posts events, asks for recommendations before some of them, keeps score.

An event and the question before it stay in order for each user: users are spread over lanes, a lane sends one batch
after the other, and a batch is sent when its questions are answered. Every event has an event_id, so that sending it
again after a failure counts once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote
from zlib import crc32

import aiohttp
import orjson
from prometheus_client.parser import text_string_to_metric_families

from ledstream.scoring import Latencies, Ledger, PopularLately, Recall
from stream.events import EVENTS_PER_POST, Event

FLUSH_EVERY_S = 0.03  # how long a batch waits for company when events come at their own pace
RETRY_FOR_S = 60.0
CHECKS_AT_ONCE = 16


class TrafficError(RuntimeError):
    """The server refuses what the driver sends, or did not accept it for a minute."""


@dataclass(frozen=True)
class TrafficSettings:
    """address: http://host:port. run: prefix of event ids, another for every run. asked_share: of events.

    paced: events are sent when their time_ms comes; otherwise as fast as the server takes them.
    idle_after_s: after which the server's user records expire; None: not while this lasts. key: of a site, where the
    server wants one with events.
    """

    address: str
    run: str
    asked_share: float = 1.0
    k: int = 20
    paced: bool = True
    idle_after_s: float | None = None
    lanes: int = 4
    batch: int = 200
    questions_at_once: int = 64
    timeout_s: float = 5.0
    key: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.asked_share <= 1:
            raise ValueError(f"asked_share = {self.asked_share}: must lie in 0..1")
        if not 1 <= self.batch <= EVENTS_PER_POST:
            raise ValueError(f"batch = {self.batch}: must lie in 1..{EVENTS_PER_POST}")


@dataclass
class Figures:
    """What happened so far. An answer error is a question without a proper answer; degraded answers are proper ones."""

    answers: int = 0
    personal: int = 0
    degraded: int = 0
    answer_errors: int = 0
    post_retries: int = 0
    rejected: int = 0
    errors: list[str] = field(default_factory=list)  # the first few, in words
    releases: list[str] = field(default_factory=list)  # in the order they were first seen in an answer
    first_personal_at: float | None = None  # Unix seconds
    recall: Recall = field(default_factory=Recall)
    latencies: Latencies = field(default_factory=Latencies)
    recent_latencies: Latencies = field(default_factory=Latencies)  # the reader replaces it when it likes

    @property
    def swaps(self) -> int:
        """How often answers changed from one release to a newer one."""
        return max(0, len(self.releases) - 1)

    def failed(self, what: str) -> None:
        if len(self.errors) < 5:
            self.errors.append(what)


@dataclass(frozen=True)
class _Question:
    """Asked before the event. popular: the baseline's answer; None where the next item would not count."""

    user: str
    next_item: str
    popular: list[str] | None


_Lane = asyncio.Queue[tuple[Event, _Question | None] | None]


@asynccontextmanager
async def connected(settings: TrafficSettings) -> AsyncIterator[Traffic]:
    """A driver with connections of its own, closed on leaving."""
    connector = aiohttp.TCPConnector(limit=settings.questions_at_once + settings.lanes + CHECKS_AT_ONCE)
    timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Traffic(settings, session)


class Traffic:
    """One run against one server. `figures` and `ledger` may be read at any time from the same thread."""

    def __init__(self, settings: TrafficSettings, session: aiohttp.ClientSession) -> None:
        self._settings, self._session = settings, session
        self._random = Random(settings.run).random
        self._slots = asyncio.Semaphore(settings.questions_at_once)
        self._popular = PopularLately()
        self._numbered = 0
        self.figures = Figures()
        self.ledger = Ledger(idle_after_s=settings.idle_after_s)

    async def drive(self, events: Iterable[Event], stop: asyncio.Event) -> None:
        """Send events until there are none or stop is set; returns when what was sent is accepted and answered."""
        lanes: list[_Lane] = [asyncio.Queue(self._settings.batch) for _ in range(self._settings.lanes)]
        try:
            async with asyncio.TaskGroup() as tasks:
                for lane in lanes:
                    tasks.create_task(self._send(lane))
                checks = tasks.create_task(self._check_idle_users())
                async for event in self._due(events, stop):
                    await self._dispatch(event, lanes[crc32(event.user_id.encode()) % len(lanes)])
                for lane in lanes:
                    await lane.put(None)
                checks.cancel()
        except BaseExceptionGroup as group:
            for error in group.exceptions:
                if isinstance(error, TrafficError):
                    raise error from None
            raise

    async def verify(self, *, patience_s: float = 10.0, progress: Callable[[int], None] | None = None) -> None:
        """Compare every record not yet seen to agree; what does not agree within patience_s goes into the ledger.

        progress is told how many users are left to compare. Raises TrafficError if the server does not answer.
        """
        deadline = time.monotonic() + patience_s
        is_final = False
        while users := list(self.ledger.unchecked()):
            for first in range(0, len(users), 256):
                if progress:
                    progress(len(users) - first)
                await self._check(users[first : first + 256], final=is_final)
            is_final = time.monotonic() > deadline

    async def metrics(self) -> dict[str, float]:
        """The server's own figures by name, summed over labels. Raises TrafficError where it does not answer."""
        text = await self._get("/metrics")
        figures: dict[str, float] = {}
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                figures[sample.name] = figures.get(sample.name, 0.0) + sample.value
        return figures

    async def _due(self, events: Iterable[Event], stop: asyncio.Event) -> AsyncIterator[Event]:
        """The events, each when its time has come if paced."""
        for event in events:
            while self._settings.paced and not stop.is_set() and (wait_s := event.time_ms / 1000 - time.time()) > 0:
                await asyncio.sleep(min(max(wait_s, 0.005), 0.2))  # a few events share a wake-up
            if stop.is_set():
                return
            yield event

    async def _dispatch(self, event: Event, lane: _Lane) -> None:
        """Put the event in line, perhaps with a question to ask before it."""
        now_s, user, item = time.time(), event.user_id, event.item_id
        question = None
        if self._random() < self._settings.asked_share:
            seen = self.ledger.seen(user)
            popular = None if item in seen else self._popular.top(self._settings.k, seen, int(now_s * 1000))
            question = _Question(user, item, popular)
        self.ledger.sending(user, item, now_s)
        self._popular.add(item, int(now_s * 1000))
        if event.event_id is None:
            event = event._replace(event_id=f"{self._settings.run}-{self._numbered}")
            self._numbered += 1
        await lane.put((event, question))

    async def _send(self, lane: _Lane) -> None:
        """Empty the lane batch by batch until None comes."""
        is_open = True
        while is_open:
            waiting = [await lane.get()]
            if self._settings.paced:
                await asyncio.sleep(FLUSH_EVERY_S)
            while len(waiting) < self._settings.batch and not lane.empty():
                waiting.append(lane.get_nowait())
            is_open = waiting[-1] is not None
            batch = [entry for entry in waiting if entry is not None]
            await asyncio.gather(*(self._ask(question) for _, question in batch if question))
            if batch:
                await self._post([event for event, _ in batch])

    async def _ask(self, question: _Question) -> None:
        user = quote(question.user, safe="")
        started = time.perf_counter()
        try:
            async with self._slots:
                if not self._settings.paced:  # waiting for one's turn is the server's slowness only if paced
                    started = time.perf_counter()
                body = await self._get(f"/v1/recommendations?user={user}&k={self._settings.k}")
            self._score(question, _Answer.parse(body), time.perf_counter() - started)
        except TrafficError as error:
            self.figures.answer_errors += 1
            self.figures.failed(str(error))

    def _score(self, question: _Question, answer: _Answer, seconds: float) -> None:
        figures = self.figures
        figures.answers += 1
        figures.degraded += answer.degraded
        figures.latencies.add(seconds)
        figures.recent_latencies.add(seconds)
        if answer.release is not None and answer.release not in figures.releases:
            figures.releases.append(answer.release)
        if answer.personal:
            figures.personal += 1
            figures.first_personal_at = figures.first_personal_at or time.time()
            if question.popular is not None:
                item = question.next_item
                figures.recall.record(personal=item in answer.items, popular=item in question.popular)

    async def _post(self, events: list[Event]) -> None:
        """Returns when every event is accepted or rejected. Failures are sent again under the same ids."""
        deadline, pause_s = time.monotonic() + RETRY_FOR_S, 0.05
        while events:
            verdicts = await self._posted(events)
            by_status: dict[str, list[Event]] = {"accepted": [], "rejected": [], "failed": []}
            for event, verdict in zip(events, verdicts, strict=True):
                by_status[verdict["status"]].append(event)
                if verdict["status"] != "accepted":
                    self.figures.failed(f"event {event}: {verdict}")
            self.ledger.accepted(event.user_id for event in by_status["accepted"])
            self.figures.rejected += len(by_status["rejected"])
            events = by_status["failed"]
            if events:
                self.figures.post_retries += 1
                if time.monotonic() > deadline:
                    raise TrafficError(f"{len(events)} events not accepted in {RETRY_FOR_S:g} s: {verdicts[-1]}")
                await asyncio.sleep(pause_s)
                pause_s = min(2.0, 2 * pause_s)

    async def _posted(self, events: list[Event]) -> list[dict[str, Any]]:
        """A verdict for each event; "failed" for all if the server could not answer."""
        body = orjson.dumps({"events": [_body(event) for event in events]})
        url, headers = f"{self._settings.address}/v1/events", {"content-type": "application/json"}
        if self._settings.key:
            headers["x-ledstream-key"] = self._settings.key
        try:
            async with self._session.post(url, data=body, headers=headers) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return [{"status": "failed", "reason": f"{type(error).__name__} {error}"}] * len(events)
        if response.status in (200, 202):
            verdicts: list[dict[str, Any]] = orjson.loads(content)["verdicts"]
            return verdicts
        if response.status < 500 and response.status != 429:
            raise TrafficError(f"POST /v1/events: {response.status} {content[:200].decode(errors='replace')}")
        return [{"status": "failed", "reason": f"{response.status}"}] * len(events)

    async def _check_idle_users(self) -> None:
        """See that the records of idle users agree, before they expire. Runs until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            now_s = time.time()
            with suppress(TrafficError):  # the next round tries again
                await self._check(self.ledger.due(now_s), final=False)
            self.ledger.forget_gone(now_s)

    async def _check(self, users: list[str], *, final: bool) -> None:
        slots = asyncio.Semaphore(CHECKS_AT_ONCE)

        async def check(user: str) -> None:
            async with slots:
                body = await self._get(f"/v1/users/{quote(user, safe='')}", missing=b'{"events":0}')
            self.ledger.check(user, orjson.loads(body)["events"], final=final)

        await asyncio.gather(*(check(user) for user in users))

    async def _get(self, path: str, *, missing: bytes | None = None) -> bytes:
        """The body of a 200; `missing`, if given, for a 404. Raises TrafficError for anything else."""
        try:
            async with self._session.get(self._settings.address + path) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TrafficError(f"GET {path}: {type(error).__name__} {error}") from None
        if response.status == 404 and missing is not None:
            return missing
        if response.status != 200:
            raise TrafficError(f"GET {path}: {response.status} {body[:200].decode(errors='replace')}")
        return body


@dataclass(frozen=True)
class _Answer:
    items: list[str]
    release: str | None
    personal: bool
    degraded: bool

    @classmethod
    def parse(cls, body: bytes) -> _Answer:
        """Raises TrafficError for what is no proper answer; one of a release that holds no items is none."""
        try:
            fields = orjson.loads(body)
            items = [item["item_id"] for item in fields["items"]]
            answer = cls(items, fields["release"], fields["source"] == "personal", bool(fields.get("degraded")))
        except (ValueError, KeyError, TypeError) as error:
            raise TrafficError(f"not an answer: {body[:200]!r} ({error!r})") from None
        if answer.release is not None and not items:
            raise TrafficError(f"an answer without items: {body[:200]!r}")
        return answer


def _body(event: Event) -> dict[str, Any]:
    """The event as posted: without the fields it does not have."""
    return {name: value for name, value in event._asdict().items() if value is not None}

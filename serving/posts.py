"""`POST /v1/events`: from a body to a verdict on each event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from serving.collector.post import Post, Sender, put_right
from serving.collector.rates import Rates, TooMany
from serving.collector.sorter import Sorter
from serving.publisher import Publisher, entry_of
from serving.recent import RecentItems
from stream.bad_rows import KEPT_BYTES, BadRow, as_entry
from stream.events import Border, Event, InvalidEvent
from stream.kept import Outcome
from stream.log import Position
from stream.spool import Addressed
from stream.topics import BAD_ROWS, EVENTS

CHECKED_AT_ONCE = 50  # events checked before other requests get a turn: about a quarter of a millisecond
BAD_ROWS_PER_S = 100.0  # kept of a site, by a process: who sends nothing else must not fill the log
NOBODY = Sender()


class Verdicts(NamedTuple):
    """What became of a post. accepted, rejected, failed: how many; verdicts: one each, in order.

    token: to ask for recommendations after the accepted events (`stream/tokens.py`); None where none of them goes into
    a user record, or where any of them is only on the disk, for the log to come back.
    """

    accepted: int
    rejected: int
    failed: int
    verdicts: Sequence[dict[str, Any]]
    token: str | None = None

    @property
    def status(self) -> int:
        """202 if any event is in the log; else 503 if the log failed one, else 400."""
        if self.accepted:
            return 202
        return 503 if self.failed else 400

    def to_json(self) -> bytes:
        told = self._asdict()
        if self.token is None:
            del told["token"]
        return orjson.dumps(told)


@dataclass
class Judged:
    """A post's events so far. accepted: with their places in the post; entries: what is to be appended for each.

    kept: entries of rejected ones.
    """

    sender: Sender
    now_ms: int
    ahead_ms: int
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    accepted: list[tuple[int, Event]] = field(default_factory=list)
    entries: list[Addressed] = field(default_factory=list)
    kept: list[Addressed] = field(default_factory=list)


class Posts:
    """Checks events at the border and hands the good ones to the log. Used inside one event loop.

    token: for events at these positions.
    """

    def __init__(
        self,
        border: Border,
        publisher: Publisher,
        recent: RecentItems,
        now_ms: Callable[[], int],
        token: Callable[[Iterable[Position]], str | None] = lambda _: None,
        *,
        events_per_s: float = 0,
    ) -> None:
        self._sorter, self._publisher, self._recent, self._now_ms = Sorter(border), publisher, recent, now_ms
        self._token = token
        self._tasks: set[asyncio.Future[Verdicts]] = set()
        self._rates, self._bad_rates = Rates(events_per_s), Rates(BAD_ROWS_PER_S)

    async def judge(self, post: Post, sender: Sender = NOBODY) -> Verdicts:
        """Returns when each event is kept, rejected or failed. Raises TooMany, Overloaded.

        An event that failed may be in the log all the same: send it again under the same event_id.
        """
        judged = self._begun(post, sender)
        for place, raw in enumerate(post.events):
            if place and place % CHECKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            self._check(judged, raw)
        entries = judged.entries + judged.kept
        return self._verdicts(judged, await self._publisher.ask(entries, len(entries)) if entries else ())

    def begin(self, post: Post, sender: Sender, done: Callable[[Verdicts | BaseException], None]) -> None:
        """As `judge`, without a task where there are few events; `done` is called, now or later. Raises the same."""
        if len(post.events) > CHECKED_AT_ONCE:
            task = asyncio.ensure_future(self.judge(post, sender))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda task: done(task.exception() or task.result()))
            return
        judged = self._begun(post, sender)
        for raw in post.events:
            self._check(judged, raw)
        entries = judged.entries + judged.kept
        if not entries:
            done(self._verdicts(judged, ()))
            return

        def told(asked: asyncio.Future[Sequence[Outcome]]) -> None:
            done(asked.exception() or self._verdicts(judged, asked.result()))

        self._publisher.ask(entries, len(entries)).add_done_callback(told)

    def _begun(self, post: Post, sender: Sender) -> Judged:
        self._rates.spend(sender.site, len(post.events))
        now_ms = self._now_ms()
        return Judged(sender, now_ms, post.ahead_ms(now_ms))

    def _check(self, judged: Judged, raw: Any) -> None:
        """The next event of a post."""
        try:
            event, topic = self._accept(put_right(raw, judged.ahead_ms), judged.sender, judged.now_ms)
            judged.entries.append(entry_of(event, judged.now_ms, topic))
            judged.accepted.append((len(judged.verdicts), event))
            judged.verdicts.append({"status": "accepted"})
        except InvalidEvent as error:
            verdict = {"field": error.field, "value": error.value, "reason": error.reason}
            judged.verdicts.append({"status": "rejected"} | verdict)
            judged.kept += self._bad_row(error, raw, judged.sender, (judged.now_ms, judged.ahead_ms))

    def _verdicts(self, judged: Judged, outcomes: Sequence[Outcome]) -> Verdicts:
        """What became of all of them. outcomes: of entries and kept."""
        failed, is_whole, positions = 0, True, list[Position]()
        for (place, event), entry, outcome in zip(judged.accepted, judged.entries, outcomes, strict=False):
            if isinstance(outcome, Exception):
                judged.verdicts[place] = {"status": "failed", "reason": str(outcome)}
                failed += 1
            elif entry.topic == EVENTS:
                self._recent.add((event.item_id,))
                if isinstance(outcome, Position):
                    positions.append(outcome)
                else:
                    is_whole = False  # on the disk: nobody knows yet where it will be
        accepted = len(judged.accepted) - failed
        rejected = len(judged.verdicts) - len(judged.accepted)
        token = self._token(positions) if positions and is_whole else None
        return Verdicts(accepted, rejected, failed, judged.verdicts, token)

    def _accept(self, raw: Any, sender: Sender, now_ms: int) -> tuple[Event, str]:
        """The event and its topic. Raises InvalidEvent."""
        if sender.is_bot:
            raise InvalidEvent("user-agent", sender.agent, "a program that names itself a bot")
        return self._sorter.accept(raw, now_ms)

    def _bad_row(self, error: InvalidEvent, raw: Any, sender: Sender, times_ms: tuple[int, int]) -> list[Addressed]:
        """What is kept of a refused event; nothing once its site has sent too many."""
        try:
            self._bad_rates.spend(sender.site, 1)
        except TooMany:
            return []
        try:
            shown = orjson.dumps(raw)[:KEPT_BYTES]
        except orjson.JSONEncodeError:  # nested deeper than it writes
            shown = b""
        row = BadRow(error.field, error.value, error.reason, shown, sender.site, sender.agent[:200], *times_ms)
        return [Addressed(BAD_ROWS, as_entry(row))]

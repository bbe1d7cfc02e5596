"""`POST /v1/events`: from a body to a verdict on each event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from serving.collector.post import Post, Sender, put_right, read_post
from serving.collector.rates import Rates, TooMany
from serving.collector.sorter import Sorter
from serving.publisher import Publisher, entry_of
from serving.recent import RecentItems
from stream.bad_rows import KEPT_BYTES, BadRow, as_entry
from stream.events import Border, Event, InvalidEvent
from stream.spool import Addressed
from stream.topics import BAD_ROWS, EVENTS

CHECKED_AT_ONCE = 50  # events checked before other requests get a turn: about a quarter of a millisecond
BAD_ROWS_PER_S = 100.0  # kept of a site, by a process: who sends nothing else must not fill the log
NOBODY = Sender()


class Verdicts(NamedTuple):
    """What became of a post. accepted, rejected, failed: how many; verdicts: one each, in order."""

    accepted: int
    rejected: int
    failed: int
    verdicts: Sequence[dict[str, Any]]

    @property
    def status(self) -> int:
        """202 if any event is in the log; else 503 if the log failed one, else 400."""
        if self.accepted:
            return 202
        return 503 if self.failed else 400

    def to_json(self) -> bytes:
        return orjson.dumps(self._asdict())


@dataclass
class Judged:
    """A post's events so far. accepted: with their places in the post; entries: what is to be appended for each.

    kept: entries of rejected ones.
    """

    verdicts: list[dict[str, Any]] = field(default_factory=list)
    accepted: list[tuple[int, Event]] = field(default_factory=list)
    entries: list[Addressed] = field(default_factory=list)
    kept: list[Addressed] = field(default_factory=list)


class Posts:
    """Checks events at the border and hands the good ones to the log. Used inside one event loop."""

    def __init__(
        self,
        border: Border,
        publisher: Publisher,
        recent: RecentItems,
        now_ms: Callable[[], int],
        events_per_s: float = 0,
    ) -> None:
        self._sorter, self._publisher, self._recent, self._now_ms = Sorter(border), publisher, recent, now_ms
        self._rates, self._bad_rates = Rates(events_per_s), Rates(BAD_ROWS_PER_S)

    async def take(self, body: bytes, sender: Sender = NOBODY) -> Verdicts:
        """Returns when each event is kept, rejected or failed. Raises Refused for a body that is no post.

        An event that failed may be in the log all the same: send it again under the same event_id.
        """
        return await self.judge(read_post(body, is_lines=sender.is_lines), sender)

    async def judge(self, post: Post, sender: Sender) -> Verdicts:
        """As `take`, of a post that was read. Raises TooMany."""
        self._rates.spend(sender.site, len(post.events))
        now_ms = self._now_ms()
        ahead_ms, judged = post.ahead_ms(now_ms), Judged()
        for place, raw in enumerate(post.events):
            if place and place % CHECKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                event, topic = self._accept(put_right(raw, ahead_ms), sender, now_ms)
                judged.entries.append(entry_of(event, now_ms, topic))
                judged.accepted.append((place, event))
                judged.verdicts.append({"status": "accepted"})
            except InvalidEvent as error:
                verdict = {"field": error.field, "value": error.value, "reason": error.reason}
                judged.verdicts.append({"status": "rejected"} | verdict)
                judged.kept += self._bad_row(error, raw, sender, (now_ms, ahead_ms))
        failed = await self._append(judged) if judged.entries or judged.kept else 0
        rejected = len(judged.verdicts) - len(judged.accepted)
        return Verdicts(len(judged.accepted) - failed, rejected, failed, judged.verdicts)

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

    async def _append(self, judged: Judged) -> int:
        """Number of events that failed, whose verdicts are changed."""
        entries = judged.entries + judged.kept
        outcomes = await self._publisher.ask(entries, len(entries))
        failed = 0
        for (place, event), entry, outcome in zip(judged.accepted, judged.entries, outcomes, strict=False):
            if isinstance(outcome, Exception):
                judged.verdicts[place] = {"status": "failed", "reason": str(outcome)}
                failed += 1
            elif entry.topic == EVENTS:
                self._recent.add((event.item_id,))
        return failed

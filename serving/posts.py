"""`POST /v1/events`: from a body to a verdict on each event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from serving.publisher import Publisher, entry_of
from serving.recent import RecentItems
from serving.refusals import Refused
from stream.events import EVENTS_PER_POST, Border, Event, InvalidEvent
from stream.log import Entry

CHECKED_AT_ONCE = 50  # events checked before other requests get a turn: about a quarter of a millisecond


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


class Posts:
    """Checks events at the border and hands the good ones to the log. Used inside one event loop."""

    def __init__(self, border: Border, publisher: Publisher, recent: RecentItems, now_ms: Callable[[], int]) -> None:
        self._border, self._publisher, self._recent, self._now_ms = border, publisher, recent, now_ms

    async def take(self, body: bytes) -> Verdicts:
        """Returns when each event is in the log, rejected or failed. Raises Refused for a body that is no post.

        An event that failed may be in the log all the same: send it again under the same event_id.
        """
        verdicts: list[dict[str, Any]] = []
        accepted: list[tuple[int, Event]] = []
        now_ms = self._now_ms()
        for place, raw in enumerate(read_body(body)):
            if place and place % CHECKED_AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                accepted.append((place, self._border.accept(raw, now_ms)))
                verdicts.append({"status": "accepted"})
            except InvalidEvent as error:
                verdicts.append(
                    {"status": "rejected", "field": error.field, "value": error.value, "reason": error.reason}
                )
        entries = [entry_of(event, now_ms) for _, event in accepted]
        failed = await self._append(accepted, entries, verdicts) if entries else 0
        return Verdicts(len(accepted) - failed, len(verdicts) - len(accepted), failed, verdicts)

    async def _append(
        self, accepted: Sequence[tuple[int, Event]], entries: Sequence[Entry], verdicts: list[dict[str, Any]]
    ) -> int:
        """Number of entries that failed, whose verdicts are changed."""
        outcomes = await self._publisher.ask(entries, len(entries))
        failed = 0
        for (place, event), outcome in zip(accepted, outcomes, strict=True):
            if isinstance(outcome, Exception):
                verdicts[place] = {"status": "failed", "reason": str(outcome)}
                failed += 1
            else:
                self._recent.add((event.item_id,))
        return failed


def read_body(body: bytes) -> list[Any]:
    """The raw events of a post: one object, a list, or {"events": list}. Raises Refused."""
    posted = read_json(body)
    if isinstance(posted, dict) and "events" in posted:
        for name in posted.keys() - {"events"}:
            raise Refused(name, posted[name], "unknown beside events")
        posted = posted["events"]
        if not isinstance(posted, list):
            raise Refused("events", posted, "must be a list of events")
    events = posted if isinstance(posted, list) else [posted]
    if not 1 <= len(events) <= EVENTS_PER_POST:
        raise Refused("events", f"{len(events)} events", f"a post holds 1 to {EVENTS_PER_POST}")
    return events


def read_json(body: bytes) -> Any:
    """The JSON value of a body. Raises Refused."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused("body", body[:80].decode("utf-8", "replace"), f"not JSON: {error}") from None

"""What a post holds, in each of its forms: a JSON object, a list, {"events": list, "sent_at": ms}, or a JSON a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from serving.refusals import Refused
from stream.events import EVENTS_PER_POST, MAX_TIME_MS

SKEW_BOUND_MS = 5_000  # a clock that is off by less is let be: so long may a slow network take
LINES = b"ndjson"


class Sender(NamedTuple):
    """Who posts. site: whose write key it is. is_lines: the body is a JSON value a line."""

    site: str = ""
    agent: str = ""
    is_bot: bool = False
    is_lines: bool = False


class Post(NamedTuple):
    """events: decoded JSON values. sent_ms: the sender's own clock when it sent them, where it said so."""

    events: Sequence[Any]
    sent_ms: int | None = None

    def ahead_ms(self, now_ms: int) -> int:
        """By how much the sender's clock is ahead of ours; 0 where it is about right, or unknown."""
        ahead = 0 if self.sent_ms is None else self.sent_ms - now_ms
        return ahead if abs(ahead) > SKEW_BOUND_MS else 0


def put_right(raw: Any, ahead_ms: int) -> Any:
    """The event with its time on our clock."""
    if not ahead_ms or not isinstance(raw, dict) or type(raw.get("time_ms")) is not int:
        return raw
    return raw | {"time_ms": raw["time_ms"] - ahead_ms}


def read_post(body: bytes, *, is_lines: bool = False) -> Post:
    """The post in a body. Raises Refused."""
    if is_lines:
        return Post(_bounded([read_json(line) for line in body.splitlines() if line.strip()]))
    posted = read_json(body)
    if not isinstance(posted, dict) or "events" not in posted:
        return Post(_bounded(posted if isinstance(posted, list) else [posted]))
    for name in posted.keys() - {"events", "sent_at"}:
        raise Refused(name, posted[name], "unknown beside events")
    sent_ms = posted.get("sent_at")
    if sent_ms is not None and (type(sent_ms) is not int or not 0 <= sent_ms < MAX_TIME_MS):
        raise Refused("sent_at", sent_ms, "must be Unix milliseconds")
    if not isinstance(posted["events"], list):
        raise Refused("events", posted["events"], "must be a list of events")
    return Post(_bounded(posted["events"]), sent_ms)


def read_json(body: bytes) -> Any:
    """The JSON value of a body. Raises Refused."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused("body", body[:80].decode("utf-8", "replace"), f"not JSON: {error}") from None


def _bounded(events: list[Any]) -> list[Any]:
    if not 1 <= len(events) <= EVENTS_PER_POST:
        raise Refused("events", f"{len(events)} events", f"a post holds 1 to {EVENTS_PER_POST}")
    return events

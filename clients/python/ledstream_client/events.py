"""What users do, how it is posted, and what became of it."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, NamedTuple

from ledstream_client.errors import Refused, Unavailable, UnexpectedAnswer, Unfinished, refusal
from ledstream_client.patience import Key, Reply, Request, Steps

EVENTS_PER_POST = 1000  # the server's bound
BYTES_PER_POST = 900_000  # it takes four megabytes; proxies before it may take one
TOO_LARGE = 413


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def new_id() -> str:
    return secrets.token_hex(12)


@dataclass(frozen=True)
class Event:
    """A user did something with an item, now unless time_ms says otherwise (Unix milliseconds).

    It has its id from the beginning: sent twice, by this client or by you, it counts once if the second time comes
    before fifteen more events of the user. value: money or a quantity. context: up to 16 short texts. Raises Refused
    for what no post can hold; the rest is for the server to judge.
    """

    user_id: str
    item_id: str
    kind: str
    _: KW_ONLY
    value: float | None = None
    context: Mapping[str, str] | None = None
    time_ms: int = field(default_factory=now_ms)
    event_id: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        texts = {name: getattr(self, name) for name in ("user_id", "item_id", "kind", "event_id")}
        for name, text in (
            *texts.items(),
            *(("context", part) for pair in (self.context or {}).items() for part in pair),
        ):
            if not isinstance(text, str):
                raise Refused(name, repr(text), "must be a text")
            try:
                text.encode()
            except UnicodeEncodeError:  # half of a pair: a server could not read the post that holds it
                raise Refused(name, ascii(text), "not valid Unicode") from None
        if self.value is not None and not math.isfinite(self.value):
            raise Refused("value", repr(self.value), "must be a finite number")

    def to_json(self) -> bytes:
        """As it is posted."""
        shown = {
            "user_id": self.user_id,
            "item_id": self.item_id,
            "kind": self.kind,
            "time_ms": self.time_ms,
            "event_id": self.event_id,
        }
        more = {"value": self.value, "context": dict(self.context) if self.context else None}
        shown |= {name: value for name, value in more.items() if value is not None}
        return json.dumps(shown, separators=(",", ":")).encode()


class Verdict(NamedTuple):
    """What became of an event: taken, refused for good (field, value and reason say why), or not taken for now."""

    event: Event
    status: Literal["accepted", "rejected", "failed"]
    field: str | None = None
    value: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Tracked:
    """verdicts: of each event, in order. tokens: by user, of the last post with an event of theirs that was accepted.

    Give it to `recommend(user, after=tracked)`, and the answer knows of these events.
    """

    verdicts: Sequence[Verdict]
    tokens: Mapping[str, str]

    @property
    def accepted(self) -> int:
        return sum(verdict.status == "accepted" for verdict in self.verdicts)

    @property
    def rejected(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.status == "rejected"]

    @property
    def failed(self) -> list[Event]:
        """Those to be sent again."""
        return [verdict.event for verdict in self.verdicts if verdict.status == "failed"]


class Board:
    """Verdicts so far, and events that have none yet."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.tokens: dict[str, str] = {}

    def add(self, event: Event) -> int:
        """Its place."""
        self.verdicts.append(Verdict(event, "failed", reason="not sent"))
        return len(self.verdicts) - 1

    def tracked(self) -> Tracked:
        return Tracked(self.verdicts, self.tokens)


@dataclass(frozen=True)
class Post(Request):
    """Events under way, by their places on a board. Our clock is told, so that a server puts wrong times right."""

    method: str = "POST"
    path: str = "/v1/events"
    key: Key = "write"
    board: Board = field(kw_only=True)
    places: Sequence[int] = field(kw_only=True)

    def content(self) -> bytes:
        events = b",".join(self.board.verdicts[place].event.to_json() for place in self.places)
        return b'{"sent_at":%d,"events":[%b]}' % (now_ms(), events)

    def rest(self, reply: Reply) -> Request | None:
        """Those that failed. Writes what became of the others on the board."""
        found = _verdicts(reply)
        if found is None:
            return super().rest(reply)
        verdicts, token = found
        if len(verdicts) != len(self.places):
            raise UnexpectedAnswer(f"{len(verdicts)} verdicts on {len(self.places)} events")
        board, failed = self.board, []
        for place, verdict in zip(self.places, verdicts, strict=True):
            event = board.verdicts[place].event
            about = [verdict.get(name) for name in ("field", "value", "reason")]
            board.verdicts[place] = Verdict(event, verdict["status"], *about)
            if verdict["status"] == "failed":
                failed.append(place)
            elif verdict["status"] == "accepted" and token:
                board.tokens[event.user_id] = token
        return Post(board=board, places=failed) if failed else None


def track_each(events: Iterable[Event]) -> Steps[Tracked]:
    """Posts in order, each as large as it may be; the next one when the one before has its verdicts."""
    board, begun = Board(), False
    pieces = parted(board, events)
    for places in pieces:
        try:
            yield from _posted(board, places)
        except (Refused, Unavailable) as error:
            if isinstance(error, Refused) and not begun:
                raise
            for _ in pieces:  # the rest is put on the board, and goes no further
                pass
            raise Unfinished(error, board.tracked()) from error
        begun = True
    return board.tracked()


def parted(board: Board, events: Iterable[Event]) -> Iterator[Sequence[int]]:
    """Places of as many events as a post holds, one post after the other; the events are put on the board."""
    places: list[int] = []
    size = 0
    for event in events:
        length = len(event.to_json()) + 1
        if places and (len(places) == EVENTS_PER_POST or size + length > BYTES_PER_POST):
            yield places
            places, size = [], 0
        places.append(board.add(event))
        size += length
    if places:
        yield places


def _posted(board: Board, places: Sequence[int]) -> Steps[None]:
    """One post; two halves where somebody on the way finds it too large."""
    reply = yield Post(board=board, places=places)
    if reply.status == TOO_LARGE and len(places) > 1:
        half = len(places) // 2
        yield from _posted(board, places[:half])
        yield from _posted(board, places[half:])
    elif _verdicts(reply) is None:
        raise refusal(reply.status, reply.body)


def _verdicts(reply: Reply) -> tuple[list[dict[str, Any]], str | None] | None:
    """With the token, if there is one. None: it is no answer about events."""
    try:
        answer = json.loads(reply.body)
    except ValueError:
        return None
    if not isinstance(answer, dict) or not isinstance(answer.get("verdicts"), list):
        return None
    return answer["verdicts"], answer.get("token")

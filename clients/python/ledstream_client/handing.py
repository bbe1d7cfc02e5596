"""Many things handed over in posts as large as they may be, with a verdict on each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from ledstream_client.errors import LedstreamError, Unavailable, UnexpectedAnswer, Unfinished, refusal
from ledstream_client.events import now_ms
from ledstream_client.patience import Key, Reply, Request, Steps

AT_ONCE = 1000  # the server's bound
BYTES_AT_ONCE = 900_000  # it takes four megabytes; proxies before it may take one
TOO_LARGE = 413
STATUSES = ("accepted", "rejected", "failed")


class Postable(Protocol):
    def to_json(self) -> bytes: ...


X = TypeVar("X", bound=Postable)


@dataclass(frozen=True)
class Verdict(Generic[X]):
    """Taken, refused for good (field, value and reason say why), or not taken for now."""

    about: X
    status: Literal["accepted", "rejected", "failed"]
    field: str | None = None
    value: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Taken(Generic[X]):
    """verdicts: on each, in order. tokens: by user, of the last post with an event of theirs that was accepted.

    Give it to `recommend(user, after=taken)`, and the answer knows of these events.
    """

    verdicts: Sequence[Verdict[X]]
    tokens: Mapping[str, str] = field(default_factory=dict)

    @property
    def accepted(self) -> int:
        return sum(verdict.status == "accepted" for verdict in self.verdicts)

    @property
    def rejected(self) -> list[Verdict[X]]:
        return [verdict for verdict in self.verdicts if verdict.status == "rejected"]

    @property
    def failed(self) -> list[X]:
        """Those to be sent again."""
        return [verdict.about for verdict in self.verdicts if verdict.status == "failed"]


class Form(NamedTuple):
    """How things are posted. head: what comes before them, made for each try. whose: whose token an answer's is."""

    method: str
    path: str
    key: Key
    head: Callable[[], bytes]
    whose: Callable[[Any], str]


# Our clock is told, so that a server puts times of a wrong one right.
EVENTS = Form(
    "POST", "/v1/events", "write", lambda: b'{"sent_at":%d,"events":[' % now_ms(), lambda event: event.user_id
)
ITEMS = Form("PUT", "/v1/items", "admin", lambda: b'{"items":[', lambda item: item.item_id)


class Board(Generic[X]):
    """Verdicts so far, and what has none yet."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.verdicts: list[Verdict[X]] = []
        self.tokens: dict[str, str] = {}

    def add(self, about: X) -> int:
        """Its place."""
        self.verdicts.append(Verdict(about, "failed", reason="not sent"))
        return len(self.verdicts) - 1

    def taken(self) -> Taken[X]:
        return Taken(self.verdicts, self.tokens)


@dataclass(frozen=True)
class Post(Request):
    """What stands on a board at some places, under way."""

    board: Board[Any] = field(kw_only=True)
    places: Sequence[int] = field(kw_only=True)

    @classmethod
    def of(cls, board: Board[Any], places: Sequence[int]) -> Post:
        return cls(board.form.method, board.form.path, board.form.key, board=board, places=places)

    def content(self) -> bytes:
        things = b",".join(self.board.verdicts[place].about.to_json() for place in self.places)
        return self.board.form.head() + things + b"]}"

    def rest(self, reply: Reply) -> Request | None:
        """What failed. Writes what became of the others on the board."""
        found = _verdicts(reply)
        if found is None:
            return super().rest(reply)
        verdicts, token = found
        if len(verdicts) != len(self.places):
            raise UnexpectedAnswer(f"{len(verdicts)} verdicts on {len(self.places)} that were posted")
        board, failed = self.board, []
        for place, verdict in zip(self.places, verdicts, strict=True):
            about, status = board.verdicts[place].about, verdict["status"]
            board.verdicts[place] = Verdict(about, status, *map(verdict.get, ("field", "value", "reason")))
            if status == "failed":
                failed.append(place)
            elif status == "accepted" and token:
                board.tokens[board.form.whose(about)] = token
        return Post.of(board, failed) if failed else None


def hand_over(form: Form, things: Iterable[X]) -> Steps[Taken[X]]:
    """Posts in order, each when the one before has its verdicts.

    Raises Unfinished; of the first post what it ends with, if asking again would not help (Refused, UnexpectedAnswer).
    """
    board, begun = Board[X](form), False
    pieces = parted(board, things)
    for places in pieces:
        try:
            yield from _posted(board, places)
        except LedstreamError as error:
            if not isinstance(error, Unavailable) and not begun:
                raise
            for _ in pieces:  # the rest is put on the board, and goes no further
                pass
            raise Unfinished(error, board.taken()) from error
        begun = True
    return board.taken()


def parted(board: Board[X], things: Iterable[X]) -> Iterator[Sequence[int]]:
    """Places of as much as a post holds, one post after the other; all of it is put on the board."""
    places: list[int] = []
    size = 0
    for about in things:
        length = len(about.to_json()) + 1
        if places and (len(places) == AT_ONCE or size + length > BYTES_AT_ONCE):
            yield places
            places, size = [], 0
        places.append(board.add(about))
        size += length
    if places:
        yield places


def _posted(board: Board[X], places: Sequence[int]) -> Steps[None]:
    """One post; two halves where somebody on the way finds it too large."""
    reply = yield Post.of(board, places)
    if reply.status == TOO_LARGE and len(places) > 1:
        half = len(places) // 2
        yield from _posted(board, places[:half])
        yield from _posted(board, places[half:])
    elif _verdicts(reply) is None:
        raise refusal(reply.status, reply.body)


def _verdicts(reply: Reply) -> tuple[list[dict[str, Any]], str | None] | None:
    """With the token, if there is one. None: it is no answer of this kind. Raises UnexpectedAnswer for other words."""
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict) or not isinstance(answer.get("verdicts"), list):
        return None
    for verdict in answer["verdicts"]:
        if not isinstance(verdict, dict) or verdict.get("status") not in STATUSES:
            raise UnexpectedAnswer(f"verdict = {verdict!r:.80}: should have one of the statuses {', '.join(STATUSES)}")
    return answer["verdicts"], answer.get("token")

"""How often something is asked, and when: apart from HTTP, from clocks and from whether anybody awaits.

A method of the clients is a generator of requests that is sent their replies. `conversation` makes of it a generator
of attempts and pauses, which `Client` carries out by blocking and `AsyncClient` by awaiting. Whatever is asked of a
ledstream server may be asked twice, so all of it is tried again: events carry ids, and the rest is the same done twice.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple, TypeVar

from ledstream_client.errors import LedstreamError, Unavailable, UnexpectedAnswer, refusal

T = TypeVar("T")
Key = Literal["none", "write", "admin"]
TIMEOUT, TOO_MANY, SERVER_FAILED = 408, 429, 500


class Reply(NamedTuple):
    """What came back. headers: by names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body. Raises UnexpectedAnswer."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):  # the latter of what nests without end
            raise UnexpectedAnswer(f"HTTP {self.status}, not JSON: {self.body[:80]!r}") from None

    def retry_after_s(self, now_s: float) -> float:
        """When to ask again, by the header: seconds, or a date; 0 where it does not say. now_s: Unix time."""
        said = self.headers.get("retry-after", "").strip()
        if said.isdecimal():
            return float(said)
        try:
            return max(0.0, parsedate_to_datetime(said).timestamp() - now_s)
        except (TypeError, ValueError):
            return 0.0


class NoReply(NamedTuple):
    """Why none came: no connection, an end in the middle, or it took too long."""

    reason: str


@dataclass(frozen=True)
class Request:
    """One question. path: with its query, encoded. body: made JSON. answers: statuses of failures that are answers."""

    method: str
    path: str
    key: Key = "none"
    body: Mapping[str, Any] | None = None
    answers: Collection[int] = ()

    def content(self) -> bytes | None:
        """The body as it is sent, made for each try. Raises TypeError, ValueError for what JSON cannot hold."""
        return None if self.body is None else json.dumps(self.body, allow_nan=False).encode()

    def rest(self, reply: Reply) -> Request | None:
        """What is to be asked again after this reply; None where it is an answer."""
        passing = reply.status in (TIMEOUT, TOO_MANY) or reply.status >= SERVER_FAILED
        return self if passing and reply.status not in self.answers else None


class Attempt(NamedTuple):
    """To be sent now, and answered by Reply or NoReply within so many seconds."""

    request: Request
    within_s: float


class Pause(NamedTuple):
    """To be waited."""

    s: float


Step = Attempt | Pause
Outcome = Reply | NoReply | None
Steps = Generator[Request, Reply, T]


@dataclass(frozen=True)
class Patience:
    """within_s: for a request with all its tries. try_within_s: for one of them.

    Before the n-th try again a time between 0 and first_pause_s * 2^(n-1), at most longest_pause_s, is waited, drawn
    anew: clients that failed together do not come back together. To that comes what the server asks for (Retry-After).
    """

    within_s: float = 10.0
    try_within_s: float = 3.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0
    draw: Callable[[], float] = field(default=random.random, repr=False)
    now_s: Callable[[], float] = field(default=time.monotonic, repr=False)
    wall_s: Callable[[], float] = field(default=time.time, repr=False)

    def __post_init__(self) -> None:
        for name in ("within_s", "try_within_s", "first_pause_s", "longest_pause_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")

    def pause_s(self, tries: int, asked_s: float = 0.0) -> float:
        """What to wait after so many tries. asked_s: what the server asked for."""
        return asked_s + self.draw() * min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(tries - 1, 60))


def conversation(steps: Steps[T], patience: Patience) -> Generator[Step, Outcome, T]:
    """All attempts and pauses of a method. Raises what it raises; what a request ends with is thrown into it first."""
    try:
        request = next(steps)
        while True:
            try:
                reply = yield from _tried(request, patience)
            except LedstreamError as error:
                request = steps.throw(error)
            else:
                request = steps.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result


def asked(request: Request) -> Steps[Any]:
    """The decoded body of an answer. Raises Refused, Unavailable, UnexpectedAnswer."""
    reply = yield request
    if reply.status not in range(200, 300) and reply.status not in request.answers:
        raise refusal(reply.status, reply.body)
    return reply.json()


def _tried(request: Request, patience: Patience) -> Generator[Step, Outcome, Reply]:
    until_s, tries = patience.now_s() + patience.within_s, 0
    while True:
        left_s = until_s - patience.now_s()
        outcome = yield Attempt(request, max(0.001, min(patience.try_within_s, left_s)))
        tries += 1
        asked_s = 0.0
        if isinstance(outcome, Reply):
            rest = request.rest(outcome)
            if rest is None:
                return outcome
            request, asked_s = rest, outcome.retry_after_s(patience.wall_s())
        pause_s = patience.pause_s(tries, asked_s)
        if patience.now_s() + pause_s >= until_s:
            raise Unavailable(_why(outcome), tries, asked_s)
        yield Pause(pause_s)


def _why(outcome: Outcome) -> str:
    if isinstance(outcome, Reply):
        return str(refusal(outcome.status, outcome.body))
    return outcome.reason if outcome else "no answer"

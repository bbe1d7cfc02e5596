"""The HTTP border of a peer, with paths and bodies as ours: `GET /v1/recommendations`, `POST /v1/events`, `/readyz`.

Runs under uvicorn in the peers' environment, so it imports nothing of ours beyond this folder.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs

import orjson

THREADS = (
    2  # one alone took questions as they came, a few to a call: Feast gave half the answers and used thrice the CPU
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Ranked(NamedTuple):
    """Items best first, and their scores."""

    item_ids: list[str]
    scores: list[float]


class Peer(Protocol):
    """A recommender to be compared. Called from several threads."""

    def answer(self, users: Sequence[str]) -> list[Ranked]:
        """The best twenty items of each user, without those seen."""

    def saw(self, user: str, item_id: str) -> None:
        """Returns when the next answer knows of it."""


class Question(NamedTuple):
    user: str
    answer: asyncio.Future[Ranked]


class Waiting:
    """Questions for `threads` calls at a time, each of up to `at_once` of those that wait. Used on one event loop."""

    def __init__(self, peer: Peer, *, threads: int, at_once: int) -> None:
        self._peer, self._free, self._at_once = peer, threads, at_once
        self._pool = ThreadPoolExecutor(threads)
        self._questions: deque[Question] = deque()

    async def ask(self, user: str) -> Ranked:
        loop = asyncio.get_running_loop()
        question = Question(user, loop.create_future())
        self._questions.append(question)
        if self._free:
            loop.call_soon(self._send)  # later, together with those that the same turn of the loop reads
        return await question.answer

    def _send(self) -> None:
        while self._free and self._questions:
            asked = [self._questions.popleft() for _ in range(min(self._at_once, len(self._questions)))]
            self._free -= 1
            call = self._pool.submit(self._peer.answer, [question.user for question in asked])
            asyncio.wrap_future(call).add_done_callback(partial(self._give, asked))

    def _give(self, asked: Sequence[Question], call: asyncio.Future[list[Ranked]]) -> None:
        self._free += 1
        self._send()
        error = call.exception()
        for place, question in enumerate(asked):
            if question.answer.done():
                continue  # its client went away
            if error:
                question.answer.set_exception(error)  # a 500, which is counted
            else:
                question.answer.set_result(call.result()[place])


class Application:
    """The ASGI application around a peer."""

    def __init__(self, peer: Peer, *, at_once: int) -> None:
        peer.answer(["user-0"])  # what is made at a first call is made before the first request
        self._peer, self._waiting = peer, Waiting(peer, threads=THREADS, at_once=at_once)
        self._one_event = threading.Lock()  # an event is read, changed, written: two at once could lose one

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, body = 200, b"{}"
        if scope["path"] == "/v1/recommendations":
            user = parse_qs(scope["query_string"].decode())["user"][0]
            body = _to_json(user, await self._waiting.ask(user))
        elif scope["path"] == "/v1/events":
            event = orjson.loads((await receive())["body"])
            await asyncio.to_thread(self._saw, event["user_id"], event["item_id"])
            status = 202
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    def _saw(self, user: str, item_id: str) -> None:
        with self._one_event:
            self._peer.saw(user, item_id)


def _to_json(user: str, ranked: Ranked) -> bytes:
    pairs = zip(ranked.item_ids, ranked.scores, strict=True)
    return orjson.dumps({"user": user, "items": [{"item_id": item, "score": score} for item, score in pairs]})

"""The HTTP border of a peer, with paths and bodies as ours: `GET /v1/recommendations`, `POST /v1/events`, `/readyz`.

Runs under Granian in the peers' environment, so it imports nothing of ours beyond this folder.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs

import orjson

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
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Ranked]


class Waiting:
    """Questions for threads, each of which takes up to `at_once` of those that wait."""

    def __init__(self, peer: Peer, *, threads: int, at_once: int) -> None:
        self._peer, self._at_once = peer, at_once
        self._questions: queue.SimpleQueue[Question] = queue.SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=self._work, daemon=True).start()

    async def ask(self, user: str) -> Ranked:
        loop = asyncio.get_running_loop()
        question = Question(user, loop, loop.create_future())
        self._questions.put(question)
        return await question.answer

    def _work(self) -> None:
        while True:
            asked = [self._questions.get()]
            while len(asked) < self._at_once and not self._questions.empty():
                asked.append(self._questions.get())
            try:
                answers: list[Ranked] | Exception = self._peer.answer([question.user for question in asked])
            except Exception as error:  # for those who asked, who get a 500 that is counted
                answers = error
            asked[0].loop.call_soon_threadsafe(_give, asked, answers)


class Application:
    """The ASGI application around a peer."""

    def __init__(self, peer: Peer, *, threads: int, at_once: int) -> None:
        peer.answer(["user-0"])  # what is made at a first call is made before the first request
        self._peer, self._waiting = peer, Waiting(peer, threads=threads, at_once=at_once)
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


def _give(asked: Sequence[Question], answers: Sequence[Ranked] | Exception) -> None:
    for place, question in enumerate(asked):
        if question.answer.done():
            continue  # its client went away
        if isinstance(answers, Exception):
            question.answer.set_exception(answers)
        else:
            question.answer.set_result(answers[place])

"""The ASGI application of the path that is asked thousands of times a second; all else goes to FastAPI.

It is described in the OpenAPI page by the route of the same path in `serving/api.py`, which calls what is here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NamedTuple

import msgpack
import orjson

from serving.answering import Answering
from serving.answers import Answer
from serving.awaited import AFTER, Awaited, Waited, read_after
from serving.bodies import Bodies, Receive
from serving.catalogue.details import Details
from serving.metrics import Metrics
from serving.questions import Question, from_query
from serving.refusals import RETRY_AFTER_S, Overloaded, Refused

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

RECOMMENDATIONS, EVENTS = "/v1/recommendations", "/v1/events"
EXPLAIN = b"explain="  # written otherwise, as with %-escapes, it is refused
# Who is refused and comes back at once takes from those who are answered: at a thousand connections two thirds.
REFUSED_AFTER_S = 0.5
MADE_AT_ONCE = 32  # answers of a batch made before other requests get a turn
JSON, MSGPACK = b"application/json", b"application/msgpack"


class Reply(NamedTuple):
    """What goes back, apart from HTTP."""

    status: int
    body: bytes
    form: bytes = JSON

    def in_form(self, form: bytes) -> Reply:
        """The same in MSGPACK, if that is the form."""
        return self if form == JSON else Reply(self.status, bytes(msgpack.packb(orjson.loads(self.body))), form)

    def headers(self) -> list[tuple[bytes, bytes]]:
        fields = [(b"content-type", self.form), (b"content-length", b"%d" % len(self.body))]
        if self.status == 503:
            fields.append((b"retry-after", b"%d" % RETRY_AFTER_S))
        return fields


class Hot:
    """What the path does, apart from HTTP."""

    def __init__(self, questions: Answering, awaited: Awaited, details: Details, metrics: Metrics) -> None:
        self._questions, self._awaited, self._details, self._metrics = questions, awaited, details, metrics
        self.bodies = Bodies()

    def begin(self, query: bytes, form: bytes, done: Callable[[Reply], None], *, explains: bool = False) -> None:
        """Call `done` with the answer to a query string, now or later. form: JSON or MSGPACK.

        explains: whether who asks may see reasons (`serving.questions.from_query`).
        """

        def reply(outcome: Reply | Exception) -> None:
            answer = refusal(RECOMMENDATIONS, outcome) if isinstance(outcome, Exception) else outcome.in_form(form)
            self._metrics.request(RECOMMENDATIONS, answer.status).inc()
            done(answer)

        try:
            after, rest = read_after(query) if AFTER in query else (None, query)
            question = from_query(rest, explains=explains)
            if after is None:
                self._submit(question, None, reply)
            else:
                self._awaited.wait(after, question.user, lambda waited: self._submit(question, waited, reply))
        except Refused as refused:
            reply(refused)

    def _submit(self, question: Question, waited: Waited | None, reply: Callable[[Reply | Exception], None]) -> None:
        asked_at = time.perf_counter()

        def answered(outcome: Answer | Exception) -> None:
            if isinstance(outcome, Exception):
                reply(outcome)
                return
            body = outcome.to_json()
            reply(Reply(200, body if waited is None else b'%b,"after":%b}' % (body[:-1], waited.to_json())))
            self._metrics.answer_seconds.observe(time.perf_counter() - asked_at)

        try:
            self._questions.submit(question, self._details.before(answered) if question.details else answered)
        except Overloaded as refused:
            asyncio.get_running_loop().call_later(REFUSED_AFTER_S, reply, refused)

    async def recommend(self, query: bytes, form: bytes, *, explains: bool = False) -> Reply:
        """The answer to a query string, as `begin` gives it."""
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        done: Callable[[Reply], None] = lambda reply: None if answered.done() else answered.set_result(reply)  # noqa: E731
        self.begin(query, form, done, explains=explains)
        return await answered


class HotPaths:
    """GET /v1/recommendations answered by `hot`, everything else by `others`.

    Who asks to explain an answer is let do it: `serving.collector.paths` lets nobody come here who must not.
    """

    def __init__(self, hot: Hot, metrics: Metrics, others: Application) -> None:
        self.hot, self._metrics, self._others = hot, metrics, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._others(scope, receive, send)
        path, method = scope["path"], scope["method"]
        if path == RECOMMENDATIONS and method == "GET":
            query, form = scope["query_string"], accepted_form(scope["headers"])
            return await respond(send, await self.hot.recommend(query, form, explains=EXPLAIN in query))
        return await self._counted(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                endpoint = getattr(scope.get("route"), "path", "other")
                self._metrics.request(endpoint, message["status"]).inc()
            await send(message)

        await self._others(scope, receive, counting)


def accepted_form(headers: Headers) -> bytes:
    """MSGPACK if the request's headers ask for it, JSON otherwise."""
    for name, value in headers:
        if name == b"accept":
            return MSGPACK if MSGPACK in value else JSON
    return JSON


def refusal(endpoint: str, error: BaseException) -> Reply:
    """The answer that says what was wrong; a mistake of ours is told in full in the log, and to nobody else."""
    if not isinstance(error, Refused):
        logger.error("no answer from %s", endpoint, exc_info=error)
        error = Refused("server", None, "internal error", status=500)
    return Reply(error.status, error.to_json())


async def respond(send: Send, reply: Reply) -> None:
    """Send a reply the ASGI way."""
    await send({"type": "http.response.start", "status": reply.status, "headers": reply.headers()})
    await send({"type": "http.response.body", "body": reply.body})


async def together(answers: Sequence[Answer], form: bytes) -> Reply:
    """Many answers in one, made some at a time: a thousand long ones take a tenth of a second."""
    made = []
    for place, answer in enumerate(answers):
        if place and place % MADE_AT_ONCE == 0:
            await asyncio.sleep(0)
        made.append(Reply(200, answer.to_json()).in_form(form).body)
    if form == JSON:
        return Reply(200, b'{"answers":[%b]}' % b",".join(made))
    packer = msgpack.Packer()
    head = packer.pack_map_header(1) + packer.pack("answers") + packer.pack_array_header(len(made))
    return Reply(200, head + b"".join(made), form)

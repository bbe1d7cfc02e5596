"""The ASGI application of the two paths that are asked thousands of times a second; all else goes to FastAPI.

They are described in the OpenAPI page by the routes of the same paths in `serving/api.py`, which call what is here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.answers import Answer
from serving.batcher import Batcher
from serving.metrics import Metrics
from serving.posts import MAX_BODY_BYTES, Posts
from serving.questions import Question, from_query
from serving.refusals import RETRY_AFTER_S, Refused

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Questions = Batcher[Question, Answer]

RECOMMENDATIONS, EVENTS = "/v1/recommendations", "/v1/events"
JSON_HEADER = (b"content-type", b"application/json")


class Disconnected(Exception):
    """The client went away before its request was whole."""


class Hot:
    """What the two paths do, apart from HTTP: status and body."""

    def __init__(self, questions: Questions, posts: Posts, metrics: Metrics) -> None:
        self._questions, self._posts, self._metrics = questions, posts, metrics

    async def recommend(self, query: bytes) -> tuple[int, bytes]:
        """The answer to a query string. Raises Refused."""
        asked_at = time.perf_counter()
        answer = await self._questions.ask(from_query(query))
        body = answer.to_json()
        self._metrics.answer_seconds.observe(time.perf_counter() - asked_at)
        return 200, body

    async def post(self, receive: Receive) -> tuple[int, bytes]:
        """Verdicts on the events of a body. Raises Refused, Disconnected."""
        verdicts = await self._posts.take(await read_all(receive))
        self._metrics.accepted.inc(verdicts.accepted)
        self._metrics.rejected.inc(verdicts.rejected)
        return verdicts.status, verdicts.to_json()


class HotPaths:
    """GET /v1/recommendations and POST /v1/events answered by `hot`, everything else by `others`."""

    def __init__(self, hot: Hot, metrics: Metrics, others: Application) -> None:
        self._hot, self._metrics, self._others = hot, metrics, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._others(scope, receive, send)
        path, method = scope["path"], scope["method"]
        if path == RECOMMENDATIONS and method == "GET":
            return await self._respond(send, RECOMMENDATIONS, self._hot.recommend(scope["query_string"]))
        if path == EVENTS and method == "POST":
            return await self._respond(send, EVENTS, self._hot.post(receive))
        return await self._counted(scope, receive, send)

    async def _respond(self, send: Send, endpoint: str, work: Awaitable[tuple[int, bytes]]) -> None:
        try:
            status, body = await work
        except Refused as refused:
            status, body = refused.status, refused.to_json()
        except Disconnected:
            return
        except Exception:
            # The border of the process: a mistake of ours costs this batch an answer, and is told in full.
            logger.exception("no answer from %s", endpoint)
            status, body = 500, Refused("server", None, "internal error").to_json()
        self._metrics.request(endpoint, status).inc()
        await send({"type": "http.response.start", "status": status, "headers": headers(status, body)})
        await send({"type": "http.response.body", "body": body})

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                endpoint = getattr(scope.get("route"), "path", "other")
                self._metrics.request(endpoint, message["status"]).inc()
            await send(message)

        await self._others(scope, receive, counting)


def headers(status: int, body: bytes) -> list[tuple[bytes, bytes]]:
    """Of a JSON answer."""
    fields = [JSON_HEADER, (b"content-length", b"%d" % len(body))]
    if status == 503:
        fields.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    return fields


async def read_all(receive: Receive) -> bytes:
    """The request's body. Raises Refused (413) once it is too large, Disconnected if it never ends."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        part: bytes = message.get("body", b"")
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise Refused("body", f"over {len(body) - 1} bytes", f"at most {MAX_BODY_BYTES} bytes", status=413)
        if not message.get("more_body", False):
            return body

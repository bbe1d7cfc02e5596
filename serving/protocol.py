"""HTTP of a server process: uvicorn's protocol, with a short way for the one request asked thousands of times a second.

`GET /v1/recommendations` goes from uvicorn's parser to the recommender and back to the socket, without a task, a scope
or messages of ASGI in between: those cost more than the answer. Everything else, and whatever is unusual about such a
request, goes uvicorn's own way to the same application, which answers it alike.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.hot import RECOMMENDATIONS, HotPaths, Reply, accepted_form

START = RECOMMENDATIONS.encode() + b"?"


class InHand:
    """A request on the short way, as uvicorn sees it: what comes behind it on its connection waits."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")
    message_event: ClassVar[asyncio.Event] = asyncio.Event()  # uvicorn sets it; nobody waits for it

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.response_complete = self.disconnected = False


class ShortWay(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_short = False

    def on_headers_complete(self) -> None:
        """Everything of the request but its body is known."""
        self._is_short = (
            self.url.startswith(START)
            and self.parser.get_method() == b"GET"
            and (self.cycle is None or self.cycle.response_complete)
            and isinstance(self.config.loaded_app, HotPaths)
            and not self.parser.should_upgrade()
        )
        if not self._is_short:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A body of a GET has no meaning."""
        if not self._is_short:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self._is_short:
            super().on_message_complete()
            return
        self._is_short = False
        cycle: Any = InHand(self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive())
        self.cycle = cycle
        app: Any = self.config.loaded_app
        app.hot.begin(
            self.url[len(START) :].partition(b"#")[0], accepted_form(self.headers), partial(self._reply, cycle)
        )

    def _reply(self, cycle: InHand, reply: Reply) -> None:
        cycle.response_complete = True
        if cycle.disconnected or self.transport.is_closing():
            return
        headers = [*self.server_state.default_headers, *reply.headers()]
        if not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        head = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(STATUS_LINE[reply.status] + head + b"\r\n" + reply.body)
        if cycle.keep_alive:
            self.on_response_complete()
        else:
            self.transport.close()

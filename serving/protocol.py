"""HTTP of a server process: bounded connections, and a short way for the request asked thousands of times a second.

`GET /v1/recommendations` goes to the recommender and back to the socket without a task, a scope or messages of ASGI in
between, and where it comes alone and plainly, without a parser: those cost more than the answer. Everything else, and
whatever is unusual about such a request, goes uvicorn's own way to the same application, which answers it alike.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any, ClassVar

from serving.bounded import BoundedProtocol
from serving.hot import EXPLAIN, JSON, MSGPACK, RECOMMENDATIONS, HotPaths, Reply, accepted_form

START = RECOMMENDATIONS.encode() + b"?"
# A whole request with nothing in it that a parser would have to judge: no body, no word about the connection.
WHOLE = re.compile(
    rb"GET %b([!\"$-~]{1,1024}) HTTP/1\.1\r\n"
    rb"(?:(?i:host|user-agent|accept-encoding|accept-language): ?[ -~]{0,512}\r\n"
    rb"|(?i:accept): ?([ -~]{0,512})\r\n){1,8}\r\n" % re.escape(START)
)


class InHand:
    """A request on the short way, as uvicorn sees it: what comes behind it on its connection waits."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")
    message_event: ClassVar[asyncio.Event] = asyncio.Event()  # uvicorn sets it; nobody waits for it

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.response_complete = self.disconnected = False


class ShortWay(BoundedProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_short = False

    def data_received(self, data: bytes) -> None:
        """Mostly one request and no more, for which no parser is needed."""
        is_between = self._is_whole or self.headers is None
        is_ready = is_between and self.is_free() and not (self._is_refused or self.flow.write_paused)
        whole = WHOLE.fullmatch(data) if is_ready and isinstance(self.config.loaded_app, HotPaths) else None
        if whole is None or EXPLAIN in whole[1]:
            super().data_received(data)
            return
        self._unset_keepalive_if_required()
        self._cancel_late()
        self._begin(whole[1], MSGPACK if whole[2] and MSGPACK in whole[2] else JSON, keep_alive=True)

    def take(self) -> None:
        """The short way, if the request is one for it."""
        self._is_short = (
            self.url.startswith(START)
            and EXPLAIN not in self.url  # asks for a key
            and self.parser.get_method() == b"GET"
            and self.is_free()
            and not self.flow.write_paused  # uvicorn's way waits until the client has taken what was written
            and not self.expect_100_continue
            and isinstance(self.config.loaded_app, HotPaths)
            and not self.parser.should_upgrade()
        )
        if not self._is_short:
            super().take()

    def on_body(self, body: bytes) -> None:
        """A body of a GET has no meaning."""
        if not self._is_short:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if not self._is_short:
            super().on_message_complete()
            return
        self._is_short, self._is_whole = False, True
        keep_alive = self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()
        self._begin(self.url[len(START) :].partition(b"#")[0], accepted_form(self.headers), keep_alive=keep_alive)

    def _begin(self, query: bytes, form: bytes, *, keep_alive: bool) -> None:
        cycle: Any = InHand(keep_alive)
        self.cycle = cycle
        app: Any = self.config.loaded_app
        app.hot.begin(query, form, partial(self._reply, cycle))

    def _reply(self, cycle: InHand, reply: Reply) -> None:
        cycle.response_complete = True
        if cycle.disconnected or self.transport.is_closing():
            return
        self.write(reply, keep_alive=cycle.keep_alive)
        if cycle.keep_alive:
            self.on_response_complete()
        else:
            self.transport.close()

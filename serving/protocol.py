"""HTTP of a server process: bounded connections, and a short way for the request asked thousands of times a second.

`GET /v1/recommendations` goes to the recommender and back to the socket without a task, a scope or messages of ASGI in
between, and where it comes alone and plainly, without a parser: those cost more than the answer. A small
`POST /v1/events` goes to the log and back without them too. Everything else, and whatever is unusual about such a
request, goes uvicorn's own way to the same application, which answers it alike.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any, ClassVar

from serving.bounded import BoundedProtocol
from serving.collector.asked import Asked
from serving.collector.paths import Collector
from serving.hot import EVENTS, EXPLAIN, JSON, MSGPACK, RECOMMENDATIONS, Headers, HotPaths, Reply, accepted_form

START = RECOMMENDATIONS.encode() + b"?"
POST_TO = EVENTS.encode()
SMALL_BYTES = 16 << 10  # of a body; that of so many connections is no matter
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
        self._posted: list[bytes] | None = None  # the body of a post on the short way, as far as it has come

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
        self._posted = [] if not self._is_short and self._is_small_post() else None
        if not self._is_short and self._posted is None:
            super().take()

    def _is_small_post(self) -> bool:
        return (
            self.url.partition(b"?")[0] == POST_TO
            and self.parser.get_method() == b"POST"
            and self.is_free()
            and not self.flow.write_paused
            and not self.expect_100_continue
            and isinstance(self.config.loaded_app, Collector)
            and not self.parser.should_upgrade()
            and any(name == b"content-length" and int(value) <= SMALL_BYTES for name, value in self.headers)
        )

    def on_body(self, body: bytes) -> None:
        """A body of a GET has no meaning."""
        if self._posted is not None:
            self._posted.append(body)
        elif not self._is_short:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        posted, self._posted = self._posted, None
        if not self._is_short and posted is None:
            super().on_message_complete()
            return
        self._is_short, self._is_whole = False, True
        if posted is not None:
            self._begin_post(b"".join(posted))
            return
        keep_alive = self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()
        self._begin(self.url[len(START) :].partition(b"#")[0], accepted_form(self.headers), keep_alive=keep_alive)

    def _begin(self, query: bytes, form: bytes, *, keep_alive: bool) -> None:
        cycle: Any = InHand(keep_alive)
        self.cycle = cycle
        app: Any = self.config.loaded_app
        app.hot.begin(query, form, partial(self._reply, cycle))

    def _begin_post(self, body: bytes) -> None:
        cycle: Any = InHand(self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive())
        self.cycle = cycle
        query = self.url.partition(b"?")[2].partition(b"#")[0]
        scope = {"method": "POST", "path": EVENTS, "query_string": query, "headers": self.headers}
        app: Any = self.config.loaded_app
        app.begin(Asked.of(scope), body, partial(self._reply, cycle))

    def _reply(self, cycle: InHand, reply: Reply, more: Headers = ()) -> None:
        cycle.response_complete = True
        if cycle.disconnected or self.transport.is_closing():
            return
        self.write(reply, keep_alive=cycle.keep_alive, more=more)
        if cycle.keep_alive:
            self.on_response_complete()
        else:
            self.transport.close()

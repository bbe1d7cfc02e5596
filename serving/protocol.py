"""HTTP of a server process: bounded connections, and a short way for the request asked thousands of times a second.

`GET /v1/recommendations` goes from uvicorn's parser to the recommender and back to the socket, without a task, a scope
or messages of ASGI in between: those cost more than the answer. Everything else, and whatever is unusual about such a
request, goes uvicorn's own way to the same application, which answers it alike.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, ClassVar

from serving.bounded import BoundedProtocol
from serving.hot import RECOMMENDATIONS, HotPaths, Reply, accepted_form

START = RECOMMENDATIONS.encode() + b"?"


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

    def take(self) -> None:
        """The short way, if the request is one for it."""
        self._is_short = (
            self.url.startswith(START)
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
        self.write(reply, keep_alive=cycle.keep_alive)
        if cycle.keep_alive:
            self.on_response_complete()
        else:
            self.transport.close()

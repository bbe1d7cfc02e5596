"""uvicorn's protocol with bounds: what one connection may send, keep waiting, and leave untaken.

httptools reads URLs and headers of any length, and uvicorn waits for ever for the rest of a request, or for a client to
take its answer. What is wrong before the application sees a request is said in the shape of all refusals.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.hot import Headers, Reply
from serving.refusals import Refused

MAX_URL_BYTES, MAX_HEADERS_BYTES = 16 << 10, 64 << 10
READ_AT_ONCE = 256 << 10  # by uvloop
MAX_AHEAD = 64  # requests sent before the answers to those before them; uvicorn takes any number
LINGERS_S = 1.0  # a connection closed with bytes unread is reset, and what was said last on it may be lost
NOT_HTTP = Refused("request", None, "not valid HTTP")


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    within_s: how long a request may take to arrive, and a client to take what is written to it.
    """

    within_s: ClassVar[float] = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begins_here = self._has_headers = self._is_whole = self._is_refused = False
        self._fed = 0  # bytes since the headers began, and what came with their beginning
        self._refusal = NOT_HTTP
        self._late: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody is there."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._late = self.loop.call_later(self.within_s, self._end_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is."""
        super().connection_lost(exc)
        self._cancel_late()
        self._cancel_stuck()

    def data_received(self, data: bytes) -> None:
        """A part of a request, or some requests."""
        if self._is_refused:
            return
        self._begins_here = False
        self._fed += len(data)
        super().data_received(data)
        if self._has_headers:
            self._fed = 0
        elif self._begins_here:
            self._fed = len(data)
        elif self._fed > MAX_HEADERS_BYTES + READ_AT_ONCE:
            self._refuse(Refused("headers", None, f"at most {MAX_HEADERS_BYTES} bytes", status=431))
        if self._is_refused:
            return
        is_idle = self.is_free() and self.timeout_keep_alive_task is None  # blank lines ended uvicorn's own waiting
        if self._is_whole and not is_idle:
            self._cancel_late()
        elif self._late is None:
            self._late = self.loop.call_later(self.within_s, self._end_late)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begins_here = True
        self._has_headers = self._is_whole = False
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the URL. What is raised here and below ends the parsing, and comes back as a bad request."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refusal = Refused("url", None, f"at most {MAX_URL_BYTES} bytes", status=414)
            raise self._refusal

    def on_headers_complete(self) -> None:
        """Everything of the request but its body is known."""
        self._has_headers = True
        if self._fed > MAX_HEADERS_BYTES and _size(self.headers) > MAX_HEADERS_BYTES:
            self._refusal = Refused("headers", None, f"at most {MAX_HEADERS_BYTES} bytes", status=431)
            raise self._refusal
        if len(self.pipeline) >= MAX_AHEAD:
            raise NOT_HTTP  # nobody is told: it would be taken for the answer to another request
        self.take()

    def take(self) -> None:
        """Begin to answer the request, whose body may still come."""
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._is_whole = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not take what is written."""
        super().pause_writing()
        self._stuck = self.loop.call_later(self.within_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._cancel_stuck()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  our words instead of uvicorn's
        """Called by uvicorn for what the parser refused, which may be one of the bounds."""
        self._refuse(self._refusal)

    def is_free(self) -> bool:
        """Whether no request is in hand."""
        return self.cycle is None or self.cycle.response_complete

    def write(self, reply: Reply, *, keep_alive: bool, more: Headers = ()) -> None:
        """The whole of an answer. keep_alive: whether another request may follow; otherwise the client is told.

        more: headers beside those of the reply.
        """
        of_server = b"".join([b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *more)])
        length = b"content-length: %d\r\n" % len(reply.body)
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        self.transport.write(b"".join((_head(reply.status, reply.form), of_server, length, end, reply.body)))

    def _refuse(self, refusal: Refused) -> None:
        """Say so, unless an answer to an earlier request is due first, and end the connection."""
        self._is_refused = True
        self._cancel_late()
        if self.transport.is_closing():
            return
        if not self.is_free():
            self.transport.close()
            return
        self.write(Reply(refusal.status, refusal.to_json()), keep_alive=False)
        self.transport.write_eof()
        self._late = self.loop.call_later(LINGERS_S, self.transport.abort)

    def _end_late(self) -> None:
        self._late = None
        if self.headers is None or self._has_headers:  # nothing ever came, or it may be answered already
            self.transport.close()
        else:
            self._refuse(Refused("request", None, f"not whole within {self.within_s:g} s", status=408))

    def _cancel_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _cancel_stuck(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


@lru_cache(maxsize=256)
def _head(status: int, form: bytes) -> bytes:
    """What all answers of this kind begin with."""
    headers = [(name, value) for name, value in Reply(status, b"", form).headers() if name != b"content-length"]
    return STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % header for header in headers])


def _size(headers: Headers) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)

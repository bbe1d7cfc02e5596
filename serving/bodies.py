"""Bodies of requests, read as they come: each of bounded size, and all that are being read together too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.refusals import Overloaded, Refused

MAX_BODY_BYTES = 4 << 20
MAX_READING_BYTES = 64 << 20

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Disconnected(Exception):
    """The client went away before its request was whole."""


class Bodies:
    """Of one process; used inside one event loop. max_bytes: of all that are not whole yet."""

    def __init__(self, max_bytes: int = MAX_READING_BYTES) -> None:
        self._max_bytes, self._reading_bytes = max_bytes, 0

    async def read(self, receive: Receive) -> bytes:
        """One body. Raises Refused (413) once it is too large, Overloaded, Disconnected if it never ends."""
        body = bytearray()
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                part: bytes = message.get("body", b"")
                body += part
                self._reading_bytes += len(part)
                if len(body) > MAX_BODY_BYTES:
                    why = f"at most {MAX_BODY_BYTES} bytes"
                    raise Refused("body", f"over {len(body) - 1} bytes", why, status=413)
                if self._reading_bytes > self._max_bytes:
                    raise Overloaded("bodies")
                if not message.get("more_body", False):
                    return bytes(body)
        finally:
            self._reading_bytes -= len(body)

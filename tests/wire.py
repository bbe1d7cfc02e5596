"""A real server in the test's own loop, and what clients say to it byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import uvloop
from uvicorn import Server

from serving.app import create_app
from serving.collector.paths import Door
from serving.parts import Limits, Parts
from serving.protocol import ShortWay
from serving.server import configured, listening

HERE = "127.0.0.1"


class Response(NamedTuple):
    """status: 0 where the connection ended, or was reset, before a whole response came."""

    status: int
    headers: dict[str, str]
    body: bytes


NOTHING = Response(0, {}, b"")


@asynccontextmanager
async def serving(
    parts: Parts, limits: Limits | None = None, *, door: Door | None = None, within_s: float = 30.0
) -> AsyncIterator[int]:
    """The port. within_s: the patience of its connections."""
    protocol = type("OfThisTest", (ShortWay,), {"within_s": within_s})
    config = configured(create_app(parts, limits, door))
    config.http = protocol
    socket = listening(HERE, 0)
    server = Server(config)
    running = asyncio.create_task(server.serve([socket]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield socket.getsockname()[1]
    finally:
        server.should_exit = True
        await running


class Wire:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        if not self.writer.transport.is_closing():
            self.writer.write(data)

    async def response(self) -> Response:
        """The next one, NOTHING where none came."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            if headers.get("transfer-encoding") == "chunked":
                body = await self._chunks()
            else:
                body = await self.reader.readexactly(int(headers["content-length"]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return NOTHING
        return Response(int(head[0].split()[1]), headers, body)

    async def has_ended(self) -> bool:
        """Whether the server ended the connection with nothing more to say; waits for one or the other."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)
        return body


@asynccontextmanager
async def wired(port: int) -> AsyncIterator[Wire]:
    """A connection; the client goes away without a word."""
    reader, writer = await asyncio.open_connection(HERE, port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def ask(port: int, target: str, method: str = "GET", body: bytes = b"", more: str = "") -> Response:
    """The response to one request on a connection of its own. more: headers, each with its line end."""
    length = f"content-length: {len(body)}\r\n" if body else ""
    async with wired(port) as wire:
        wire.send(f"{method} {target} HTTP/1.1\r\nhost: here\r\n{length}{more}\r\n".encode("latin-1") + body)
        return await wire.response()


def in_the_servers_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run in a loop of the kind that servers use."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)

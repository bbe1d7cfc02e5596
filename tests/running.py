"""An ASGI application running inside a test's own event loop, asked through httpx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

Message = MutableMapping[str, Any]
Application = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


@asynccontextmanager
async def running(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    """Started as a server starts it, stopped as a server stops it."""
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    lifespan = asyncio.create_task(
        _as_coroutine(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, to_app.get, from_app.put))
    )
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            yield client
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        assert (await from_app.get())["type"] == "lifespan.shutdown.complete"
        await lifespan


async def until(is_true: Callable[[], Awaitable[bool]], *, within_s: float = 5.0) -> None:
    """Returns once it is true; fails the test if it does not become so in time."""
    async with asyncio.timeout(within_s):
        while not await is_true():
            await asyncio.sleep(0.02)


async def _as_coroutine(work: Awaitable[None]) -> None:
    await work

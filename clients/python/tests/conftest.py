from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from troubled_server import Troubled, troubled

from ledstream_client import AsyncClient, Client, Patience

Ask = Callable[..., Any]
QUICK = Patience(within_s=20.0, try_within_s=10.0, first_pause_s=0.02, longest_pause_s=0.05)


@pytest.fixture
def world() -> Iterator[Troubled]:
    with troubled() as found:
        yield found


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def https(loop: asyncio.AbstractEventLoop) -> Iterator[dict[str, Any]]:
    """Shared by all tests: each would read the certificates of the world anew."""
    with httpx.Client() as blocking:
        awaiting = httpx.AsyncClient()
        yield {"sync": blocking, "async": awaiting}
        loop.run_until_complete(awaiting.aclose())


@pytest.fixture
def client(world: Troubled, https: dict[str, Any]) -> Client:
    return Client(world.address, patience=QUICK, http=https["sync"])


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, world: Troubled, https: dict[str, Any], loop: asyncio.AbstractEventLoop) -> Ask:
    """Calls a method by its name, of one client or the other. patience: another one."""
    kind: Any = Client if request.param == "sync" else AsyncClient
    client = kind(world.address, write_key="write-key", admin_key="admin-key", http=https[request.param])

    def one(method: str, *given: Any, patience: Patience = QUICK, **more: Any) -> Any:
        client.patience = patience
        result = getattr(client, method)(*given, **more)
        return loop.run_until_complete(result) if inspect.iscoroutine(result) else result

    return one

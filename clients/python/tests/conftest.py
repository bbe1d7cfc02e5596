from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from troubled_server import Troubled, troubled

from ledstream_client import AsyncClient, Client, Patience

Ask = Callable[..., Any]
QUICK = Patience(within_s=3.0, try_within_s=1.0, first_pause_s=0.02, longest_pause_s=0.05)


@pytest.fixture
def world() -> Iterator[Troubled]:
    with troubled() as found:
        yield found


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, world: Troubled) -> Iterator[Ask]:
    """A method by its name, of one client or the other. patience: another one."""
    with ExitStack() as stack:
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        kind = Client if request.param == "sync" else AsyncClient
        client = kind(world.address, write_key="write-key", admin_key="admin-key", patience=QUICK)
        stack.callback(lambda: done(loop, client.close()))

        def one(method: str, *given: Any, patience: Patience = QUICK, **more: Any) -> Any:
            chosen = client.within(patience.within_s)
            chosen.patience = patience
            return done(loop, getattr(chosen, method)(*given, **more))

        yield one


def done(loop: asyncio.AbstractEventLoop, result: Any) -> Any:
    return loop.run_until_complete(result) if inspect.iscoroutine(result) else result

"""Query parameters of the routes of FastAPI, which by itself lets unknown ones pass."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request

from serving.questions import read_query


def only(*names: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency that refuses any other query parameter."""

    async def check(request: Request) -> None:
        read_query(request.scope["query_string"], names)

    return check

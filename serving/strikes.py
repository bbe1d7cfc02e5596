"""`DELETE /v1/users/{id}/timeline/{entry}`: one event of a user's is to be as if it had never been sent.

Users' ids may hold slashes, and so may end like such a path. What counts is the path as it was sent, before escapes
are read: it names an entry where its last but one part is `timeline`, between slashes written as such. A user called
`a/timeline/b` is erased by `DELETE /v1/users/a%2Ftimeline%2Fb`. Where a proxy reads escapes before us, that is taken
for a strike of an entry which is none, and refused (404): nobody is erased or struck by mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from serving.parts import Parts
from serving.publisher import Publisher, entry_of
from serving.queries import only
from serving.refusals import Refused
from serving.schemas import ErrorAnswer, StrikeAnswer
from store.entries import Entry, entries_of, find
from store.user_state import is_damaged
from stream.events import InvalidEvent, check_user_id, striking
from stream.log import Position
from stream.strikes import Strike

USERS, TIMELINE = b"/v1/users/", b"timeline"


class Striker:
    """Used inside one event loop. token: for records at these positions, to ask for recommendations after them."""

    def __init__(self, parts: Parts, publisher: Publisher, token: Callable[[Iterable[Position]], str | None]) -> None:
        self._parts, self._publisher, self._token = parts, publisher, token

    async def strike(self, user_id: str, entry_id: str) -> StrikeAnswer:
        """Returns once it is in the log. Raises Refused (404: no such entry), StoreUnavailable, LogUnavailable."""
        entry = find(await asyncio.to_thread(self._entries, user_id), entry_id)
        if entry is None:
            why = "not in this user's timeline (a user whose id holds /timeline/ is written with %2F)"
            raise Refused("entry", entry_id, why, status=404)
        now_ms = self._parts.now_ms()
        strike = striking(user_id, Strike(*entry[1:]), now_ms)
        (outcome,) = await self._publisher.ask([entry_of(strike, now_ms)], 1)
        if isinstance(outcome, Exception):
            raise outcome
        token = self._token([outcome]) if isinstance(outcome, Position) else None
        return StrikeAnswer(user=user_id, entry=entry_id, token=token)

    def _entries(self, user_id: str) -> list[Entry]:
        (data,) = self._parts.states.find([user_id])
        return [] if not data or is_damaged(data) else entries_of(data)


class AsSent(APIRoute):
    """A route of paths that name an entry as they were sent."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        named = _named(scope.get("raw_path") or scope["path"].encode()) if match != Match.NONE else None
        if named is None:
            return Match.NONE, {}
        child["path_params"] = {**child.get("path_params", {}), "user_id": named[0], "entry": named[1]}
        return match, child


def add_strikes(app: FastAPI, striker: Striker) -> None:
    """Before routes whose paths end in a user's id."""

    async def strike(user_id: str, entry: str) -> StrikeAnswer:
        """Make one event of a user's timeline as if it had never been sent. A slash in the user's id is written %2F."""
        try:
            check_user_id(user_id)
        except InvalidEvent as error:
            raise Refused("user_id", user_id, error.reason) from None
        return await striker.strike(user_id, entry)

    app.router.add_api_route(
        "/v1/users/{user_id:path}/timeline/{entry:path}",
        strike,
        methods=["DELETE"],
        status_code=202,
        tags=["users"],
        dependencies=[Depends(only())],
        responses={404: {"model": ErrorAnswer}},
        response_model_exclude_none=True,
        route_class_override=AsSent,
    )


def _named(raw_path: bytes) -> tuple[str, str] | None:
    """The user and the entry that a path names, as it was sent; None where it names none."""
    path: Any = raw_path.partition(b"?")[0]
    user, slash, entry = path.rpartition(b"/" + TIMELINE + b"/")
    if not slash or b"/" in entry or not user.startswith(USERS) or len(user) == len(USERS):
        return None
    return unquote(user[len(USERS) :].decode("latin-1")), unquote(entry.decode("latin-1"))

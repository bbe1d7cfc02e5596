"""Read your writes: a question waits until what its asker sent before is in the user records, for a moment at most.

However many wait, the store is asked for the positions of their partitions together, and only while somebody waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote

from serving.refusals import Refused
from serving.schemas import MAX_WAIT_MS, WAIT_MS
from store.connection import StoreUnavailable
from store.lookups import Found, Lookups
from store.user_record import source_of
from store.user_state import UserStates
from stream.log import Log, LogUnavailable, Position, UnknownTopic, partition_of
from stream.tokens import BadToken, Token, decode_token, mark_of
from stream.topics import EVENTS

logger = logging.getLogger(__name__)
AFTER = b"after="
LOOKS_EVERY_S = 0.003  # a look costs the store ten microseconds, and this process six times as many
PATIENCE = 0.05  # who has waited for long may wait for so much longer
ASKS_LOG_EVERY_S, ASKS_AGAIN_S = 30.0, 1.0  # which log it is: it may be deleted and made again
Done = Callable[["Waited"], None]


class After(NamedTuple):
    """What a question wants to be in before it is answered, and how long it waits for that."""

    token: Token
    wait_ms: int


class Waited(NamedTuple):
    """is_in: whether the answer that follows has it in. ms: for how long it was waited for."""

    is_in: bool
    ms: int

    def to_json(self) -> bytes:
        return b'{"in":%b,"waited_ms":%d}' % (b"true" if self.is_in else b"false", self.ms)


class _Waiting(NamedTuple):
    ends: dict[bytes, int]  # by key of a position
    since: float
    by: float
    done: Done


class Awaited:
    """Used inside one event loop. max_waiting: beyond so many nobody waits, and is told so at once.

    An event that the consumer did not take, as one sent twice, is in once the consumer is past it.
    """

    def __init__(self, log: Log, states: UserStates, lookups: Lookups, *, max_waiting: int = 256) -> None:
        self._log, self._states, self._lookups, self._max_waiting = log, states, lookups, max_waiting
        self._identity: int | None = None  # None until the log was there once
        self._partitions = 0
        self._waiting: list[_Waiting] = []
        self._is_looking = False
        self._asking_log: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Called once, inside the loop, when lookups were started."""
        self._loop = asyncio.get_running_loop()
        with suppress(LogUnavailable, UnknownTopic):
            await self._ask_log()
        self._asking_log = self._loop.create_task(self._follow_log())

    async def stop(self) -> None:
        """Nobody waits any longer."""
        if self._asking_log is not None:
            self._asking_log.cancel()
        self._tell_all()

    def token(self, positions: Iterable[Position]) -> str | None:
        """For events that lie there; None where it is not known yet which log that is, or where there are none."""
        token = None if self._identity is None else Token.of(self._identity, positions)
        return token.encode() if token is not None and token.ends else None

    def wait(self, after: After, user: str | None, done: Done) -> None:
        """Call `done`, now or later. user: whose question it is. Raises Refused for a token of another log.

        Where the token knows the user's partition, that one is waited for; otherwise all that it knows.
        """
        identity = self._identity
        if identity is None or len(self._waiting) >= self._max_waiting:
            done(Waited(False, 0))
            return
        if after.token.log != mark_of(identity):
            raise Refused("after", after.token.encode()[:40], "a token of another log than this server's")
        ends = after.token.ends
        own = -1 if user is None else partition_of(user.encode(), self._partitions)
        wanted = [own] if own in ends else list(ends)
        if max(wanted) >= self._partitions:  # made up, or of partitions that are newer than what is known here
            done(Waited(False, 0))
            return
        keys = self._states.position_keys([source_of(identity, partition) for partition in wanted])
        self._add(dict(zip(keys, (ends[partition] for partition in wanted), strict=True)), after.wait_ms / 1000, done)

    async def reached(self, at: Position, within_s: float) -> Waited:
        """Whether what lies there is in, after so long at most. However many wait, this one may."""
        if self._identity is None:
            return Waited(False, 0)
        told: asyncio.Future[Waited] = self._loop.create_future()
        (key,) = self._states.position_keys([source_of(self._identity, at.partition)])
        self._add({key: at.offset + 1}, within_s, lambda waited: None if told.done() else told.set_result(waited))
        return await told

    def _add(self, ends: dict[bytes, int], within_s: float, done: Done) -> None:
        since = self._loop.time()
        self._waiting.append(_Waiting(ends, since, since + within_s, done))
        if not self._is_looking:
            self._look()

    def _look(self) -> None:
        keys = list({key for waiting in self._waiting for key in waiting.ends})
        self._is_looking = bool(keys)
        if keys:
            self._lookups.ask(keys, lambda found: self._found(keys, found))

    def _found(self, keys: list[bytes], found: Found) -> None:
        self._is_looking = False
        if isinstance(found, StoreUnavailable):
            self._tell_all()
            return
        now, still = self._loop.time(), list[_Waiting]()
        at = {key: int(position) for key, position in zip(keys, found, strict=True) if position}
        waiting, self._waiting = self._waiting, still
        for one in waiting:
            is_in = all(at.get(key, -1) >= end for key, end in one.ends.items())
            if is_in or now >= one.by:
                _tell(one, is_in, now)
            else:
                still.append(one)
        if still and not self._is_looking:
            self._is_looking = True
            pause_s = max(LOOKS_EVERY_S, PATIENCE * (now - max(one.since for one in still)))
            self._loop.call_later(min(pause_s, max(0.0, min(one.by for one in still) - now)), self._look)

    def _tell_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            _tell(one, False, self._loop.time())

    async def _follow_log(self) -> None:
        while True:
            await asyncio.sleep(ASKS_AGAIN_S if self._identity is None else ASKS_LOG_EVERY_S)
            with suppress(LogUnavailable, UnknownTopic):  # what was known holds until the log says otherwise
                await self._ask_log()

    async def _ask_log(self) -> None:
        self._partitions = await asyncio.to_thread(self._log.partitions, EVENTS)
        self._identity = await asyncio.to_thread(self._log.identity, EVENTS)


def read_after(query: bytes) -> tuple[After | None, bytes]:
    """`after=` and `wait_ms=` of a query, and the query without them. Raises Refused."""
    given: dict[bytes, list[bytes]] = {b"after": [], b"wait_ms": []}
    rest = list[bytes]()
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        given.get(name, rest).append(value if name in given else part)
    for name, values in given.items():
        if len(values) > 1:
            raise Refused(name.decode(), _shown(values[1]), "given more than once")
    if not given[b"after"]:
        return None, query
    wait_ms = _shown(given[b"wait_ms"][0]) if given[b"wait_ms"] else str(WAIT_MS)
    if not (wait_ms.isascii() and wait_ms.isdecimal() and len(wait_ms) <= 4 and int(wait_ms) <= MAX_WAIT_MS):
        raise Refused("wait_ms", wait_ms, f"must be a whole number from 0 to {MAX_WAIT_MS}")
    text = _shown(given[b"after"][0])
    try:
        return After(decode_token(text), int(wait_ms)), b"&".join(rest)
    except BadToken as error:
        raise Refused("after", text, str(error)) from None


def _shown(value: bytes) -> str:
    return unquote(value.decode("latin-1"))


def _tell(waiting: _Waiting, is_in: bool, now: float) -> None:
    """One asker who cannot take it keeps nobody else from theirs."""
    try:
        waiting.done(Waited(is_in, round(1000 * (now - waiting.since))))
    except Exception:
        logger.exception("who waited was not told")

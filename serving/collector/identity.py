"""An anonymous visitor turns out to be a user: what was done before becomes the user's.

It goes through the log, as everything does: the visitor's timeline is appended again as the user's events, and then an
erasure of the visitor. So a replay makes the same records, and training sees each event once, under the user. Ids of
the copies are made from what they copy: a browser that asks again changes nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from serving.parts import Parts
from serving.publisher import Publisher, entry_of
from serving.refusals import Refused
from serving.served import Served
from store.connection import StoreUnavailable
from store.user_record import UserRecord, source_of
from stream.events import Event, InvalidEvent, check_user_id, erasure, kind_code
from stream.kept import Outcome
from stream.log import LogUnavailable, Position, partition_of
from stream.spool import Addressed
from stream.topics import EVENTS

ANONYMOUS = re.compile(r"anon-[0-9a-f]{32}")  # as trackers draw them: whoever names one has it from that browser
WAITS_S, LOOKS_EVERY_S = 2.0, 0.02


class Merged(NamedTuple):
    """How many events became the user's, and the token to ask after them; None where there is nothing to wait for."""

    events: int
    token: str | None = None

    def to_json(self, user: str) -> bytes:
        told = {"user": user, "merged": self.events}
        return orjson.dumps(told if self.token is None else told | {"token": self.token})


class Merge(NamedTuple):
    """Who becomes whom."""

    anonymous_id: str
    user_id: str


class Identities:
    """Merges visitors into users. Used inside one event loop."""

    def __init__(
        self,
        parts: Parts,
        served: Callable[[], Served | None],
        publisher: Publisher,
        token: Callable[[Iterable[Position]], str | None],
    ) -> None:
        self._parts, self._served, self._publisher, self._token = parts, served, publisher, token
        self._kinds = {kind_code(kind): kind for kind in parts.border.kinds}

    async def merge(self, wanted: Merge) -> Merged:
        """What became the user's. Raises Refused (503) where it cannot be done now: ask again.

        Items that the current release does not know are left behind: a timeline holds keys, which only it can name.
        """
        events = await asyncio.to_thread(self._events, wanted)
        if not events:
            return Merged(0)
        now_ms = self._parts.now_ms()
        outcomes = await self._append([entry_of(event, now_ms) for event in events])
        await asyncio.to_thread(self._link, wanted, now_ms)
        await self._append([entry_of(erasure(wanted.anonymous_id, now_ms, is_merge=True), now_ms)])
        positions = [outcome for outcome in outcomes if isinstance(outcome, Position)]
        return Merged(len(events), self._token(positions) if len(positions) == len(outcomes) else None)

    def _link(self, wanted: Merge, now_ms: int) -> None:
        """An erasure of the user is one of the visitor too."""
        if self._parts.erasures is not None:
            try:
                self._parts.erasures.users.link(wanted.anonymous_id, wanted.user_id, now_ms)
            except StoreUnavailable as error:
                raise Refused("store", None, str(error), status=503) from None

    async def _append(self, entries: Sequence[Addressed]) -> Sequence[Outcome]:
        outcomes = await self._publisher.ask(entries, len(entries))
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise Refused("log", None, str(outcome), status=503)
        return outcomes

    def _events(self, wanted: Merge) -> list[Event]:
        """The visitor's timeline as the user's events, once everything that was accepted is in it."""
        try:
            self._wait_for(wanted.anonymous_id)
            (record,) = self._parts.states.read([wanted.anonymous_id])
        except (StoreUnavailable, LogUnavailable) as error:
            raise Refused("store", None, str(error), status=503) from None
        served = self._served()
        if not isinstance(record, UserRecord) or not len(record.timeline):
            return []
        if served is None:
            raise Refused("release", None, "without a release items cannot be named, try again later", status=503)
        rows = served.release.rows(record.timeline["item"].astype("u8")).tolist()
        return [
            Event(wanted.user_id, served.release.item_id(row), kind, int(entry["time_ms"]), _id_of(wanted, entry))
            for entry, row in zip(record.timeline, rows, strict=True)
            if row >= 0 and (kind := self._kinds.get(int(entry["kind"])))
        ]

    def _wait_for(self, user_id: str) -> None:
        """Returns when the user's events that are in the log, or on the disk before it, are in the record."""
        log, states, until = self._parts.log, self._parts.states, time.monotonic() + WAITS_S
        spool = self._parts.spool
        partition = partition_of(user_id.encode(), log.partitions(EVENTS))
        source = source_of(log.identity(EVENTS), partition)
        end = log.end_offsets(EVENTS)[partition]
        while (spool is not None and not spool.is_empty()) or (states.position(source) or 0) < end:
            if time.monotonic() > until:
                raise Refused("anonymous_id", user_id, "its last events are still on their way, try again", status=503)
            time.sleep(LOOKS_EVERY_S)


def read_merge(raw: Any) -> Merge:
    """The merge in a decoded JSON value. Raises Refused."""
    if not isinstance(raw, dict):
        raise Refused("body", raw, "must be an object with anonymous_id and user_id")
    for name in raw.keys() - {"anonymous_id", "user_id"}:
        raise Refused(name, raw[name], "unknown beside anonymous_id and user_id")
    given = [raw.get(name) for name in ("anonymous_id", "user_id")]
    anonymous_id, user_id = given
    if not isinstance(anonymous_id, str) or not ANONYMOUS.fullmatch(anonymous_id):
        raise Refused("anonymous_id", anonymous_id, "must be anon- and 32 hexadecimal digits, drawn at random")
    if not isinstance(user_id, str) or ANONYMOUS.fullmatch(user_id):
        raise Refused("user_id", user_id, "must be the id of somebody who is known")
    try:
        return Merge(anonymous_id, check_user_id(user_id))
    except InvalidEvent as error:
        raise Refused("user_id", user_id, error.reason) from None


def _id_of(wanted: Merge, entry: Any) -> str:
    """The same for the same event, however often it is merged."""
    return blake2b(wanted.anonymous_id.encode() + entry.tobytes(), digest_size=12).hexdigest()

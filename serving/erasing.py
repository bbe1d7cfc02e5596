"""`DELETE /v1/users/{id}`: a user is gone from the store when the answer comes, and does not come back by the past.

In this order, so that a crash or a refusal in the middle leaves what asking again completes: the erasure in the log,
the tombstone on the disk, the record, what waits on the disk for the log. What is not removed here is left out by
every reader because of the tombstone, and removed by the next compaction (`ledstream erasures compact`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from serving.parts import Erasures, Parts
from serving.publisher import Publisher, entry_of
from store.connection import StoreUnavailable
from store.receipts import signed
from store.tombstones import Place, Tombstone
from store.user_record import Applied, source_of
from stream.erased_records import about
from stream.events import erasure
from stream.kept import Outcome
from stream.log import Position, Record
from stream.spool import Addressed
from stream.topics import EVENTS

EMPTY = "empty when looked at: nothing was there, or a consumer had read the erasure already"
LATER = "removed by the next compaction, left out by every reader until then"
LOG = "removed by the next compaction on Redis Streams, with the topic's retention on Kafka; replays leave it out"


class Eraser:
    """Used inside one event loop."""

    def __init__(self, parts: Parts, publisher: Publisher) -> None:
        self._parts, self._publisher = parts, publisher

    async def erase(self, user_id: str) -> dict[str, Any] | None:
        """The signed receipt; None where no erasures are wired, and the log alone knows of it.

        Visitors that were merged into the user are erased too. Raises LogUnavailable, StoreUnavailable: ask again.
        """
        erasures, now_ms = self._parts.erasures, self._parts.now_ms()
        people = [user_id]
        if erasures is not None:
            people += await asyncio.to_thread(erasures.users.visitors, user_id)
        entries = [entry_of(erasure(one, now_ms), now_ms) for one in people]
        outcomes = await self._publisher.ask(entries, len(entries))
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        if erasures is None:
            return None
        return await asyncio.to_thread(self._erase, erasures, people, outcomes, now_ms)

    def _erase(
        self, erasures: Erasures, people: Sequence[str], outcomes: Sequence[Outcome], now_ms: int
    ) -> dict[str, Any]:
        places = self._places(outcomes)
        key = erasures.tombstones.key
        tombstones = [Tombstone(key.name(one), now_ms, place) for one, place in zip(people, places, strict=True)]
        erasures.tombstones.add(tombstones)
        had = [
            erasures.users.erase(one, None if place is None else Applied(source_of(*place[:2]), place.offset))
            for one, place in zip(people, places, strict=True)
        ]
        stores = {
            "record": "removed, with copies set aside and links to visitors" if any(had) else EMPTY,
            "spool": f"{self._take_out(people, now_ms)} entries removed",
            "archive": LATER,
            "log, impressions, badrows, deadletters": LOG,
            "releases": "hold no users",
        }
        return signed(tombstones, stores, key)

    def _places(self, outcomes: Sequence[Outcome]) -> list[Place | None]:
        if not any(isinstance(outcome, Position) for outcome in outcomes):
            return [None] * len(outcomes)
        identity = self._parts.log.identity(EVENTS)
        return [Place(identity, *outcome) if isinstance(outcome, Position) else None for outcome in outcomes]

    def _take_out(self, people: Sequence[str], now_ms: int) -> int:
        """How many entries were taken out of the spool; erasures stay, to reach the log."""
        spool = self._parts.spool
        if spool is None or spool.is_empty():
            return 0

        def is_theirs(one: Addressed) -> bool:
            found = about(one.topic, Record(0, one.entry.time_ms, one.entry.key, one.entry.value))
            is_old = found is not None and min(found.time_ms, one.entry.time_ms) <= now_ms
            return is_old and found is not None and found.user_id in people

        try:
            return spool.take_out(is_theirs)
        except OSError as error:  # no room for another copy of a segment, for one
            raise StoreUnavailable(f"{spool.folder}: {error.strerror}") from error

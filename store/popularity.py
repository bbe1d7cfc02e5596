"""How many events each item had, by hour for two days and by day for four weeks, in Redis.

    {ns}:popularity            hash: how far each source, a partition of a log, is counted
    {ns}:popularity:{source}   hash: by item key (7 bytes) its periods: 32 bits that say which, 32 bits of events

A source's position moves before its counts are written, so none is counted twice: a process that dies in between leaves
a few seconds out.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from store.catalogue import KEY_BYTES, Overwritten
from store.connection import Client, unavailable_is_ours

HOURS, DAYS = 48, 28
HOUR_MS, HOURS_A_DAY = 3_600_000, 24
DAY = 1 << 31  # marks a period as a day's; hours since 1970 are far below
AT_ONCE, SWEPT_AT_ONCE = 250, 250
Period = Literal["hour", "day"]

# KEYS: positions. ARGV: source, its position as read (nothing: none), the next one.
_ADVANCE = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""


class Popularity:
    """Of one namespace. Raises StoreUnavailable."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self._key = client, f"{namespace}:popularity"
        self._advance = client.register_script(_ADVANCE)
        self._cursors: dict[str, int] = {}

    def position(self, source: str) -> int | None:
        """How far the source is counted; None where nothing of it is."""
        with unavailable_is_ours():
            found: Any = self._client.hget(self._key, source)
        return None if found is None else int(found)

    def add(self, source: str, at: int | None, to: int, counts: Mapping[int, Mapping[int, int]]) -> None:
        """Count events of the source from position `at` up to `to`: by item key, by hour since 1970.

        Raises Overwritten, and counts nothing, where the source is not at `at`.
        """
        with unavailable_is_ours():
            if not self._advance(keys=[self._key], args=[source, "" if at is None else at, to]):
                raise Overwritten(self.position(source))
        newest = max((hour for of_item in counts.values() for hour in of_item), default=0)
        key, items = f"{self._key}:{source}", list(counts.items())
        for start in range(0, len(items), AT_ONCE):
            some = items[start : start + AT_ONCE]
            fields = [item.to_bytes(KEY_BYTES, "big") for item, _ in some]
            with unavailable_is_ours():
                stored: Any = self._client.hmget(key, fields)
                new = {
                    field: _packed(_periods(known), of_item, newest)
                    for field, known, (_, of_item) in zip(fields, stored, some, strict=True)
                }
                self._client.hset(key, mapping=new)  # type: ignore[arg-type]
        if newest:
            self._sweep(source, key, newest)

    def read(self, item: int, by: Period, now_ms: int) -> list[tuple[int, int]]:
        """(begin in Unix milliseconds, events) of the last HOURS hours or DAYS days, oldest first, by item key."""
        with unavailable_is_ours():
            sources: Any = self._client.hkeys(self._key)
            pipeline: Any = self._client.pipeline(transaction=False)
            for source in sources:
                pipeline.hget(f"{self._key}:{source.decode()}", item.to_bytes(KEY_BYTES, "big"))
            found = pipeline.execute()
        totals: Counter[int] = Counter()
        for stored in found:
            for period, events in _periods(stored).items():
                if by == "day":
                    totals[_day_of(period)] += events
                elif not period & DAY:
                    totals[period] += events
        each_ms, number = (HOUR_MS, HOURS) if by == "hour" else (HOURS_A_DAY * HOUR_MS, DAYS)
        last = now_ms // each_ms
        return [(at * each_ms, totals[at]) for at in range(last - number + 1, last + 1)]

    def _sweep(self, source: str, key: str, newest: int) -> None:
        """Some more of the items, at each call: those without events for so long go."""
        with unavailable_is_ours():
            part: Any = self._client.hscan(key, self._cursors.get(source, 0), count=SWEPT_AT_ONCE)
            self._cursors[source], found = part
            ends = {field: max(map(_day_of, _periods(stored)), default=0) for field, stored in found.items()}
            gone = [field for field, day in ends.items() if day <= newest // HOURS_A_DAY - DAYS]
            if gone:
                self._client.hdel(key, *gone)


def _day_of(period: int) -> int:
    return period ^ DAY if period & DAY else period // HOURS_A_DAY


def _periods(stored: bytes | None) -> dict[int, int]:
    numbers = struct.unpack(f"<{len(stored) // 4}I", stored) if stored else ()
    return dict(zip(numbers[::2], numbers[1::2], strict=True))


def _packed(periods: dict[int, int], more: Mapping[int, int], newest: int) -> bytes:
    """What was counted by hour long ago becomes part of its day; what is too old for that goes."""
    kept: Counter[int] = Counter()
    for period, events in (*periods.items(), *more.items()):
        is_old = not period & DAY and period <= newest - HOURS
        kept[DAY | period // HOURS_A_DAY if is_old else period] += events
    oldest = newest // HOURS_A_DAY - DAYS
    pairs = [pair for pair in sorted(kept.items()) if _day_of(pair[0]) > oldest]
    return struct.pack(f"<{2 * len(pairs)}I", *(min(number, (1 << 32) - 1) for pair in pairs for number in pair))

"""What is known of items, in Redis: written by one consumer in the order of its topic, read by every server.

    {ns}:items            hash: a JSON object of what is known, by item id
    {ns}:items:withheld   sorted set of item keys (7 bytes) that were ever out of stock or deleted. A score is twice the
                          number of the change that made it so, and one more while the item is withheld: what changed
                          since is one range of scores
    {ns}:items:state      hash: a random `epoch`, the number of `changes`, and how far each `source` is in it

A write moves its source's position in the same step, and changes nothing where that is not what it was read as: so
each record takes effect once, in order, whoever reads it again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from store.connection import Client, unavailable_is_ours
from store.lookups import Lookups

# KEYS: items, withheld, state. ARGV: source, its position as read (nothing: none), the next one, an epoch to begin;
# then of each item its id, its fields (nothing: deleted), its key, whether it is withheld.
_WRITE = """
local call = redis.call
if (call('HGET', KEYS[3], ARGV[1]) or '') ~= ARGV[2] then return 0 end
call('HSETNX', KEYS[3], 'epoch', ARGV[4])
local change = call('HINCRBY', KEYS[3], 'changes', (#ARGV - 4) / 4)
for i = 5, #ARGV, 4 do
  if ARGV[i + 1] == '' then call('HDEL', KEYS[1], ARGV[i]) else call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
  local was = tonumber(call('ZSCORE', KEYS[2], ARGV[i + 2]) or 0) % 2
  local is = tonumber(ARGV[i + 3])
  if was ~= is then call('ZADD', KEYS[2], string.format('%.0f', 2 * change + is), ARGV[i + 2]) end
end
call('HSET', KEYS[3], ARGV[1], ARGV[3])
return 1
"""
AT_ONCE = 50  # items a call writes: it keeps the server from everybody else for a third of a millisecond
SCANNED_AT_ONCE = 1000
KEY_BYTES = 7


class Overwritten(Exception):
    """The source is at another position than was thought: somebody else wrote, or the store was flushed."""

    def __init__(self, position: int | None) -> None:
        self.position = position
        super().__init__(f"the store is at {position}")


class Row(NamedTuple):
    """An item to be written. fields: JSON, nothing where it is deleted. key: 56 bits. end: the position behind it."""

    item_id: str
    fields: bytes
    key: int
    is_withheld: bool
    end: int


class Changed(NamedTuple):
    """What is withheld since a number of changes, or at all. withheld: whether each key is, by key."""

    epoch: bytes
    changes: int
    withheld: Mapping[int, bool]


class Catalogue:
    """Of one namespace. Raises StoreUnavailable."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client, self._items = client, f"{namespace}:items"
        self._withheld, self._state = f"{self._items}:withheld", f"{self._items}:state"
        self._write = client.register_script(_WRITE)

    def lookups(self) -> Lookups:
        """What is known of items by their ids, for an event loop."""
        return Lookups(self._client, command=(b"HMGET", self._items.encode()))

    def position(self, source: str) -> int | None:
        """How far the source is in here; None where nothing of it is."""
        with unavailable_is_ours():
            found: Any = self._client.hget(self._state, source)
        return None if found is None else int(found)

    def write(self, source: str, at: int | None, rows: Sequence[Row], next_position: int) -> None:
        """Replace what is known of these items, in order, and move the source from `at` to next_position.

        Raises Overwritten where it is not at `at`; what was written until then is in, up to where the source is.
        """
        chunks = [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)] or [()]
        for number, chunk in enumerate(chunks, 1):
            to = next_position if number == len(chunks) else chunk[-1].end
            args: list[Any] = [source, "" if at is None else at, to, secrets.token_hex(8)]
            for row in chunk:
                args += [row.item_id, row.fields, row.key.to_bytes(KEY_BYTES, "big"), int(row.is_withheld)]
            with unavailable_is_ours():
                is_written = self._write(keys=[self._items, self._withheld, self._state], args=args)
            if not is_written:
                raise Overwritten(self.position(source))
            at = to

    def read(self, item_ids: Sequence[str]) -> list[bytes | None]:
        """What is known of each, JSON; None where nothing is."""
        if not item_ids:
            return []
        with unavailable_is_ours():
            found: Any = self._client.hmget(self._items, list(item_ids))
        return list(found)

    def scan(self) -> Iterator[tuple[bytes, bytes]]:
        """Every item's id and fields, in no particular order. One that is written meanwhile may come twice."""
        cursor = 0
        while True:
            with unavailable_is_ours():
                part: Any = self._client.hscan(self._items, cursor, count=SCANNED_AT_ONCE)
            cursor, found = part
            yield from found.items()
            if not cursor:
                return

    def count(self) -> int:
        """Items of which something is known."""
        with unavailable_is_ours():
            found: Any = self._client.hlen(self._items)
        return int(found)

    def changed(self, since: Changed | None) -> Changed:
        """What is withheld by now: what changed in that since `since`, or all of it where that was another store's."""
        with unavailable_is_ours(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.hmget(self._state, ["epoch", "changes"])
            pipeline.zrangebyscore(self._withheld, 2 * (since.changes + 1 if since else 0), "+inf", withscores=True)
            (epoch, changes), found = pipeline.execute()
        if since is not None and (epoch or b"") != since.epoch:
            return self.changed(None)
        withheld = {int.from_bytes(member, "big"): bool(int(score) & 1) for member, score in found}
        return Changed(epoch or b"", int(changes or 0), withheld)

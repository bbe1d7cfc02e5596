"""How much memory user records take in Redis or Valkey: the formula that docs/sizing.md explains.

What counts is `used_memory`: every string and every table entry rounded up to what the allocator hands out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from store.user_record import ENTRY, HEAD, IDS_KEPT
from store.user_state import VIRTUAL_PARTITIONS


@dataclass(frozen=True)
class Shape:
    """A population. idle: share of the users who came once, so that their record holds one event.

    events: of every other user, as many as the timeline keeps. id_bytes: length of a user id.
    """

    users: int
    events: int = 50
    dim: int = 64
    idle: float = 0.0
    id_bytes: int = 16


@dataclass(frozen=True)
class Server:
    """A program that holds records. allocated: what its allocator hands out for so many bytes.

    embeds_keys: Valkey 9 keeps key, expiry and object in one piece, and its tables hold pointers seven to a bucket.
    """

    allocated: Callable[[int], int]
    embeds_keys: bool


def jemalloc(quantum: int) -> Callable[[int], int]:
    """Steps of the quantum up to eight of them or 64, beyond that four steps to each doubling."""

    def allocated(size: int) -> int:
        step = max(quantum, 1 << max((size - 1).bit_length() - 3, 0))
        return max(8, -(-size // step) * step)

    return allocated


def glibc(size: int) -> int:
    """Chunks of 16 bytes, of which eight are the allocator's own and not counted."""
    return max(24, -(-(size + 8) // 16) * 16 - 8)


SERVERS = {
    "redis": Server(jemalloc(16), embeds_keys=False),  # 7.0 of Debian, with the system's jemalloc
    "redis-image": Server(jemalloc(8), embeds_keys=False),  # 7.0 to 7.2 as Redis builds it, with a jemalloc of its own
    "valkey": Server(glibc, embeds_keys=True),  # 9.1 of PyPI: the embedded store
    "valkey-image": Server(jemalloc(8), embeds_keys=True),  # 9 as Valkey builds it
}


def predicted_bytes(shape: Shape, server: Server) -> float:
    """`used_memory` of the shape's users, beyond that of the empty server."""
    kinds = ((1 - shape.idle, shape), (shape.idle, replace(shape, events=1)))
    strings = sum(share * user_bytes(kind, server) for share, kind in kinds)
    return shape.users * strings + 2 * table_bytes(shape.users, server)


def record_bytes(shape: Shape) -> int:
    """Length of the record of a user who always came by one partition (`store/user_record.py`)."""
    return HEAD.itemsize + 2 * shape.dim + 4 * min(shape.events, IDS_KEPT) + ENTRY.itemsize * shape.events


def user_bytes(shape: Shape, server: Server) -> float:
    """One user's strings, tables aside: record, key, and the objects around them. A mean over the hash tags."""
    value = server.allocated(sds(record_bytes(shape)))
    start = len("led:u:{}:") + shape.id_bytes
    return value + sum(_key_bytes(start + len(str(tag)), server) for tag in range(VIRTUAL_PARTITIONS)) / (
        VIRTUAL_PARTITIONS
    )


def table_bytes(entries: int, server: Server) -> float:
    """One of the two hash tables, of keys and of expiries, after it grew to so many entries."""
    if not server.embeds_keys:
        return 8.0 * (1 << (entries - 1).bit_length())
    buckets = 1
    while 7 * buckets < entries:
        buckets *= 2
    return 64.0 * buckets + server.allocated(64) * buckets * _chained(entries / buckets)


def sds(length: int) -> int:
    """Bytes of a string of the server's: a header by length, and a zero at the end."""
    header = 1 if length < 32 else 3 if length < 256 else 5
    return header + length + 1


def _key_bytes(key: int, server: Server) -> int:
    if server.embeds_keys:
        return server.allocated(16 + 8 + 1 + sds(key))  # object, expiry, length of the key's header, key
    # Key, an object for the value, an entry in each of two tables.
    return server.allocated(sds(key)) + server.allocated(16) + 2 * server.allocated(24)


def _chained(mean: float) -> float:
    """Further buckets to a bucket that `mean` entries fall on: each but a chain's last holds six, the last seven."""
    probability, below, further = math.exp(-mean), 0.0, 0.0
    for entries in range(60):
        below += probability
        if entries % 6 == 1 and entries > 1:
            further += 1 - below
        probability *= mean / (entries + 1)
    return further

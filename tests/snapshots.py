"""A namespace of a store as it was at some moment, to be put back: on a server that others use too."""

from __future__ import annotations

from typing import Any, NamedTuple

from store.connection import Client


class Snapshot(NamedTuple):
    """Keys with their values, as the store itself dumps them, and the milliseconds they have to live (0: for ever)."""

    values: dict[bytes, tuple[bytes, int]]


def take(client: Client, namespace: str) -> Snapshot:
    """All there is in the namespace."""
    values: dict[bytes, tuple[bytes, int]] = {}
    for key in client.scan_iter(f"{namespace}:*", count=1000):
        dumped: Any = client.dump(key)
        values[key] = dumped, max(0, int(client.pttl(key)))
    return Snapshot(values)


def put_back(client: Client, namespace: str, snapshot: Snapshot) -> None:
    """Make the namespace what it was, in one step; nothing of what came since is left."""
    with client.pipeline(transaction=True) as pipeline:
        for key in client.scan_iter(f"{namespace}:*", count=1000):
            pipeline.delete(key)
        for key, (value, left_ms) in snapshot.values.items():
            pipeline.restore(key, left_ms, value)
        pipeline.execute()

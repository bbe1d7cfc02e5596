"""The one module that knows the Redis client: how to connect, and what its errors mean to us.

`redis://host:port/db`, `rediss://…` and `unix:///path` are understood; Redis and Valkey both answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

Client = redis.Redis


class StoreUnavailable(ConnectionError):
    """Redis did not answer, or cannot write at present. Nothing is known to be done; try again later."""


def connect(address: str, *, timeout_s: float = 2.0) -> Client:
    """A client of bytes for the address. Connects at first use; each call waits at most timeout_s.

    A call is not repeated by the client: whoever calls knows whether twice is harmless.
    """
    return redis.Redis.from_url(
        address, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
    )


@contextmanager
def unavailable_is_ours() -> Iterator[None]:
    """Driver errors that pass by themselves become StoreUnavailable; the others are mistakes and stay as they are.

    Passing: no connection, no answer in time, still loading, a read-only replica, out of memory, a cluster or a disk
    that refuses writes for now.
    """
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, redis.OutOfMemoryError) as error:
        raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
    except redis.ResponseError as error:
        if str(error).startswith(("OOM", "MISCONF", "LOADING", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "READONLY")):
            raise StoreUnavailable(str(error)) from error
        raise


def ping(client: Client) -> None:
    """Returns if the server answers; raises StoreUnavailable."""
    with unavailable_is_ours():
        client.ping()

"""The one module that knows the Redis client: how to connect, and what its errors mean to us.

`redis://host:port/db`, `rediss://…` and `unix:///path` are understood; Redis and Valkey both answer.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

Client = redis.Redis


RECEIVED_AT_ONCE = 1 << 18
PASSING = ("OOM", "MISCONF", "LOADING", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "READONLY")


class StoreUnavailable(ConnectionError):
    """Redis did not answer, or cannot write at present. Nothing is known to be done; try again later."""


def connect(address: str, *, timeout_s: float = 2.0) -> Client:
    """A client of bytes for the address. Connects at first use; each call waits at most timeout_s.

    A call is not repeated by the client: whoever calls knows whether twice is harmless.
    """
    return redis.Redis.from_url(
        address, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
    )


class Exchange:
    """Commands whose answers are fetched later, over one connection: the caller works while the server does.

    Answers come in the order of the commands. Used by one thread. All raise StoreUnavailable.
    """

    def __init__(self, client: Client) -> None:
        self._pool = client.connection_pool
        with unavailable_is_ours():
            self._connection: Any = self._pool.get_connection()
        self._sent: deque[int] = deque()
        self._in_the_middle = False

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Send the commands, of bytes, texts and numbers, to be answered together."""
        packed = [hiredis.pack_command(command) for command in commands]
        with self._whole():
            self._connection.send_packed_command(packed)
        self._sent.append(len(commands))

    def receive(self) -> list[Any]:
        """Answers to what was sent first of all that is not answered yet."""
        with self._whole():
            return [self._connection.read_response() for _ in range(self._sent.popleft())]

    def close(self) -> None:
        """Give the connection back; one with answers not fetched, or with an error on it, is ended."""
        if self._in_the_middle or self._sent:
            self._connection.disconnect()
        self._pool.release(self._connection)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        self._in_the_middle = True
        with unavailable_is_ours():
            yield
        self._in_the_middle = False


class Line:
    """One connection that never makes anybody wait: for an event loop, which is told when to read.

    Answers come in the order of the commands. All raise StoreUnavailable.
    """

    def __init__(self, client: Client) -> None:
        """Connects, which may take as long as the client's timeout."""
        self._pool = client.connection_pool
        with unavailable_is_ours():
            found: Any = self._pool.get_connection()
            try:  # one that lay idle says nothing of whether the store answers now
                found.disconnect()
                found.connect()
            except BaseException:
                self._pool.release(found)
                raise
        self._connection = found
        opened: Any = self._connection._sock  # the client has no other way to it
        opened.setblocking(False)
        self._socket = opened
        self._is_encrypted = isinstance(opened, ssl.SSLSocket)  # which may hold more than a selector sees
        self._reader = hiredis.Reader()

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def send(self, command: tuple[bytes, ...]) -> None:
        """Send a command of a few ten thousand bytes."""
        data = hiredis.pack_command(command)  # type: ignore[arg-type]
        try:
            whole = self._socket.send(data) == len(data)
        except OSError as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        if not whole:
            raise StoreUnavailable("the store does not read what it is sent")

    def received(self) -> list[Any]:
        """The answers that are there by now; maybe none."""
        while data := self._bytes():
            self._reader.feed(data)
            if len(data) < RECEIVED_AT_ONCE and not self._is_encrypted:
                break  # what comes now makes the socket readable again
        answers = []
        while (answer := self._reader.gets()) is not False:
            if isinstance(answer, Exception):
                raise StoreUnavailable(str(answer))
            if not isinstance(answer, hiredis.PushNotification):  # what the server says unasked is nobody's answer
                answers.append(answer)
        return answers

    def _bytes(self) -> bytes:
        """What is there; nothing where reading would have to wait."""
        try:
            data: bytes = self._socket.recv(RECEIVED_AT_ONCE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return b""
        except OSError as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        if not data:
            raise StoreUnavailable("the store ended the connection")
        return data

    def close(self) -> None:
        self._connection.disconnect()
        self._pool.release(self._connection)


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
        if isinstance(error, redis.exceptions.NoScriptError) or str(error).startswith(PASSING):
            raise StoreUnavailable(str(error)) from error
        raise


def ping(client: Client) -> None:
    """Returns if the server answers; raises StoreUnavailable."""
    with unavailable_is_ours():
        client.ping()

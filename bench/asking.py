"""Requests at a given rate from a process of their own, each answer kept: when it was due, how late it came, its body.

    python -m bench.asking 127.0.0.1 8080 500 paths answers      # until SIGTERM

A latency counts from when its request was due, also where it waited for a free connection: no waiting is hidden.
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import BinaryIO, NamedTuple

CONNECTIONS = 64
ENDS_WITHIN_S = 10.0  # what is not answered by then stays unanswered
HEAD = struct.Struct("<ddHI")


class Answer(NamedTuple):
    """due_s: by `time.perf_counter`, which the processes of a machine share. status: 0 without an answer."""

    due_s: float
    seconds: float
    status: int
    body: bytes


@contextmanager
def asking(host: str, port: int, per_s: float, paths: Sequence[str], folder: Path) -> Iterator[Path]:
    """Such a process, asking for these paths in random order until left: where its answers are to be read then."""
    wanted, answers = folder / "asked-paths", folder / "answers"
    wanted.write_text("\n".join(paths))
    command = [sys.executable, "-m", "bench.asking", host, str(port), f"{per_s:g}", str(wanted), str(answers)]
    process = subprocess.Popen(command)
    try:
        yield answers
    finally:
        process.terminate()
        code = process.wait(2 * ENDS_WITHIN_S)
    if code:
        raise SystemExit(f"the process that asks ended with {code}")


def read_answers(path: Path) -> Iterator[Answer]:
    """In the order they came."""
    with path.open("rb") as file:
        while head := file.read(HEAD.size):
            due_s, seconds, status, size = HEAD.unpack(head)
            yield Answer(due_s, seconds, status, file.read(size))


def main() -> None:
    host, port, per_s, paths, answers = sys.argv[1:]
    requests = [
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode() for path in Path(paths).read_text().splitlines()
    ]
    gc.disable()
    # select(2) waits for microseconds, epoll for whole milliseconds.
    with Path(answers).open("wb") as file, asyncio.Runner(loop_factory=_loop) as runner:
        runner.run(Asker(host, int(port), file).ask(requests, float(per_s)))


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


class Asker:
    """Connections kept alive, and the requests that are due and wait for one."""

    def __init__(self, host: str, port: int, file: BinaryIO) -> None:
        self._at, self._file = (host, port), file
        self._idle: list[Connection] = []
        self._due: deque[tuple[float, bytes]] = deque()
        self._connections = 0

    async def ask(self, requests: Sequence[bytes], per_s: float) -> None:
        """Requests drawn at random, evenly, until SIGTERM; then returns when all are answered."""
        loop, stop, random = asyncio.get_running_loop(), asyncio.Event(), Random(1)
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        for _ in range(CONNECTIONS):
            await self._connect()
        started, number = time.perf_counter(), 0
        while not stop.is_set():
            number += 1
            due_s = started + number / per_s
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            self._due.append((due_s, random.choice(requests)))
            self._send()
        deadline = time.perf_counter() + ENDS_WITHIN_S
        while len(self._idle) < self._connections or self._due:
            if time.perf_counter() > deadline:
                break
            await asyncio.sleep(0.01)
        for _ in range(self._connections - len(self._idle) + len(self._due)):
            self.keep(Answer(time.perf_counter(), ENDS_WITHIN_S, 0, b""))

    def free(self, connection: Connection) -> None:
        """The connection is answered."""
        self._idle.append(connection)
        self._send()

    def keep(self, answer: Answer) -> None:
        """To be read by whoever asked for all this."""
        self._file.write(HEAD.pack(answer.due_s, answer.seconds, answer.status, len(answer.body)) + answer.body)

    def lost(self, connection: Connection) -> None:
        """The connection ended; another takes its place."""
        self._connections -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        self._connections += 1
        await asyncio.get_running_loop().create_connection(lambda: Connection(self), *self._at)

    def _send(self) -> None:
        while self._due and self._idle:
            self._idle.pop().ask(*self._due.popleft())


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._due_s: float | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._asker.free(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  why is for the server's log to say
        if self._due_s is not None:
            self._asker.keep(Answer(self._due_s, time.perf_counter() - self._due_s, 0, b""))
        self._asker.lost(self)

    def ask(self, due_s: float, request: bytes) -> None:
        """Send it; nothing else may be in hand."""
        self._due_s, self._received = due_s, b""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or self._due_s is None:
            return
        _, _, rest = head.lower().partition(b"content-length:")
        if len(body) < int(rest.split(b"\r\n", 1)[0]):
            return
        self._asker.keep(Answer(self._due_s, time.perf_counter() - self._due_s, int(head.split(b" ", 2)[1]), body))
        self._due_s = None
        self._asker.free(self)


if __name__ == "__main__":
    main()

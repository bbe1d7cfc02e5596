"""Between a program and its store: a test sees each command before it passes, may act first, or cut the connection."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit


class Cut(Exception):
    """Raised by a hook: the command does not pass, and the connection ends."""


class Command(NamedTuple):
    """What a client says to the store."""

    words: list[bytes]

    @property
    def keys(self) -> list[bytes]:
        """The keys of a script; those that the command names, with other arguments, otherwise."""
        is_script = self.words[0].upper() == b"EVALSHA"
        return self.words[3 : 3 + int(self.words[2])] if is_script else self.words[1:]

    @property
    def arguments(self) -> list[bytes]:
        """What a script is given beside its keys."""
        return self.words[3 + int(self.words[2]) :]

    def writes(self, what: bytes) -> bool:
        """Whether it runs a script to write keys that contain this: b":u:" for user records, b":position:".

        Those that a script only looks at are its first.
        """
        return self.words[0].upper() == b"EVALSHA" and what in self.keys[-1]

    def reads(self, what: bytes) -> bool:
        """Whether it looks up keys that contain this."""
        return self.words[0].upper() == b"MGET" and any(what in key for key in self.keys)


class StoreProxy:
    """Listens at `address` while it is entered. before: called with every command, in a thread of its connection."""

    def __init__(self, store_address: str, before: Callable[[Command], None] = lambda _: None) -> None:
        self._store, self.before = store_address, before
        self._folder = tempfile.TemporaryDirectory(prefix="proxy-")
        path = Path(self._folder.name) / "s"
        self.address = f"unix://{path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> StoreProxy:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._open):
            _end(one)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._open):
            one.close()
        self._folder.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            store = _connected(self._store)
            self._open += [client, store]
            for work in (self._pass_commands, self._pass_answers):
                thread = threading.Thread(target=work, args=(client, store), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pass_commands(self, client: socket.socket, store: socket.socket) -> None:
        with client.makefile("rb") as stream, suppress(OSError, Cut):
            while words := _read_command(stream):
                self.before(Command(words))
                store.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))
        _end(client)
        _end(store)

    def _pass_answers(self, client: socket.socket, store: socket.socket) -> None:
        with suppress(OSError):
            while answer := store.recv(1 << 16):
                client.sendall(answer)
        _end(client)


def _read_command(stream: BinaryIO) -> list[bytes]:
    """The next command's words; none at the end."""
    words = []
    for _ in range(int(stream.readline()[1:] or 0)):
        length = int(stream.readline()[1:])
        words.append(stream.read(length + 2)[:-2])
    return words


def _connected(address: str) -> socket.socket:
    parts = urlsplit(address)
    if parts.scheme != "unix":
        return socket.create_connection((parts.hostname or "localhost", parts.port or 6379))
    end = socket.socket(socket.AF_UNIX)
    end.connect(parts.path)
    return end


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)

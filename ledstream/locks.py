"""What processes hold until they end: a port or a core of this machine, all in one folder, or a file that they name."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import TextIO


def folder() -> Path:
    """Made where it is missing. Raises PermissionError where somebody else has made it."""
    path = Path(gettempdir()) / f"ledstream-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another account: remove it, or set TMPDIR")
    return path


def hold(name: str) -> TextIO:
    """Hold what is called so until the file is closed or this process ends. Raises BlockingIOError where another does.

    Who removes the file does so while holding it: whoever opened it before holds nothing that counts, and tries again.
    """
    path = folder() / f"{name}.lock"
    while True:
        lock = path.open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                return lock
        except FileNotFoundError:
            pass  # removed in between
        except OSError:
            lock.close()
            raise
        lock.close()


class Held(Exception):
    """Another process holds a file: says which, by its number."""


@contextmanager
def held_file(path: Path) -> Iterator[None]:
    """Hold a file, which is made where it is missing and stays; the kernel lets it go where this process is killed.

    Raises Held where another process holds it.
    """
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Held(f"pid {lock.read().strip() or 'not told yet'}") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield

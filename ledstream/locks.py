"""What processes of this account hold on this machine, a port or a core, and where they meet: all in one folder."""

from __future__ import annotations

import fcntl
import os
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

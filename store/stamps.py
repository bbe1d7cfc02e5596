"""Checksums of files, and how a file that was verified is known again without reading it whole a second time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

Stamp = tuple[int, ...]


def stamps(paths: Iterable[Path]) -> dict[Path, Stamp | None]:
    """Each file's size, times, and place on the disk; None where there is none.

    A file that was written to, replaced, restored from elsewhere or only touched has another stamp. What a disk lost
    since without a write, it has not: no mapped file is protected from that, looked at again or not.
    """
    return {path: _stamp(path) for path in paths}


def sha256_of(path: Path) -> str:
    """Of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev

"""Erased users leave the archive: a file that holds events of theirs is written again without them, under its own name.

Offsets that a file covers stay what they were, so that each event is still in exactly one file, or in none. The new
file takes the old one's name in one step: readers that opened the old one read it to its end, others find the new one.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from led.encoder import I64, Bool
from store.archive import PASSING, files_since, log_of, partition_of
from store.connection import StoreUnavailable
from store.durable import sync
from store.merged import leaves_tombstone
from store.stamps import Stamp, stamps
from store.tombstones import Place, Tombstone, Tombstones, Where

LEFT_BEHIND_S = 3600.0
_TELLING = ["user_id", "offset", "appended_ms", "time_ms", "kind"]


@dataclass(frozen=True)
class Compacted:
    """files: looked at. rewritten: of them. events: rows that went, erasures among them."""

    files: int = 0
    rewritten: int = 0
    events: int = 0


class ArchiveCompaction:
    """Of the archive in a folder. erase: the kind of event that is an erasure.

    What was looked at stays known while this object lives: a file that nobody touched since is looked at again only
    once somebody else was erased.
    """

    def __init__(self, folder: Path, tombstones: Tombstones, *, erase: str) -> None:
        self._folder, self._tombstones, self._erase = folder, tombstones, erase
        self._clean: dict[Path, Stamp | None] = {}
        self._buried = -1

    def run(self) -> Compacted:
        """One pass over all files. A crash in the middle leaves whole files; twice is harmless.

        An erasure that only the archive knew gets its tombstone first. Raises StoreUnavailable on a disk that is full.
        """
        try:
            with self._alone():
                return self._pass()
        except OSError as error:
            if error.errno in PASSING:
                raise StoreUnavailable(f"archive {self._folder}: {error}") from error
            raise

    def _pass(self) -> Compacted:
        for path in left_behind(self._folder):
            path.unlink(missing_ok=True)
        files = self._to_look_at()
        self._tombstones.add([one for path in files for one in erasures_in(path, self._tombstones, self._erase)])
        buried = len(self._tombstones.all())
        if buried != self._buried:
            files = files_since(self._folder)
        went = [_rewrite(path, self._tombstones) for path in files] if buried else []
        self._clean |= stamps(files)
        self._buried = buried
        return Compacted(len(files), len([rows for rows in went if rows]), sum(went))

    def _to_look_at(self) -> list[Path]:
        """Files that are new, or that somebody touched."""
        self._tombstones.refresh()
        now = stamps(files_since(self._folder))
        self._clean = {path: stamp for path, stamp in self._clean.items() if path in now}
        return [path for path, stamp in now.items() if self._clean.get(path) != stamp]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "compaction.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def left_behind(folder: Path) -> list[Path]:
    """Temporary files of which nobody will make archive files any more."""
    oldest_s = time.time() - LEFT_BEHIND_S
    return [path for path in folder.glob("day=*/.*.parquet.*") if path.stat().st_mtime < oldest_s]


def erased_in(path: Path, tombstones: Tombstones, *, erase: str) -> Counter[bytes]:
    """How many events of erased users the file holds, by the user's name; the erasures themselves are not counted."""
    if not len(tombstones):
        return Counter()
    told = pq.read_table(path, columns=_TELLING)
    gone = _gone(path, told, tombstones)
    theirs = told.filter(pa.array(gone))
    users: list[Any] = theirs["user_id"].to_pylist()
    names = (
        tombstones.name_of(user) for user, kind in zip(users, theirs["kind"].to_pylist(), strict=True) if kind != erase
    )
    return Counter(name for name in names if name is not None)


def erasures_in(path: Path, tombstones: Tombstones, erase: str) -> list[Tombstone]:
    """The tombstones that the file's erasures leave."""
    if erase not in pq.read_table(path, columns=["kind"])["kind"].unique().to_pylist():
        return []
    rows = pq.read_table(path, columns=[*_TELLING, "context"], filters=[("kind", "=", erase)]).to_pylist()
    log, partition = log_of(path), partition_of(path)
    return [
        Tombstone(tombstones.key.name(row["user_id"]), row["time_ms"], Place(log, partition, row["offset"]))
        for row in rows
        if leaves_tombstone(json.loads(row["context"] or "{}"))
    ]


def without_erased(events: pa.Table, tombstones: Tombstones, *, erase: str) -> pa.Table:
    """The events that count, erasures among them, of a table with user_id, kind, time_ms and appended_ms."""
    if not len(tombstones) or not len(events):
        return events
    gone = _taken(events, tombstones, None)
    gone &= np.array([kind != erase for kind in events["kind"].to_pylist()]) if gone.any() else True
    return events.filter(pa.array(~gone)) if gone.any() else events


def _rewrite(path: Path, tombstones: Tombstones) -> int:
    """How many rows went."""
    gone = _gone(path, pq.read_table(path, columns=_TELLING), tombstones)
    if not gone.any():
        return 0
    with pq.ParquetFile(path) as file:
        table = file.read()
    temporary = path.parent / f".{path.name}.{os.getpid()}"
    try:
        pq.write_table(table.filter(pa.array(~gone)), temporary, compression="zstd")  # its metadata goes along
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return int(gone.sum())


def _gone(path: Path, told: pa.Table, tombstones: Tombstones) -> Bool:
    offsets: I64 = told["offset"].to_numpy()
    return _taken(told, tombstones, Where(log_of(path), partition_of(path), offsets))


def _taken(events: pa.Table, tombstones: Tombstones, where: Where | None) -> Bool:
    users: list[Any] = events["user_id"].to_pylist()
    times_ms, appended_ms = (events[name].to_numpy() for name in ("time_ms", "appended_ms"))
    return tombstones.takes(users, times_ms, appended_ms, where)

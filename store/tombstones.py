"""Who was erased, and when: a line of JSON each in a file that only grows, in several folders so that one may be lost.

    {"key":"0f1e2d3c","user":"<32 hexadecimal digits>","time_ms":1795277600123,"log":"<16>","partition":3,"offset":17}

`user` is what `ErasureKey.name` makes of the id. log, partition and offset say where the erasure is in the log; they
are missing where it was not there yet. What a user did up to an erasure is gone, whenever it comes again; what
is later counts: a new life. Files may be joined by appending one to another, and lines may be there twice.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from led.encoder import I64, Bool
from store.connection import StoreUnavailable
from store.durable import sync
from store.erasure_key import ErasureKey, WrongErasureKey

logger = logging.getLogger(__name__)
FILE = "tombstones.jsonl"


class Place(NamedTuple):
    """Where an event is in a log, by the log's identity."""

    log: int
    partition: int
    offset: int


class Tombstone(NamedTuple):
    """One erasure. name: of `ErasureKey.name`. place: where it is in the log, None where it was not there yet."""

    name: bytes
    time_ms: int
    place: Place | None = None


class Where(NamedTuple):
    """Where events (n,) are in the log: all in one partition. offsets: (n,)."""

    log: int
    partition: int
    offsets: I64


@dataclass(slots=True)
class _Erased:
    """A user's erasures together. until_ms: the last. offsets: the last in each partition of a log."""

    until_ms: int
    offsets: dict[tuple[int, int], int] = field(default_factory=dict)


class Tombstones:
    """The tombstones in all of the folders, each of which has all that is added. Shared by processes and threads.

    Reading raises WrongErasureKey for a line of another key.
    """

    def __init__(self, folders: Sequence[Path], key: ErasureKey) -> None:
        self.key = key
        self._files = [folder / FILE for folder in folders]
        self._read: dict[Path, tuple[int, int]] = {}  # inode, and how much of it was read
        self._lines: dict[Path, set[Tombstone]] = {path: set() for path in self._files}
        self._known: set[Tombstone] = set()
        self._erased: dict[bytes, _Erased] = {}
        self._newest_ms = -1
        self._furthest: dict[tuple[int, int], int] = {}
        self._wheres: dict[tuple[int, int], tuple[int, int]] = {}  # one of each, not one a tombstone
        self._reading = threading.RLock()
        self.refresh()

    def __len__(self) -> int:
        return len(self._erased)

    def refresh(self) -> None:
        """Read what was added since, by whomever."""
        with self._reading:
            read: dict[bytes, Tombstone] = {}  # files say the same: each line is taken apart, and kept, once
            for path in self._files:
                for line in self._new_lines(path):
                    tombstone = read.get(line) or self._tombstone(line, path)
                    if tombstone is not None:
                        read[line] = tombstone
                        self._lines[path].add(tombstone)
                        if tombstone not in self._known:
                            self._note(tombstone)

    def all(self) -> list[Tombstone]:
        """Oldest first."""
        return sorted(self._known, key=lambda one: (one.time_ms, one.name))

    def add(self, tombstones: Iterable[Tombstone]) -> None:
        """Returns when they are on the disk, in every folder. Adding again does no harm. Raises StoreUnavailable."""
        wanted = dict.fromkeys(tombstones)
        with self._reading:
            self.refresh()
            for path in self._files:
                missing = [one for one in wanted if one not in self._lines[path]]
                try:
                    _append(path, [self._line(one) for one in missing])
                except OSError as error:
                    raise StoreUnavailable(f"{path}: {error.strerror}") from error
            self.refresh()

    def spread(self) -> None:
        """Put into each folder what only another one has: after one was lost, or restored. Raises StoreUnavailable."""
        self.refresh()
        self.add(self.all())

    def until_ms(self, user_id: str) -> int | None:
        """When the user was erased last; None for one who never was."""
        found = self._erased.get(self.key.name(user_id)) if self._erased else None
        return None if found is None else found.until_ms

    def places(self, user_id: str, log: int) -> list[Place]:
        """The user's last erasure in each partition of the log."""
        erased = self._erased.get(self.key.name(user_id))
        offsets = {} if erased is None else erased.offsets
        return [Place(of, partition, offset) for (of, partition), offset in offsets.items() if of == log]

    def name_of(self, user_id: str) -> bytes | None:
        """What an erased user is called; None for one who never was."""
        name = self.key.name(user_id) if self._erased else b""
        return name if name in self._erased else None

    def takes(self, users: Sequence[str], times_ms: I64, appended_ms: I64, where: Where | None = None) -> Bool:
        """Which events (n,) are of a user who was erased after them: they happened, or reached the log, before.

        In the partition that holds the erasure its place decides too: clocks of several machines differ.
        """
        gone = np.zeros(len(users), np.bool_)
        if not self._erased or not len(users):
            return gone
        at_ms = np.minimum(times_ms, appended_ms)
        may_be = at_ms <= self._newest_ms
        partition = None if where is None else (where.log, where.partition)
        if where is not None and partition in self._furthest:
            may_be |= where.offsets < self._furthest[partition]
        places = np.flatnonzero(may_be).tolist()
        erased = self._among({users[place] for place in places})
        for place in places if erased else ():
            if (theirs := erased.get(users[place])) is not None:
                gone[place] = at_ms[place] <= theirs.until_ms or (
                    where is not None and where.offsets[place] < theirs.offsets.get((where.log, where.partition), -1)
                )
        return gone

    def _among(self, users: Collection[str]) -> dict[str, _Erased]:
        name, known = self.key.name, self._erased
        return {user: found for user in users if (found := known.get(name(user))) is not None}

    def _note(self, tombstone: Tombstone) -> None:
        self._known.add(tombstone)
        erased = self._erased.setdefault(tombstone.name, _Erased(tombstone.time_ms))
        erased.until_ms = max(erased.until_ms, tombstone.time_ms)
        self._newest_ms = max(self._newest_ms, tombstone.time_ms)
        if tombstone.place is not None:
            log, partition, offset = tombstone.place
            where = self._wheres.setdefault((log, partition), (log, partition))
            for offsets in (erased.offsets, self._furthest):
                offsets[where] = max(offsets.get(where, -1), offset)

    def _new_lines(self, path: Path) -> Iterator[bytes]:
        try:
            found = path.stat()
        except FileNotFoundError:
            self._read.pop(path, None)
            self._lines[path].clear()
            return
        inode, at = self._read.get(path, (found.st_ino, 0))
        if inode != found.st_ino or at > found.st_size:
            at = 0  # another file was put in its place: what is known already stays known
            self._lines[path].clear()
        if at == found.st_size:
            return
        with path.open("rb") as file:
            file.seek(at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[path] = found.st_ino, at + len(whole)
        yield from filter(None, whole.splitlines())

    def _tombstone(self, line: bytes, path: Path) -> Tombstone | None:
        try:
            fields = json.loads(line)
            where = (int(fields["log"], 16), fields["partition"], fields["offset"]) if "log" in fields else None
            key, name, time_ms = fields["key"], bytes.fromhex(fields["user"]), int(fields["time_ms"])
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: no tombstone: %r", path, line[:80])  # cut short by a crash: nobody was told of it
            return None
        if key != self.key.fingerprint:
            raise WrongErasureKey(f"{path}: a tombstone of key {key}, this process has {self.key.fingerprint}")
        return Tombstone(name, time_ms, None if where is None else Place(*where))

    def _line(self, one: Tombstone) -> bytes:
        fields: dict[str, object] = {"key": self.key.fingerprint, "user": one.name.hex(), "time_ms": one.time_ms}
        if one.place is not None:
            fields |= {"log": f"{one.place.log:016x}", "partition": one.place.partition, "offset": one.place.offset}
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _append(path: Path, lines: Sequence[bytes]) -> None:
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # somebody died while writing
                file.write(b"\n")
        file.write(b"".join(lines))
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync(path.parent)

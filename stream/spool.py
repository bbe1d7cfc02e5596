"""Entries kept on disk while the log is away: in the order they came, whoever of several processes took them.

A folder of segments, named by when they began, so that no name comes back. A segment is frames: length, CRC-32, and
the entries of one call, msgpack. A frame is on the disk (fsync) before `put` returns. Behind what a process that died
left half written nothing is appended: another segment begins, and the rest of that one is set aside once the log has
what comes before. Beside a segment, `.done` says how much of it is in the log; without it all of it is appended again,
which event ids make harmless. An entry that was taken out leaves a blank of its size: whoever reads meanwhile finds
every frame where it was.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgpack

from store.durable import sync
from stream.log import Entry

logger = logging.getLogger(__name__)
SEGMENT_BYTES = 16 << 20
HEAD = struct.Struct("<II")
BLANK = "\0"  # begins the topic of an entry that was taken out


class Addressed(NamedTuple):
    """An entry and the topic it is for."""

    topic: str
    entry: Entry


class SpoolFull(OSError):
    """No more is kept; the sentence says why."""


class SpoolUnusable(OSError):
    """The folder cannot be written to; the sentence says why."""


class Taken(NamedTuple):
    """The oldest entries of the spool, and where they end in their segment."""

    entries: list[Addressed]
    segment: Path
    end: int


class Spool:
    """Shared by the processes of one machine; used by any thread.

    max_bytes: of all segments together. Raises SpoolUnusable where nothing can be written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self._max_bytes = folder, max_bytes
        self._thread_lock = threading.Lock()
        self._sound: tuple[Path, int] = Path(), 0  # how much of a segment is known to be whole frames
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f"probe-{os.getpid()}"
            probe.write_bytes(b"can be written")
            sync(probe)
            probe.unlink()
        except OSError as error:
            raise SpoolUnusable(f"{folder}: {error.strerror}") from error

    def is_empty(self) -> bool:
        """Whether nothing is kept."""
        return not self._segments()

    def size(self) -> int:
        """Bytes of all segments."""
        return sum(_size(path) for path in self._segments())

    def put(self, entries: Sequence[Addressed], *, only_behind: bool = False) -> bool:
        """Keep the entries behind all others; returns when they are on the disk. Raises SpoolFull, having kept none.

        only_behind: keep nothing, and return False, where nothing is kept any more.
        """
        body: bytes = msgpack.packb([(topic, *entry) for topic, entry in entries])
        frame = _framed(body)
        with self._held():
            segments = self._segments()
            if only_behind and not segments:
                return False
            used = sum(_size(path) for path in segments)
            if used + len(frame) > self._max_bytes:
                raise SpoolFull(f"{used:,} of {self._max_bytes:,} bytes are taken in {self.folder}")
            try:
                self._append(segments, frame)
            except OSError as error:
                raise SpoolFull(f"{self.folder}: {error.strerror}") from error
        return True

    def take(self, max_entries: int) -> Taken | None:
        """The oldest entries, at least a frame; None where nothing is kept. They stay until `done` is called."""
        for segment in self._segments():
            at, entries = _done_until(segment), list[Addressed]()
            for end, body in _frames(segment, at):
                entries += _entries(body)
                at = end
                if len(entries) >= max_entries:
                    break
            if entries:
                return Taken(entries, segment, at)
            self._drop(segment, at)
        return None

    def done(self, taken: Taken) -> None:
        """What was taken is in the log. A crash before this returns has it taken again."""
        with _marker(taken.segment).open("r+b") as marker:  # in its place: a disk that is full has no room for another
            marker.write(b"%020d" % taken.end)

    def entries(self) -> Iterator[Addressed]:
        """All that is kept and not known to be in the log, oldest first."""
        for segment in self._segments():
            for _, body in _frames(segment, _done_until(segment)):
                yield from _entries(body)

    def take_out(self, is_unwanted: Callable[[Addressed], bool]) -> int:
        """Take entries out, those too that are in the log but not deleted here yet; returns how many.

        What another process has read of them already, to append it, it appends. Raises OSError where the disk is full.
        """
        taken_out = 0
        with self._held():
            for segment in self._segments():
                frames = [body for _, body in _frames(segment, 0)]
                bodies = [_without(body, is_unwanted) for body in frames]
                blanks = sum(blanks for _, blanks in bodies)
                if blanks:
                    _replace(segment, b"".join(_framed(body) for body, _ in bodies))
                taken_out += blanks
        return taken_out

    def damaged(self) -> list[Path]:
        """What was set aside because it could not be read."""
        return sorted(self.folder.glob("*.damaged"))

    @contextmanager
    def draining(self) -> Iterator[bool]:
        """Whether this process is the one to take; others get False until it is done."""
        with (self.folder / "drain.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _append(self, segments: Sequence[Path], frame: bytes) -> None:
        segment = segments[-1] if segments else None
        end = 0 if segment is None else self._sound_end(segment)
        if segment is None or end >= SEGMENT_BYTES or end < _size(segment):
            number = max(time.time_ns(), int(segment.stem) + 1 if segment else 0)
            segment, end = self.folder / f"{number:020}.spool", 0
        try:
            _write(segment, frame, end)
        except OSError:
            if end == 0:
                segment.unlink(missing_ok=True)
                _marker(segment).unlink(missing_ok=True)
            raise
        self._sound = segment, end + len(frame)

    def _sound_end(self, segment: Path) -> int:
        """Where its last whole frame ends; only what others appended since is looked at."""
        at = self._sound[1] if self._sound[0] == segment else 0
        for end, _ in _frames(segment, at):
            at = end
        return at

    def _drop(self, segment: Path, at: int) -> None:
        """Delete a segment of which everything is done; one with a rest that is no frame is set aside."""
        with self._held():
            rest = next(iter(_frames(segment, at)), None)
            if rest is not None:
                return  # somebody appended meanwhile
            if _size(segment) > at:
                logger.error("%s: what is behind byte %d is not whole: set aside", segment, at)
                segment.rename(segment.with_suffix(".damaged"))
            else:
                segment.unlink(missing_ok=True)
            _marker(segment).unlink(missing_ok=True)

    def _segments(self) -> list[Path]:
        """Oldest first."""
        return [self.folder / name for name in sorted(os.listdir(self.folder)) if name.endswith(".spool")]  # noqa: PTH208

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Nobody else changes segments meanwhile."""
        with self._thread_lock, (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _frames(segment: Path, at: int) -> Iterator[tuple[int, bytes]]:
    """Whole frames from a place on: where each ends, and its body."""
    try:
        file = segment.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(at)
        while len(head := file.read(HEAD.size)) == HEAD.size:
            length, crc = HEAD.unpack(head)
            body = file.read(length)
            if len(body) < length or zlib.crc32(body) != crc:
                return
            at += HEAD.size + length
            yield at, body


def _framed(body: bytes) -> bytes:
    return HEAD.pack(len(body), zlib.crc32(body)) + body


def _entries(body: bytes) -> list[Addressed]:
    """Of a frame, without blanks."""
    fields = msgpack.unpackb(body)
    return [Addressed(topic, Entry(*entry)) for topic, *entry in fields if not topic.startswith(BLANK)]


def _without(body: bytes, is_unwanted: Callable[[Addressed], bool]) -> tuple[bytes, int]:
    """The frame with blanks for entries, as long as it was, and how many."""
    blanks, fields = 0, []
    for topic, key, value, time_ms in msgpack.unpackb(body):
        entry = topic, key, value, time_ms
        if not topic.startswith(BLANK) and is_unwanted(Addressed(topic, Entry(key, value, time_ms))):
            entry = BLANK * len(topic.encode()), bytes(len(key)), bytes(len(value)), time_ms
            blanks += 1
        fields.append(entry)
    return (msgpack.packb(fields), blanks) if blanks else (body, 0)


def _replace(segment: Path, frames: bytes) -> None:
    """Put frames in the place of those that are as long; what is behind them, cut short by a crash, stays."""
    whole = frames + segment.read_bytes()[len(frames) :]
    temporary = segment.with_suffix(f".{os.getpid()}")
    try:
        temporary.write_bytes(whole)
        sync(temporary)
        temporary.replace(segment)
        sync(segment.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _write(segment: Path, frame: bytes, end: int) -> None:
    """Returns when the frame is on the disk, behind the others; where this raises OSError it is not there at all."""
    if end == 0:
        _marker(segment).write_bytes(b"%020d" % 0)
    with segment.open("ab", buffering=0) as file:
        try:
            rest = memoryview(frame)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), end)
            raise
    if end == 0:
        sync(segment.parent)


def _marker(segment: Path) -> Path:
    return segment.with_suffix(".done")


def _done_until(segment: Path) -> int:
    try:
        return int(_marker(segment).read_text())
    except FileNotFoundError:
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

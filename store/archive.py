"""The archive: every event of the log in exactly one Parquet file, by day.

    day=2026-11-21/{log identity}-p0003-00000000000000000100.parquet

A file holds consecutive records of one partition, appended to the log on one UTC day, and is named by its first
offset; its footer tells the next one. Files appear whole, by an exclusive link: of two writers that start at one
offset the second fails (`StaleWriter`). Where a partition's files end is therefore where archiving goes on,
whatever the consumer group had committed when a process died.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from store.connection import StoreUnavailable
from store.durable import sync

_COLUMNS: dict[str, pa.DataType] = {
    "partition": pa.int32(),
    "offset": pa.int64(),
    "appended_ms": pa.int64(),
    "user_id": pa.string(),
    "item_id": pa.string(),
    "kind": pa.string(),
    "time_ms": pa.int64(),
    "event_id": pa.string(),
    "value": pa.float64(),
    "context": pa.string(),
}
SCHEMA = pa.schema(_COLUMNS)
NEXT_OFFSET = b"ledstream.next_offset"
BATCH_ROWS = 1 << 18
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EROFS}


class StaleWriter(RuntimeError):
    """Another process archived this stretch of the partition; this one must stop and begin anew."""


class ArchiveRow(NamedTuple):
    """One event with where it was in the log. context is JSON or None."""

    partition: int
    offset: int
    appended_ms: int
    user_id: str
    item_id: str
    kind: str
    time_ms: int
    event_id: str | None
    value: float | None
    context: str | None


def day_of(appended_ms: int) -> str:
    """The UTC day a record is filed under."""
    return f"{datetime.fromtimestamp(appended_ms / 1000, UTC):%Y-%m-%d}"


class Archive:
    """Files of one log under one folder. Many processes may write, each partition one at a time."""

    def __init__(self, folder: Path, log_identity: int) -> None:
        self.log, self._folder, self._log = log_identity, folder, f"{log_identity:016x}"

    def next_offset(self, partition: int) -> int | None:
        """Where the partition's files end, None if it has none."""
        files = self._files(partition)
        return _next_offset(files[-1]) if files else None

    def _files(self, partition: int) -> list[Path]:
        return sorted(self._folder.glob(f"day=*/{self._log}-p{partition:04d}-*.parquet"), key=lambda path: path.name)

    def partitions(self) -> list[int]:
        """Partitions that have files."""
        return sorted({partition_of(path) for path in self._folder.glob(f"day=*/{self._log}-p*.parquet")})

    def first_offset(self, partition: int) -> int | None:
        """Where the partition's files begin, None if it has none."""
        files = self._files(partition)
        return int(files[0].stem[-20:]) if files else None

    def count(self) -> int:
        """Events in the files."""
        return sum(pq.read_metadata(path).num_rows for path in self._folder.glob(f"day=*/{self._log}-p*.parquet"))

    def read(self, partition: int, at_once: int) -> Iterator[list[ArchiveRow]]:
        """The partition's rows in the order of the log."""
        for path in self._files(partition):
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(at_once, columns=SCHEMA.names):
                    columns = [batch.column(name).to_pylist() for name in SCHEMA.names]
                    if batch.num_rows:  # all of a file's users may have been erased
                        yield [ArchiveRow(*row) for row in zip(*columns, strict=True)]

    def write(self, rows: Sequence[ArchiveRow], first_offset: int, next_offset: int) -> Path:
        """One file of rows (at least one), covering offsets first_offset <= … < next_offset of their partition.

        Raises StaleWriter if a file begins at that offset already, StoreUnavailable on a disk that is full or away.
        """
        day = self._folder / f"day={day_of(rows[0].appended_ms)}"
        name = f"{self._log}-p{rows[0].partition:04d}-{first_offset:020d}.parquet"
        table = _as_table(rows).replace_schema_metadata({NEXT_OFFSET: str(next_offset).encode()})
        temporary = day / f".{name}.{os.getpid()}"
        try:
            day.mkdir(parents=True, exist_ok=True)
            try:
                pq.write_table(table, temporary, compression="zstd")
                sync(temporary)
                os.link(temporary, day / name)
                sync(day)
            finally:
                temporary.unlink(missing_ok=True)
        except FileExistsError:
            raise StaleWriter(f"{day / name} is there already") from None
        except OSError as error:
            if error.errno in PASSING:
                raise StoreUnavailable(f"archive {self._folder}: {error}") from error
            raise
        return day / name


def archived_logs(folder: Path) -> list[int]:
    """Identities of the logs that have files, by the time of their oldest event: a log may have been made anew."""
    oldest: dict[int, Path] = {}
    for path in sorted(folder.glob("day=*/*.parquet")):
        if not path.name.startswith("."):
            oldest.setdefault(log_of(path), path)
    return sorted(oldest, key=lambda log: _oldest_ms(oldest[log]))


def active_users(folder: Path, since_ms: int) -> set[str]:
    """Users with an event appended to any log at that time or later."""
    first_day = f"day={day_of(since_ms)}"
    files = [path for path in folder.glob("day=*/*.parquet") if path.parent.name >= first_day]
    users: set[str] = set()
    for path in files:
        if not path.name.startswith("."):
            table = pq.read_table(path, columns=["user_id", "appended_ms"])
            recent = table.filter(pc.field("appended_ms") >= since_ms)["user_id"]
            users.update(map(str, recent.unique().to_pylist()))
    return users


def read_archive(folder: Path, *, since_day: str | None = None, beyond: Iterable[ArchiveRow] = ()) -> pa.Table:
    """All archived events of all logs, filed on since_day ("2026-11-21") or later, in no particular order.

    beyond: rows that the files do not hold yet. They are taken first: a row that is filed meanwhile is there twice, and
    none is missed.
    """
    newest = _as_table(list(beyond))
    files = [str(path) for path in files_since(folder, since_day)]
    if not files:
        return newest
    return pa.concat_tables([ds.dataset(files, schema=SCHEMA, format="parquet").to_table(), newest])


def archive_batches(
    folder: Path, columns: Sequence[str], *, since_day: str | None = None, beyond: Sequence[ArchiveRow] = ()
) -> Iterator[pa.Table]:
    """The events of `read_archive`, a part at a time: in memory are a file's row group and BATCH_ROWS events."""
    yield _as_table(beyond).select(columns)
    waiting: list[pa.RecordBatch] = []
    for path in files_since(folder, since_day):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns), use_threads=False):
                waiting.append(batch)
                if sum(map(len, waiting)) >= BATCH_ROWS:
                    yield pa.Table.from_batches(waiting)
                    waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def files_since(folder: Path, since_day: str | None = None) -> list[Path]:
    """Files of that day ("2026-11-21") and later, of all logs, oldest day first."""
    return sorted(
        path
        for path in folder.glob("day=*/*.parquet")
        if not path.name.startswith(".") and (since_day is None or path.parent.name >= f"day={since_day}")
    )


def context_text(context: object) -> str | None:
    """An event's context as the archive holds it."""
    return None if context is None else json.dumps(context, sort_keys=True, ensure_ascii=False)


def _as_table(rows: Sequence[ArchiveRow]) -> pa.Table:
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=SCHEMA)


def log_of(path: Path) -> int:
    """Identity of the log that the file's events are of."""
    return int(path.name[:16], 16)


def partition_of(path: Path) -> int:
    """The partition that the file's events are of."""
    return int(path.name[18:22])


def _oldest_ms(path: Path) -> int:
    """Of a file whose users were all erased, the beginning of its day."""
    oldest = pc.min(pq.read_table(path, columns=["appended_ms"])["appended_ms"]).as_py()
    day = datetime.fromisoformat(path.parent.name.removeprefix("day=")).replace(tzinfo=UTC)
    return int(1000 * day.timestamp() if oldest is None else oldest)


def _next_offset(path: Path) -> int:
    metadata = pq.read_schema(path).metadata or {}
    return int(metadata[NEXT_OFFSET])

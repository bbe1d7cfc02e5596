"""Events to Parquet, each in exactly one file however often this process dies (`store/archive.py`).

Rows gather in memory until a file is worth writing; only then may their offsets be committed. A restart reads on
where the files end, not where the group had committed. Erasures get their tombstones here, on the machine that holds
the archive, and what waits for its file is held against them once more; those that leave none are rows like others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from store.archive import Archive, ArchiveRow, context_text, day_of
from store.tombstones import Tombstones, Where
from stream.decoding import EventColumns, tombstones_of
from stream.events import Event

GROUP = "archive"


@dataclass
class _Open:
    """What is gathered for one partition: rows of one day, offsets first_offset <= … < next_offset."""

    first_offset: int
    next_offset: int
    since_s: float
    rows: list[ArchiveRow] = field(default_factory=list)


class ArchiveConsumer:
    """Handler of `stream.loop.Loop` for the events topic.

    A file is written when its first row waited flush_every_s, at flush_events rows, at a new day, and on `drain`.
    now: seconds, monotonic. tombstones: None where erasures are events like others, left to whoever reads the archive.
    """

    def __init__(
        self,
        archive: Archive,
        now: Callable[[], float],
        *,
        flush_every_s: float = 60.0,
        flush_events: int = 200_000,
        tombstones: Tombstones | None = None,
    ) -> None:
        self._archive, self._now, self._tombstones = archive, now, tombstones
        self._flush_every_s, self._flush_events = flush_every_s, flush_events
        self._open: dict[int, _Open] = {}
        self._stored: dict[int, int] = {}
        self.archived = 0
        self.files = 0

    def assigned(self, partition: int) -> int | None:
        return self._archive.next_offset(partition)

    def revoked(self, partition: int) -> None:
        self._open.pop(partition, None)
        self._stored.pop(partition, None)

    def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
        for batch in batches:
            if self._tombstones is not None and (
                found := tombstones_of(batch, self._archive.log, self._tombstones.key)
            ):
                self._tombstones.add(found)
            self._gather(batch)
        for partition, gathered in list(self._open.items()):
            is_due = self._now() - gathered.since_s >= self._flush_every_s
            if is_due or len(gathered.rows) >= self._flush_events:
                self._flush(partition)
        return self._stored

    def drain(self) -> Mapping[int, int]:
        for partition in list(self._open):
            self._flush(partition)
        return self._stored

    def tallies(self) -> Mapping[str, int]:
        """What was written so far, by name."""
        return {"archived": self.archived, "files": self.files}

    def _gather(self, batch: EventColumns) -> None:
        partition = batch.partition
        for offset, appended_ms, event in batch.rows():
            gathered = self._open.get(partition)
            if gathered is not None and offset < gathered.next_offset:
                continue  # handed over again after a StoreUnavailable or a rebalance
            if offset < self._stored.get(partition, 0):
                continue
            if gathered is not None and day_of(appended_ms) > day_of(gathered.rows[0].appended_ms):
                self._flush(partition)
                gathered = None
            if gathered is None:
                gathered = self._open[partition] = _Open(offset, offset, self._now())
            gathered.rows.append(archive_row(partition, offset, appended_ms, event))
            gathered.next_offset = offset + 1
        if partition in self._open:
            self._open[partition].next_offset = max(self._open[partition].next_offset, batch.next_offset)
        else:
            self._stored[partition] = max(self._stored.get(partition, 0), batch.next_offset)  # nothing readable in it

    def _flush(self, partition: int) -> None:
        gathered = self._open[partition]
        rows = self._lasting(gathered.rows, partition)
        if rows:  # otherwise the next file begins behind them
            self._archive.write(rows, gathered.first_offset, gathered.next_offset)
            self.files += 1
        del self._open[partition]
        self._stored[partition] = gathered.next_offset
        self.archived += len(rows)

    def _lasting(self, rows: list[ArchiveRow], partition: int) -> list[ArchiveRow]:
        """Without those whose users were erased meanwhile, and erasures whose tombstones are on the disk."""
        if self._tombstones is None:
            return rows
        times_ms, appended_ms, offsets = (
            np.array([getattr(row, name) for row in rows], np.int64) for name in ("time_ms", "appended_ms", "offset")
        )
        where = Where(self._archive.log, partition, offsets)
        gone = self._tombstones.takes([row.user_id for row in rows], times_ms, appended_ms, where).tolist()
        return [row for row, is_gone in zip(rows, gone, strict=True) if not is_gone]


def archive_row(partition: int, offset: int, appended_ms: int, event: Event) -> ArchiveRow:
    """An event of the log as the archive holds it."""
    context = context_text(event.context)
    return ArchiveRow(
        partition, offset, appended_ms, event.user_id, event.item_id, event.kind, event.time_ms,
        event.event_id, event.value, context,
    )  # fmt: skip


def columns_of(rows: Sequence[ArchiveRow], partition: int, next_offset: int) -> EventColumns:
    """Archived events of one partition, in the order of the log, as a reader of the log would hand them out."""
    events = [Event(*row[3:9], context=None if row.context is None else json.loads(row.context)) for row in rows]
    places = [(row.offset, row.appended_ms) for row in rows]
    return EventColumns.of(partition, places, events, next_offset)

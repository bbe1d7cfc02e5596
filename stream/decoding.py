"""A batch of the log as columns of events. The usual batch, all of it well formed, costs no Python per event."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import msgpack
import numpy as np

from led.encoder import I64, Bool
from store.erasure_key import ErasureKey
from store.merged import leaves_tombstone
from store.tombstones import Place, Tombstone, Tombstones, Where
from stream.events import (
    ERASE,
    MAX_ID_BYTES,
    MAX_KIND_BYTES,
    MAX_TIME_MS,
    MAX_WIRE_BYTES,
    WIRE_VERSION,
    DecodeError,
    Event,
    decode_event,
    is_context,
)
from stream.log import Batch
from stream.probes import PROBE, without_probes

FIELDS = 1 + len(Event._fields)


@dataclass(frozen=True)
class EventColumns:
    """The readable events of consecutive records of one partition, in their order; columns of equal length.

    offsets, times_ms: int64. appended_ms: the log's own times. next_offset: where the partition goes on after them.
    """

    partition: int
    offsets: I64
    appended_ms: Sequence[int]
    users: Sequence[str]
    items: Sequence[str]
    kinds: Sequence[str]
    times_ms: I64
    event_ids: Sequence[str | None]
    values: Sequence[float | None]
    contexts: Sequence[Mapping[str, str] | None]
    next_offset: int

    def __len__(self) -> int:
        return len(self.users)

    def events(self) -> list[Event]:
        """The events one by one, for whoever handles them so."""
        times = self.times_ms.tolist()
        return list(map(Event, self.users, self.items, self.kinds, times, self.event_ids, self.values, self.contexts))

    def rows(self) -> list[tuple[int, int, Event]]:
        """(offset, time appended in ms, event)."""
        return list(zip(self.offsets.tolist(), self.appended_ms, self.events(), strict=True))

    def only(self, kept: Bool) -> EventColumns:
        """The events kept, (n,); the partition goes on where it did."""
        places = np.flatnonzero(kept).tolist()
        rows = self.rows()
        events = [rows[place] for place in places]
        return EventColumns.of(
            self.partition, [event[:2] for event in events], [event[2] for event in events], self.next_offset
        )

    @classmethod
    def of(
        cls, partition: int, places: Sequence[tuple[int, int]], events: Sequence[Event], next_offset: int
    ) -> EventColumns:
        """The columns of these events. places: each one's offset, and the time it was appended in ms."""
        columns: Any = list(zip(*events, strict=True)) or [()] * len(Event._fields)
        users, items, kinds, times_ms, event_ids, values, contexts = columns
        return cls(
            partition, np.array([offset for offset, _ in places], np.int64), [at for _, at in places],
            users, items, kinds, np.array(times_ms, np.int64), event_ids, values, contexts, next_offset,
        )  # fmt: skip


@dataclass(frozen=True)
class Decoder:
    """Batches to columns. An event dated more than max_ahead_s ahead of now_ms is refused; without now_ms, none is.

    The border refuses such events too (`Border.accept`), but not everybody who writes to the log came through it.

    tombstones: of users whose events from before their erasure are left out, erasures themselves not; log: the identity
    of the log that batches are of.
    """

    now_ms: Callable[[], int] | None = None
    max_ahead_s: float = 300.0
    tombstones: Tombstones | None = None
    log: int = 0

    def decode(self, batch: Batch) -> tuple[EventColumns, dict[int, str]]:
        """The readable events, and by place in the batch why each of the others is none; probes are neither."""
        if PROBE in batch.values:
            return self._beside_probes(batch)
        ahead_ms = MAX_TIME_MS if self.now_ms is None else self.now_ms() + int(1000 * self.max_ahead_s)
        latest_ms = min(ahead_ms, MAX_TIME_MS - 1)
        columns, refused = _all_at_once(batch, latest_ms), dict[int, str]()
        if columns is None:
            columns, refused = _one_by_one(batch, latest_ms)
        if self.tombstones is None:
            return columns, refused
        self.tombstones.refresh()
        return without_erased(columns, self.tombstones, self.log), self._letters(batch, refused, self.tombstones)

    def _beside_probes(self, batch: Batch) -> tuple[EventColumns, dict[int, str]]:
        others, places = without_probes(batch)
        if others is None:
            return EventColumns.of(batch.partition, (), (), batch.next_offset), {}
        columns, refused = self.decode(others)
        return replace(columns, next_offset=batch.next_offset), {places[at]: why for at, why in refused.items()}

    def _letters(self, batch: Batch, refused: dict[int, str], tombstones: Tombstones) -> dict[int, str]:
        """Without records that are keyed by an erased user: nobody keeps them."""
        until_ms = {place: tombstones.until_ms(batch.keys[place].decode(errors="replace")) for place in refused}
        return {place: why for place, why in refused.items() if batch.times_ms[place] > (until_ms[place] or -1)}


def without_erased(columns: EventColumns, tombstones: Tombstones, log: int) -> EventColumns:
    """The events that no erasure takes, and the erasures. log: the identity of the log that they are of."""
    where = Where(log, columns.partition, columns.offsets)
    gone = tombstones.takes(columns.users, columns.times_ms, np.array(columns.appended_ms, np.int64), where)
    if not gone.any():
        return columns
    return columns.only(~gone | np.array([kind == ERASE for kind in columns.kinds]))


def tombstones_of(columns: EventColumns, log: int, key: ErasureKey) -> list[Tombstone]:
    """What the erasures among the events leave. log: the identity of the log that they are of."""
    if ERASE not in columns.kinds:
        return []
    return [
        Tombstone(key.name(event.user_id), event.time_ms, Place(log, columns.partition, offset))
        for offset, _, event in columns.rows()
        if event.kind == ERASE and leaves_tombstone(event.context)
    ]


def _all_at_once(batch: Batch, latest_ms: int) -> EventColumns | None:
    """The columns if every record is a plain event of this version; None if any is not, or only may not be."""
    if max(map(len, batch.values)) > MAX_WIRE_BYTES:
        return None
    try:
        rows: Any = list(map(msgpack.unpackb, batch.values))
    except (ValueError, msgpack.UnpackException):
        return None
    if set(map(type, rows)) != {list} or set(map(len, rows)) != {FIELDS}:
        return None
    versions, users, items, kinds, times_ms, event_ids, values, contexts = zip(*rows, strict=True)
    plain = (
        set(map(type, versions)) == {int} and set(versions) == {WIRE_VERSION}
        and _are_texts(users, MAX_ID_BYTES)
        and _are_texts(items, MAX_ID_BYTES)
        and _are_texts(kinds, MAX_KIND_BYTES)
        and set(map(type, times_ms)) == {int} and min(times_ms) >= 0 and max(times_ms) <= latest_ms
        and _are_texts(_given(event_ids), MAX_ID_BYTES)
        and all(type(one) is float and isfinite(one) for one in _given(values))
        and all(map(is_context, _given(contexts)))
    )  # fmt: skip
    if not plain:
        return None
    return EventColumns(
        batch.partition, np.array(batch.offsets, np.int64), batch.times_ms,
        users, items, kinds, np.array(times_ms, np.int64), event_ids, values, contexts, batch.next_offset,
    )  # fmt: skip


def _given(column: Sequence[object]) -> Sequence[Any]:
    """What is not None."""
    missing = column.count(None)
    if not missing:
        return column
    return [one for one in column if one is not None] if missing < len(column) else ()


def _are_texts(column: Sequence[object], longest: int) -> bool:
    """Whether all are texts of a good length; an empty column is."""
    if not column:
        return True
    if set(map(type, column)) != {str}:
        return False
    lengths = set(map(len, column))  # type: ignore[arg-type]
    return min(lengths) > 0 and max(lengths) <= longest


def _one_by_one(batch: Batch, latest_ms: int) -> tuple[EventColumns, dict[int, str]]:
    events, refused = [], {}
    for place, value in enumerate(batch.values):
        try:
            event = _not_ahead(decode_event(value), latest_ms)
        except DecodeError as error:
            refused[place] = str(error)
        else:
            events.append(event)
    places = list(zip(batch.offsets, batch.times_ms, strict=True))
    readable = [at for place, at in enumerate(places) if place not in refused]
    return EventColumns.of(batch.partition, readable, events, batch.next_offset), refused


def _not_ahead(event: Event, latest_ms: int) -> Event:
    if event.time_ms > latest_ms:
        raise DecodeError(
            f"time_ms = {event.time_ms}: {(event.time_ms - latest_ms) / 1000:.0f} s too far in the future"
        )
    return event

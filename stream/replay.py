"""Recorded events from a Parquet file, as a stream that may happen now.

Columns are recognised by name, the first that is there:

    user   user_id, user, session (where sessions have no user)
    item   item_id, item
    time   time_ms, ts_ms (milliseconds), ts_est, ts (seconds), seq (a position only: events are made a second apart)
    kind   kind (a name), event (0 view, 1 cart: a click here, 2 sale); where neither is there, the kind of the call

A file with `invoice` and `quantity` holds sales; lines that took something back are left out. So are rows without a
user, an item or a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream.events import Event

USER = ("user_id", "user", "session")
ITEM = ("item_id", "item")
MS_PER_UNIT = {"time_ms": 1, "ts_ms": 1, "ts_est": 1000, "ts": 1000, "seq": 1000}
KIND = ("kind", "event")
KIND_CODES = {0: "view", 1: "click", 2: "sale"}
ROWS_AT_ONCE = 8192


class ReplayError(ValueError):
    """The file cannot be replayed: which column is missing, or what it holds instead."""


def read_parquet(path: Path, *, kind: str = "view") -> Iterator[Event]:
    """The file's events in time order, file order where times are equal; a few thousand rows in memory at once.

    A file that is not sorted by time is sorted first, as columns of numbers. Raises ReplayError at the call.
    """
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ReplayError(f"{path} is not a Parquet file: {error}") from None
    except OSError as error:
        raise ReplayError(f"{path} cannot be read: {error}") from None
    layout = _layout(path, file.schema_arrow.names, kind)
    time = file.schema_arrow.field(layout.time).type
    if not (pa.types.is_integer(time) or pa.types.is_floating(time)):
        raise ReplayError(f"{path}: column {layout.time} is {time}, a number is needed")
    return _events(file, layout)


def spaced(events: Iterable[Event], *, start_ms: int, per_s: float) -> Iterator[Event]:
    """The same events in the same order, from start_ms on at an even rate: gaps and rushes are gone."""
    for number, event in enumerate(events):
        yield event._replace(time_ms=start_ms + int(number * 1000 / per_s))


def as_now(events: Iterable[Event], now_ms: Callable[[], int]) -> Iterator[Event]:
    """The same events in the same order, each happening when it is asked for."""
    for event in events:
        yield event._replace(time_ms=now_ms())


@dataclass(frozen=True)
class _Layout:
    user: str
    item: str
    time: str
    kind: str | None
    default_kind: str
    has_returns: bool

    @property
    def columns(self) -> list[str]:
        extra = ["quantity"] if self.has_returns else []
        return [self.user, self.item, self.time, *([self.kind] if self.kind else []), *extra]


def _layout(path: Path, names: list[str], kind: str) -> _Layout:
    def first(meaning: str, wanted: Iterable[str]) -> str:
        for name in wanted:
            if name in names:
                return name
        raise ReplayError(f"{path} has no {meaning} column ({', '.join(wanted)}); it has {', '.join(names)}")

    sales = {"invoice", "quantity"} <= set(names)
    return _Layout(
        user=first("user", USER),
        item=first("item", ITEM),
        time=first("time", MS_PER_UNIT),
        kind=next((name for name in KIND if name in names), None),
        default_kind="sale" if sales else kind,
        has_returns=sales,
    )


def _events(file: pq.ParquetFile, layout: _Layout) -> Iterator[Event]:
    unit_ms = MS_PER_UNIT[layout.time]
    for batch in _batches(file, layout):
        users, items = batch.column(layout.user).to_pylist(), batch.column(layout.item).to_pylist()
        times_ms = (batch.column(layout.time).to_numpy().astype(np.float64) * unit_ms).astype(np.int64).tolist()
        kinds = [layout.default_kind] * batch.num_rows
        if layout.kind:
            kinds = _kinds(batch.column(layout.kind).to_pylist())
        for user, item, kind, time_ms in zip(users, items, kinds, times_ms, strict=True):
            yield Event(str(user), str(item), kind, time_ms)


def _batches(file: pq.ParquetFile, layout: _Layout) -> Iterator[pa.RecordBatch]:
    """Complete rows of the needed columns, in time order."""
    times = file.read(columns=[layout.time]).column(0).drop_null().to_numpy()
    batches: Iterator[pa.RecordBatch]
    if np.all(times[1:] >= times[:-1]):
        batches = file.iter_batches(batch_size=ROWS_AT_ONCE, columns=layout.columns)
    else:
        table = file.read(columns=layout.columns)
        order = pc.array_sort_indices(table.column(layout.time).combine_chunks())
        batches = iter(table.take(order).to_batches(max_chunksize=ROWS_AT_ONCE))
    for batch in batches:
        complete = batch.drop_null()
        if layout.has_returns:
            complete = complete.filter(pc.greater(complete.column("quantity"), pa.scalar(0)))
        yield complete


def _kinds(values: list[object]) -> list[str]:
    """Names of kinds: as they are, or by code."""
    kinds = []
    for value in values:
        name = value if isinstance(value, str) else KIND_CODES.get(value) if isinstance(value, int) else None
        if name is None:
            raise ReplayError(f"kind = {value!r}: neither a name nor one of the codes {KIND_CODES}")
        kinds.append(name)
    return kinds

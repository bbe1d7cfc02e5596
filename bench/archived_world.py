"""A seeded archive of any size, written in parts: users of a few tastes each, items of uneven popularity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from led.encoder import I64
from store.archive import SCHEMA

LOG, KIND = 7, "view"
ROWS_PER_FILE = 1 << 20
TASTES = 500
OWN_TASTE = 0.7  # share of a user's events on items of the user's own tastes
START_MS = 1_790_000_000_000


def write_archive(folder: Path, events: int, users: int, items: int, *, days: float = 20, seed: int = 0) -> int:
    """Files of an archive, as its consumer would have written them; returns their size in bytes.

    Each user has three tastes and is as active as Zipf would have it. The same arguments write the same files.
    """
    size = 0
    for first in range(0, events, ROWS_PER_FILE):
        rows = np.arange(first, min(first + ROWS_PER_FILE, events))
        times_ms = START_MS + (rows * (86_400_000 * days / events)).astype(np.int64)
        day = folder / f"day={np.datetime64(int(times_ms[0]), 'ms').astype('datetime64[D]')}"
        day.mkdir(parents=True, exist_ok=True)
        path = day / f"{LOG:016x}-p0000-{first:020d}.parquet"
        table = _table(rows, times_ms, users, items, np.random.default_rng((seed, first)))
        next_offset = str(int(rows[-1]) + 1).encode()
        pq.write_table(table.replace_schema_metadata({b"ledstream.next_offset": next_offset}), path, compression="zstd")
        size += path.stat().st_size
    return size


def _table(rows: I64, times_ms: I64, users: int, items: int, rng: np.random.Generator) -> pa.Table:
    count = len(rows)
    user = (users * rng.random(count) ** 2).astype(np.int64)
    taste = (user * 2_654_435_761 + 40_503 * rng.integers(3, size=count)) % TASTES
    place = rng.random(count) ** 2
    own = taste + TASTES * (place * (items // TASTES)).astype(np.int64)
    item = np.where(rng.random(count) < OWN_TASTE, own, (items * place).astype(np.int64)) % items
    columns: dict[str, Any] = {
        "partition": pa.array(np.zeros(count, np.int32)),
        "offset": pa.array(rows),
        "appended_ms": pa.array(times_ms),
        "user_id": _named("user-", user),
        "item_id": _named("item-", item),
        "kind": pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [KIND]).cast(pa.string()),
        "time_ms": pa.array(times_ms),
    }
    nothing = {name: pa.nulls(count, SCHEMA.field(name).type) for name in SCHEMA.names if name not in columns}
    return pa.table(columns | nothing).select(SCHEMA.names)


def _named(prefix: str, numbers: I64) -> Any:
    join: Any = pc.binary_join_element_wise
    return join(prefix, pc.cast(pa.array(numbers), pa.string()), "")

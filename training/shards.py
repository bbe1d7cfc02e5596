"""Interactions of more events than memory holds: users in shards on disk, each small enough to be worked on alone.

Events are read once, a batch at a time, and appended to the shard of their user as fixed-size records; each shard is
then made cells by itself, as all its users' events are there. What stays in memory is the list of items and one shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import scipy.sparse as sp

from led.encoder import F32, F64, I64, Bool
from stream.events import ERASE
from training.id_hashes import U64, id_hashes
from training.interactions import Interactions, Selection, cells_of, codes, decay, up_to_erasure
from training.survey import Survey
from training.svd import Sparse

EVENT = np.dtype(
    [("user", "u8"), ("time_ms", "i8"), ("appended_ms", "i8"), ("item", "i4"), ("weight", "f4")]
)  # a weight below 0 marks an erasure
ERASURE = np.float32(-1.0)
SHARD_BITS = np.uint64(40)  # others than those by which users are chosen to be held out
Events = npt.NDArray[np.void]


@dataclass(frozen=True)
class Shard:
    """Some users' cells: matrix (users, items) and times_ms (nnz,), on disk until they are looked at."""

    matrix: Sparse
    times_ms: I64


@dataclass(frozen=True)
class Shards:
    """All cells, by users. item_ids: by column. newest_ms, oldest_ms: of all cells; users, cells: how many."""

    folder: Path
    numbers: range
    item_ids: list[str]
    users: int
    cells: int
    oldest_ms: int
    newest_ms: int

    def __iter__(self) -> Iterator[Shard]:
        for number in self.numbers:
            ends, columns, weights, times_ms = (
                np.load(self.folder / f"{name}-{number}.npy", mmap_mode="r") for name in _CELLS
            )
            matrix = sp.csr_array((weights, columns, ends), shape=(len(ends) - 1, len(self.item_ids)))
            yield Shard(matrix, times_ms)

    def popularity(self, half_life_s: float | None) -> F32:
        """As `Interactions.popularity`."""
        total = np.zeros(len(self.item_ids))
        for shard in self:
            weights = shard.matrix.data * decay(self.newest_ms - shard.times_ms, half_life_s)
            total += np.bincount(shard.matrix.indices, weights, minlength=len(total))
        return total.astype(np.float32)

    def sums(self) -> F64:
        """Weight of all cells of each item, (items,)."""
        total = np.zeros(len(self.item_ids))
        for shard in self:
            total += np.bincount(shard.matrix.indices, shard.matrix.data, minlength=len(total))
        return total

    def sample(self, users: int, rng: np.random.Generator) -> Interactions:
        """Interactions of so many users, drawn at random, or of all."""
        chosen = np.sort(rng.choice(self.users, min(users, self.users), replace=False))
        matrices, times_ms, first = [], [], 0
        for shard in self:
            size = shard.matrix.shape[0]
            kept = np.zeros(size, np.bool_)
            kept[chosen[(chosen >= first) & (chosen < first + size)] - first] = True
            matrices.append(shard.matrix[np.flatnonzero(kept)])
            times_ms.append(shard.times_ms[np.repeat(kept, np.diff(shard.matrix.indptr))])
            first += size
        matrix = sp.csr_array(sp.vstack(matrices, format="csr"))
        ids = [str(number) for number in chosen]
        return Interactions(ids, self.item_ids, matrix, np.concatenate(times_ms))


_CELLS = ("ends", "columns", "weights", "times")


def build(batches: Iterable[pa.Table], selection: Selection, found: Survey, folder: Path, *, shards: int) -> Shards:
    """Shards of all events of the batches (columns of `training.interactions.collect`, and `appended_ms`) that count
    and are not held out, under a folder that exists. As the cells of `collect`, but for users with equal `id_hashes`.

    Raises ValueError for a selection that leaves out items of few users, which no shard knows by itself.
    """
    if selection.min_item_users > 1:
        raise ValueError(f"min_item_users = {selection.min_item_users}: events from disk know only 1")
    item_ids = _spill(batches, selection, found, folder, shards)
    newest_ms = max((_newest_ms(_counting(_read(folder, number))) for number in range(shards)), default=0)
    users = cells = 0
    oldest_ms = newest_ms
    used = np.zeros(len(item_ids), np.bool_)
    for number in range(shards):
        events = _counting(_read(folder, number))
        if selection.window_s is not None:
            events = events[events["time_ms"] > newest_ms - 1000 * selection.window_s]
        people, codes_of = np.unique(events["user"], return_inverse=True)
        weights = events["weight"] * decay(newest_ms - events["time_ms"], selection.half_life_s)
        shape = (len(people), len(item_ids))
        matrix, times_ms = cells_of(codes_of, events["item"].astype(np.int64), weights, events["time_ms"], shape)
        _write(folder, number, matrix, times_ms)
        used[matrix.indices] = True
        users, cells = users + len(people), cells + matrix.nnz
        oldest_ms = min(oldest_ms, int(times_ms.min(initial=newest_ms)))
        (folder / f"events-{number}").unlink()
    return _without_unused(Shards(folder, range(shards), item_ids, users, cells, oldest_ms, newest_ms), used)


def _spill(batches: Iterable[pa.Table], selection: Selection, found: Survey, folder: Path, shards: int) -> list[str]:
    """Append every event, and every erasure, to the file of its user's shard; returns the ids of items by code."""
    item_codes: dict[str, int] = {}
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"events-{number}").open("wb")) for number in range(shards)]
        for batch in batches:
            events = _records(batch, selection, found, item_codes)
            shard = (events["user"] >> SHARD_BITS) % np.uint64(shards)
            order = np.argsort(shard, kind="stable")
            ends = np.searchsorted(shard[order], np.arange(shards + 1))
            events = events[order]
            for number, file in enumerate(files):
                file.write(events[ends[number] : ends[number + 1]].tobytes())
    return list(item_codes)


def _records(batch: pa.Table, selection: Selection, found: Survey, item_codes: dict[str, int]) -> Events:
    """The events of a batch that matter, as records; items not met before get the next codes."""
    kinds, kind_names = codes(batch["kind"])
    weight_of = [ERASURE if name == ERASE else selection.kind_weights.get(name, 0.0) for name in kind_names]
    weights = np.array([*weight_of, 0.0], np.float32)[kinds]
    users: U64 = id_hashes(batch["user_id"])
    items, names = codes(batch["item_id"])
    code_of = np.array([item_codes.setdefault(name, len(item_codes)) for name in names] or [0], np.int32)
    held_out = found.held_out(batch, [kind for kind, weight in selection.kind_weights.items() if weight > 0])
    kept = np.flatnonzero((users != 0) & ((weights < 0) | ((weights > 0) & (items >= 0) & ~held_out)))
    events = np.empty(len(kept), EVENT)
    events["user"], events["weight"] = users[kept], weights[kept]
    events["item"] = code_of[np.maximum(items[kept], 0)]
    for name in ("time_ms", "appended_ms"):
        events[name] = batch[name].to_numpy()[kept]
    return events


def _read(folder: Path, number: int) -> Events:
    return np.fromfile(folder / f"events-{number}", EVENT)


def _counting(events: Events) -> Events:
    """Without erasures and what they took."""
    erased = events["weight"] < 0
    if not erased.any():
        return events
    people, users = np.unique(events["user"], return_inverse=True)
    gone: Bool = erased.copy()
    for order in ("time_ms", "appended_ms"):
        gone |= up_to_erasure(users, events[order], erased, len(people))
    return events[~gone]


def _newest_ms(events: Events) -> int:
    return int(events["time_ms"].max(initial=0))


def _write(folder: Path, number: int, matrix: Sparse, times_ms: I64) -> None:
    ends, columns = matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32)
    arrays: tuple[npt.NDArray[Any], ...] = (ends, columns, matrix.data, times_ms)
    for name, array in zip(_CELLS, arrays, strict=True):
        np.save(folder / f"{name}-{number}.npy", array)


def _without_unused(shards: Shards, used: Bool) -> Shards:
    """Items whose every event was erased or is too old leave the list, and the columns are numbered anew."""
    if used.all():
        return shards
    new_code = (np.cumsum(used) - 1).astype(np.int32)
    for number in shards.numbers:
        path = shards.folder / f"columns-{number}.npy"
        np.save(path, new_code[np.load(path)])
    item_ids = [name for name, is_used in zip(shards.item_ids, used, strict=True) if is_used]
    return Shards(**{**vars(shards), "item_ids": item_ids})

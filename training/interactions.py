"""What training sees: who did something with which item, how much it weighs, when it was last.

Built from the archive's events in one pass over columns; ids become rows, repeated events of a user on one item
become one cell.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from led.encoder import F32, F64, I64, Bool
from stream.events import ERASE
from training.svd import Sparse


@dataclass(frozen=True)
class Selection:
    """Which events count in training, and how much.

    kind_weights: weight by kind; other kinds are left out. min_item_users: items of fewer distinct users are left out.
    window_s: only events at most this much older than the newest. half_life_s: age at which an event counts half, seen
    from the newest of all.
    """

    kind_weights: Mapping[str, float]
    min_item_users: int = 1
    window_s: float | None = None
    half_life_s: float | None = None

    def __post_init__(self) -> None:
        for kind, weight in self.kind_weights.items():
            if not (np.isfinite(weight) and weight >= 0):
                raise ValueError(f"kind_weights[{kind}] = {weight}: must be finite and at least 0")
        if self.min_item_users < 1:
            raise ValueError(f"min_item_users = {self.min_item_users}: must be at least 1")
        for name in ("window_s", "half_life_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name} = {value}: must be above 0 and finite, or not given")


@dataclass(frozen=True)
class Interactions:
    """user_ids, item_ids: outside ids by row and by column of the matrix.

    matrix: (users, items), sorted and without duplicates; a cell is the weight of the user's strongest event on the
    item, so that ten views of one thing are not ten interests. times_ms: (nnz,) newest event of each cell, in the order
    of matrix.data; None where times are not known.
    """

    user_ids: list[str]
    item_ids: list[str]
    matrix: Sparse
    times_ms: I64 | None

    def popularity(self, half_life_s: float | None) -> F32:
        """Weight of all cells of each item, (items,): older ones count less, where times are known."""
        weights = self.matrix.data.astype(np.float64)
        if self.times_ms is not None:
            weights *= decay(self.times_ms.max(initial=0) - self.times_ms, half_life_s)
        return np.bincount(self.matrix.indices, weights, minlength=len(self.item_ids)).astype(np.float32)

    def only(self, kept: Bool) -> Interactions:
        """The cells kept, (nnz,), of the same users and items."""
        ends = np.concatenate([[0], np.cumsum(kept)])[self.matrix.indptr]
        matrix = sp.csr_array((self.matrix.data[kept], self.matrix.indices[kept], ends), shape=self.matrix.shape)
        return replace(self, matrix=matrix, times_ms=None if self.times_ms is None else self.times_ms[kept])


@dataclass(frozen=True)
class SelectedEvents:
    """Events that count, in the order of their table. users, items, kinds: (n,) places in the lists of names.

    Users and items without an event are in no list.
    """

    users: I64
    items: I64
    kinds: I64
    weights: F64
    times_ms: I64
    user_ids: list[str]
    item_ids: list[str]
    kind_names: list[str]

    def of_kinds(self, names: Collection[str]) -> SelectedEvents:
        """Only the events of these kinds, of the same users and items."""
        return self.only(np.array([name in names for name in self.kind_names] or [False])[self.kinds])

    def only(self, kept: Bool) -> SelectedEvents:
        """Only the events kept, (n,), of the same users and items."""
        columns = ("users", "items", "kinds", "weights", "times_ms")
        return replace(self, **{name: getattr(self, name)[kept] for name in columns})


def collect(events: pa.Table, selection: Selection) -> Interactions:
    """The interactions in a table with columns user_id, item_id, kind and time_ms (int64); others are ignored."""
    return interactions_of(select(events, selection), selection.half_life_s)


def select(events: pa.Table, selection: Selection) -> SelectedEvents:
    """The events that a selection leaves of a table with the columns of `collect`.

    An event of kind `erase` takes with it every event of its user up to its time, and, where the table has a column
    `appended_ms`, every event that reached the log before it: a browser's clock that runs ahead must not save what was
    to be forgotten.
    """
    users, user_ids = codes(events["user_id"])
    items, item_ids = codes(events["item_id"])
    kinds, kind_names = codes(events["kind"])
    times_ms = events["time_ms"].to_numpy().astype(np.int64)
    weight_of = np.array(
        [0.0 if name == ERASE else selection.kind_weights.get(name, 0.0) for name in kind_names] or [0.0]
    )
    weights = weight_of[kinds]
    keep = (weights > 0) & (users >= 0) & (items >= 0)
    if ERASE in kind_names:
        erased = (kinds == kind_names.index(ERASE)) & (users >= 0)
        orders = [times_ms] + ([events["appended_ms"].to_numpy()] if "appended_ms" in events.column_names else [])
        for order in orders:
            keep &= ~up_to_erasure(users, order.astype(np.int64), erased, len(user_ids))
    if selection.window_s is not None and keep.any():
        keep &= times_ms > times_ms[keep].max() - 1000 * selection.window_s
    keep[keep] = _with_enough_users(users[keep], items[keep], selection.min_item_users)
    users, user_ids = _compact(users[keep], user_ids)
    items, item_ids = _compact(items[keep], item_ids)
    return SelectedEvents(users, items, kinds[keep], weights[keep], times_ms[keep], user_ids, item_ids, kind_names)


def interactions_of(events: SelectedEvents, half_life_s: float | None = None) -> Interactions:
    """Their cells. half_life_s: of `Selection`."""
    weights = events.weights * decay(events.times_ms.max(initial=0) - events.times_ms, half_life_s)
    shape = (len(events.user_ids), len(events.item_ids))
    matrix, newest = cells_of(events.users, events.items, weights, events.times_ms, shape)
    return Interactions(events.user_ids, events.item_ids, matrix, newest)


def cells_of(users: I64, items: I64, weights: F64, times_ms: I64, shape: tuple[int, int]) -> tuple[Sparse, I64]:
    """Each user's (row) strongest event on each item (column) as a matrix, and the newest time of each cell, (nnz,)."""
    pairs = users * shape[1] + items
    order = np.argsort(pairs, kind="stable")
    starts = np.flatnonzero(np.diff(pairs[order], prepend=-1))
    if not len(starts):
        return sp.csr_array(np.zeros(shape, np.float32)), np.empty(0, np.int64)
    cells = pairs[order][starts]
    strongest = np.maximum.reduceat(weights[order], starts).astype(np.float32)
    newest = np.maximum.reduceat(times_ms[order], starts)
    ends = np.searchsorted(cells, np.arange(shape[0] + 1) * shape[1])
    return sp.csr_array((strongest, cells % shape[1], ends), shape=shape), newest


def without_times(users: I64, items: I64, shape: tuple[int, int] | None = None) -> Interactions:
    """Interactions of equal weight from distinct pairs (users, items) of small numbers, which become their own ids."""
    shape = shape or (int(users.max()) + 1, int(items.max()) + 1)
    matrix = sp.csr_array((np.ones(len(users), np.float32), (users, items)), shape=shape)
    matrix.sort_indices()
    user_ids, item_ids = ([str(number) for number in range(size)] for size in shape)
    return Interactions(user_ids, item_ids, matrix, None)


def codes(column: Any) -> tuple[I64, list[str]]:
    """Codes (n,) into the distinct values of a column of strings, -1 for null, and those values."""
    encoded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
    chunks = encoded.unify_dictionaries().chunks
    if not chunks:
        return np.empty(0, np.int64), []
    codes = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) for chunk in chunks]
    return np.concatenate(codes), chunks[0].dictionary.to_pylist()


def up_to_erasure(users: I64, order: I64, erased: Bool, user_count: int) -> Bool:
    """Which events lie at or before the last erasure of their user, in the given order. (n,)"""
    last = np.full(user_count + 1, np.iinfo(np.int64).min)  # the last place is for users without id
    np.maximum.at(last, users[erased], order[erased])
    return np.asarray(order <= last[users])


def _with_enough_users(users: I64, items: I64, least: int) -> Bool:
    """Which events are on items of at least `least` distinct users. (n,)"""
    if least <= 1 or not len(items):
        return np.ones(len(items), np.bool_)
    pairs = np.unique(items * (users.max() + 1) + users)
    counts = np.bincount(pairs // (users.max() + 1), minlength=int(items.max()) + 1)
    return np.asarray(counts[items] >= least)


def _compact(codes: I64, ids: list[str]) -> tuple[I64, list[str]]:
    """Codes into only the ids that are used, and those ids."""
    used, codes = np.unique(codes, return_inverse=True)
    return codes.astype(np.int64), [ids[code] for code in used]


def decay(ages_ms: I64, half_life_s: float | None) -> F64:
    """What remains of a weight at these ages, (n,): 1 without a half-life."""
    if half_life_s is None:
        return np.ones(len(ages_ms))
    return np.asarray(np.exp2(-ages_ms / (1000.0 * half_life_s)))

"""What users did, as fine-tuning sees it: every event with its kind and time, flat, one user after the other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from led.encoder import I64, Bool
from training.interactions import SelectedEvents
from training.svd import Sparse


@dataclass(frozen=True)
class Timelines:
    """Events of users, each user's oldest first.

    ends: (users + 1,) int64: those of user u are ends[u] to ends[u + 1]. rows: (n,) int64 item rows. kinds: (n,) int64
    places in a list of kinds. times_ms: (n,) int64. is_positive: (n,) which events are what the model is to predict.
    items: how many rows there are.

    A cell is a user and an item of theirs; the events of a cell are never parted into input and target.
    """

    ends: I64
    rows: I64
    kinds: I64
    times_ms: I64
    is_positive: Bool
    items: int

    @property
    def users(self) -> int:
        return len(self.ends) - 1

    @cached_property
    def owners(self) -> I64:
        """The user of each event, (n,)."""
        return np.repeat(np.arange(self.users), np.diff(self.ends))

    @cached_property
    def places(self) -> I64:
        """The place of each event in its user's timeline from 0, the oldest. (n,)"""
        return np.arange(len(self.rows)) - np.repeat(self.ends[:-1], np.diff(self.ends))

    @cached_property
    def cells(self) -> Cells:
        pairs, of_event = np.unique(self.owners * self.items + self.rows, return_inverse=True)
        return Cells(pairs // self.items, pairs % self.items, of_event.astype(np.int64), self.users)

    def only(self, kept: Bool) -> Timelines:
        """The events kept, (n,), of the same users."""
        ends = np.concatenate([[0], np.cumsum(kept)])[self.ends]
        return Timelines(
            ends, self.rows[kept], self.kinds[kept], self.times_ms[kept], self.is_positive[kept], self.items
        )

    def newest(self, most: int | None) -> Timelines:
        """At most so many of the newest events of each user; None for all."""
        if most is None:
            return self
        return self.only(self.places >= (np.diff(self.ends) - most)[self.owners])

    def of(self, users: I64) -> Timelines:
        """The timelines of these users, in their order, numbered anew."""
        counts = np.diff(self.ends)[users]
        at = ranges(self.ends[users], counts)
        ends = np.concatenate([[0], np.cumsum(counts)])
        return Timelines(ends, self.rows[at], self.kinds[at], self.times_ms[at], self.is_positive[at], self.items)


@dataclass(frozen=True)
class Cells:
    """Distinct (user, item) pairs in order of user: owners, rows (cells,); of_event: (n,) the cell of each event."""

    owners: I64
    rows: I64
    of_event: I64
    users: int

    @cached_property
    def counts(self) -> I64:
        """Cells of each user, (users,)."""
        return np.bincount(self.owners, minlength=self.users)

    def with_any(self, events: Bool) -> Bool:
        """Which cells have one of these events, (cells,)."""
        found = np.zeros(len(self.owners), np.bool_)
        found[self.of_event[events]] = True
        return found


def timelines_of_matrix(matrix: Sparse) -> Timelines:
    """One event of one kind, positive and without a time, for each cell of (users, items)."""
    n = matrix.nnz
    rows, ends = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    zeros = np.zeros(n, np.int64)
    return Timelines(ends, rows, zeros, zeros, np.ones(n, np.bool_), matrix.shape[1])


def timelines_of_events(events: SelectedEvents, kinds: Sequence[str], positives: Collection[str]) -> Timelines:
    """The selected events. kinds: the list that places stand for; events of others are left out.

    Of equal times the first in the table counts as older.
    """
    place = {name: number for number, name in enumerate(kinds)}
    codes = np.array([place.get(name, -1) for name in events.kind_names] or [-1], np.int64)[events.kinds]
    is_positive = np.array([name in positives for name in events.kind_names] or [False])[events.kinds]
    order = np.lexsort((events.times_ms, events.users))
    order = order[codes[order] >= 0]
    counts = np.bincount(events.users[order], minlength=len(events.user_ids))
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    columns = (events.items[order], codes[order], events.times_ms[order], is_positive[order])
    return Timelines(ends, *columns, len(events.item_ids))


def ranges(starts: I64, counts: I64) -> I64:
    """starts[0], starts[0] + 1, ... (counts[0] of them), then those from starts[1], and so on."""
    shifts = np.repeat(starts - np.cumsum(counts) + counts, counts)
    return np.asarray(shifts + np.arange(len(shifts)), dtype=np.int64)

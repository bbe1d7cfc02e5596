"""Sessions as one flat array, their prefixes, and batches of prefixes.

A session of n items has n - 1 prefixes: its first item predicts the second, its first two the third, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from led.encoder import I64


@dataclass(frozen=True)
class Sessions:
    """rows: (n,) int64 item rows, session after session, each in its order. starts: (sessions + 1,) int64 bounds."""

    rows: I64
    starts: I64

    @classmethod
    def of(cls, sessions: I64, rows: I64) -> Sessions:
        """From the session and the item row of each event, both (n,), in order of time; sessions may interleave.

        Sessions are ordered by the event they end with, so that the last ones are the newest.
        """
        if not len(rows):
            return cls(np.empty(0, np.int64), np.zeros(1, np.int64))
        _, members = np.unique(sessions, return_inverse=True)
        last = np.zeros(members.max() + 1, np.int64)
        last[members] = np.arange(len(rows))  # the last assignment stays
        ends = last[members]
        order = np.argsort(ends, kind="stable")
        starts = np.r_[0, np.flatnonzero(np.diff(ends[order])) + 1, len(rows)]
        return cls(rows[order].astype(np.int64), starts.astype(np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Sessions]) -> Sessions:
        """The sessions of all parts, one part after the other."""
        moved = np.cumsum([0, *(len(part.rows) for part in parts)])
        starts = [part.starts[:-1] + before for part, before in zip(parts, moved, strict=False)]
        rows = [part.rows for part in parts]
        return cls(np.concatenate([np.empty(0, np.int64), *rows]), np.concatenate([*starts, moved[-1:]]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def part(self, first: int, end: int) -> Sessions:
        """Sessions first..end-1."""
        starts = self.starts[first : end + 1]
        return Sessions(self.rows[starts[0] : starts[-1]], starts - starts[0])

    def prefixes(self, longest: int) -> Prefixes:
        """All of them, of at most the `longest` newest items each."""
        lengths = np.diff(self.starts)
        first = np.repeat(self.starts[:-1], np.maximum(lengths - 1, 0))
        is_target = np.ones(len(self.rows), np.bool_)
        is_target[self.starts[:-1][lengths > 0]] = False
        targets = np.flatnonzero(is_target)
        return Prefixes(self.rows, np.maximum(first, targets - longest), targets)


@dataclass(frozen=True)
class Prefixes:
    """Prefix p is rows[first[p]:target[p]] and what follows is rows[target[p]]. first, target: (prefixes,) int64."""

    rows: I64
    first: I64
    target: I64

    def __len__(self) -> int:
        return len(self.target)

    def take(self, chosen: I64) -> Prefixes:
        """The prefixes of these numbers, in that order."""
        return Prefixes(self.rows, self.first[chosen], self.target[chosen])

    def then(self, others: Prefixes) -> Prefixes:
        """These and then the others, which may be of other sessions."""
        moved = len(self.rows)
        return Prefixes(
            np.r_[self.rows, others.rows],
            np.r_[self.first, others.first + moved],
            np.r_[self.target, others.target + moved],
        )

    def batches(self, size: int, order: I64) -> Iterator[Batch]:
        """Batches of at most size prefixes, in the order given."""
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])

    def batch(self, chosen: I64) -> Batch:
        """These prefixes, spread out."""
        first, target = self.first[chosen], self.target[chosen]
        lengths = target - first
        owners = np.repeat(np.arange(len(chosen)), lengths)
        places = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[owners]
        return Batch(self.rows[places], owners, target[owners] - 1 - places, self.rows[target])


@dataclass(frozen=True)
class Batch:
    """Prefixes, flat. rows: (n,) items; owners: (n,) whose they are, 0..b-1; ranks: (n,) 0 for the newest of its
    prefix; targets: (b,) items that follow. All int64."""

    rows: I64
    owners: I64
    ranks: I64
    targets: I64

"""A batch of events by user, as the arrays that `consumers/fold.py` works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from led.encoder import I64, U8, Bool
from stream.decoding import EventColumns
from stream.events import ERASE, event_keys, item_keys, kind_code


def users_of(columns: EventColumns) -> list[str]:
    """The distinct users of a batch as they first come."""
    return list(dict.fromkeys(columns.users))


@dataclass(frozen=True)
class Arrivals:
    """Events of one partition, ordered by user and then by log.

    users: distinct ids. owner (n,): whose event each is, a place in users. offsets, times_ms (n,) int64.
    items (n,) uint64 item keys. kinds (n,) uint8 kind codes. events (n,) uint32 event keys. erases (n,): erasures.
    """

    users: Sequence[str]
    owner: I64
    offsets: I64
    times_ms: I64
    items: npt.NDArray[np.uint64]
    kinds: U8
    events: npt.NDArray[np.uint32]
    erases: Bool

    @classmethod
    def of(cls, columns: EventColumns) -> Arrivals:
        """The events of a batch; its users as they first come."""
        n, users = len(columns), users_of(columns)
        place = dict(zip(users, range(n), strict=False))
        owner = np.fromiter(map(place.__getitem__, columns.users), np.int64, n)
        names = set(columns.kinds)
        codes = {name: kind_code(name) for name in names}
        kinds = np.fromiter(map(codes.__getitem__, columns.kinds), np.uint8, n)
        erases = np.fromiter((kind == ERASE for kind in columns.kinds), np.bool_, n) if ERASE in names else None
        order = np.argsort(owner, kind="stable")
        return cls(
            users,
            owner[order],
            columns.offsets[order],
            columns.times_ms[order],
            item_keys(columns.items)[order],
            kinds[order],
            event_keys(columns.event_ids)[order],
            np.zeros(n, np.bool_) if erases is None else erases[order],
        )

    def part(self, users: slice) -> Arrivals:
        """The events of consecutive users."""
        first, last = np.searchsorted(self.owner, [users.start, users.stop]).tolist()
        here = slice(first, last)
        return Arrivals(
            self.users[users],
            self.owner[here] - users.start,
            self.offsets[here],
            self.times_ms[here],
            self.items[here],
            self.kinds[here],
            self.events[here],
            self.erases[here],
        )

    def only(self, users: I64) -> Arrivals:
        """The events of these users, places in `users`, alone."""
        number = np.full(len(self.users), -1, np.int64)
        number[users] = np.arange(len(users))
        theirs = np.flatnonzero(number[self.owner] >= 0)
        names = [self.users[user] for user in users.tolist()]
        return Arrivals(
            names,
            number[self.owner[theirs]],
            self.offsets[theirs],
            self.times_ms[theirs],
            self.items[theirs],
            self.kinds[theirs],
            self.events[theirs],
            self.erases[theirs],
        )

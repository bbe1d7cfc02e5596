"""A batch of events by user, as the arrays that `consumers/fold.py` works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from led.encoder import I64, U8, Bool
from stream.decoding import EventColumns
from stream.events import ERASE, event_keys, is_strike, item_keys, kind_code
from stream.strikes import STRIKE, Strike


def users_of(columns: EventColumns) -> list[str]:
    """The distinct users of a batch as they first come."""
    return list(dict.fromkeys(columns.users))


@dataclass(frozen=True)
class Arrivals:
    """Events of one partition, ordered by user and then by log.

    users: distinct ids. owner (n,): whose event each is, a place in users. offsets, times_ms (n,) int64.
    items (n,) uint64 item keys. kinds (n,) uint8 kind codes. events (n,) uint32 event keys. erases (n,): erasures.
    strikes: those among them, and maybe others', by offset.
    """

    users: Sequence[str]
    owner: I64
    offsets: I64
    times_ms: I64
    items: npt.NDArray[np.uint64]
    kinds: U8
    events: npt.NDArray[np.uint32]
    erases: Bool
    strikes: Mapping[int, Strike] = field(default_factory=dict)

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
            _strikes(columns) if STRIKE in names else {},
        )

    def __len__(self) -> int:
        return len(self.offsets)

    def part(self, users: slice) -> Arrivals:
        """The events of consecutive users."""
        first, last = np.searchsorted(self.owner, [users.start, users.stop]).tolist()
        here = slice(first, last)
        return self._those(here, self.users[users], self.owner[here] - users.start)

    def only(self, users: I64) -> Arrivals:
        """The events of these users, places in `users`, alone."""
        number = np.full(len(self.users), -1, np.int64)
        number[users] = np.arange(len(users))
        theirs = np.flatnonzero(number[self.owner] >= 0)
        return self._those(theirs, [self.users[user] for user in users.tolist()], number[self.owner[theirs]])

    def between(self, first: int, last: int) -> Arrivals:
        """The events at these places, of the same users."""
        return self._those(slice(first, last), self.users, self.owner[first:last])

    def _those(self, which: slice | I64, users: Sequence[str], owner: I64) -> Arrivals:
        return Arrivals(
            users,
            owner,
            self.offsets[which],
            self.times_ms[which],
            self.items[which],
            self.kinds[which],
            self.events[which],
            self.erases[which],
            self.strikes,
        )


def _strikes(columns: EventColumns) -> dict[int, Strike]:
    told = zip(columns.offsets.tolist(), columns.items, columns.kinds, columns.contexts, strict=True)
    return {offset: Strike.of(context) for offset, item, kind, context in told if is_strike(item, kind)}

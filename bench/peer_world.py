"""What every system of `bench.peers` is given: items as arrays, and who saw what. Needs NumPy only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LONGEST = 100  # events of a user that each system keeps
USERS_AT_ONCE = 4000

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


class World(NamedTuple):
    """Items by row, and the rows that users saw, oldest first: those of user n are rows[starts[n] : starts[n + 1]]."""

    item_ids: npt.NDArray[np.str_]  # (items,)
    inputs: F32  # (items, dim), a user is the mean of these
    outputs: F32  # (items, dim), an item's score is its product with the user, plus its bias
    biases: F32  # (items,)
    rows: I64  # (events,)
    starts: I64  # (users + 1,)

    @property
    def users(self) -> int:
        return len(self.starts) - 1

    def timeline(self, user: int) -> I64:
        """Rows the user saw, oldest first; at least one."""
        return self.rows[self.starts[user] : self.starts[user + 1]]

    def save(self, folder: Path) -> None:
        np.savez(folder / "world.npz", **self._asdict())

    @classmethod
    def load(cls, folder: Path) -> World:
        with np.load(folder / "world.npz") as arrays:
            return cls(**{name: arrays[name] for name in cls._fields})


def user_id(number: int) -> str:
    return f"user-{number}"

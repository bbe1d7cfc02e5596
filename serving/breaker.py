"""After a failure the store is left alone for a moment, so that no request waits for what just did not answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from store.connection import StoreUnavailable
from store.user_record import DamagedRecord, UserRecord
from store.user_state import UserStates

PAUSE_S = 1.0


class GuardedStates:
    """Reads of user records that give up fast. Used by one thread.

    monotonic: seconds that never go back.
    """

    def __init__(self, states: UserStates, monotonic: Callable[[], float], *, pause_s: float = PAUSE_S) -> None:
        self._states, self._monotonic, self._pause_s = states, monotonic, pause_s
        self._closed_until = float("-inf")

    def read(self, users: Sequence[str]) -> list[UserRecord | DamagedRecord | None]:
        """As `UserStates.read`. Raises StoreUnavailable, at once while a failure is younger than the pause."""
        if self._monotonic() < self._closed_until:
            raise StoreUnavailable("the store did not answer a moment ago")
        try:
            return self._states.read(users)
        except StoreUnavailable:
            self._closed_until = self._monotonic() + self._pause_s
            raise

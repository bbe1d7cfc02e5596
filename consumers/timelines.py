"""Events to user records: the timeline grows, the vector moves, the log position is stored beside them.

Redelivery is harmless: a record knows the last offset in it (`consumers/fold.py`, `store/user_state.py`).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from consumers.fold import Counts, change_timeline, new_records
from store.releases import Release
from store.user_state import Applied, DamagedRecord, UserRecord, UserStates
from stream.decoding import EventColumns
from stream.events import Event

logger = logging.getLogger(__name__)
GROUP = "timelines"


class TimelineConsumer:
    """Handler of `stream.loop.Loop` for the events topic.

    current: the release to encode under at this moment, None while there is none.
    log_identity: `Log.identity` of the events topic; offsets of another log are not comparable.
    """

    def __init__(
        self, states: UserStates, current: Callable[[], Release | None], log_identity: int, *, max_events: int = 50
    ) -> None:
        self._states, self._current, self._log, self._max_events = states, current, log_identity, max_events
        self.counts = Counts()
        self.damaged = 0
        self.refused = 0

    def assigned(self, partition: int) -> int | None:  # noqa: ARG002
        return None

    def revoked(self, partition: int) -> None:  # noqa: ARG002
        return None

    def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
        by_user: dict[str, list[tuple[Applied, Event]]] = defaultdict(list)
        for batch in batches:
            for offset, _, event in batch.rows():
                by_user[event.user_id].append((Applied(self._log, batch.partition, offset), event))
        if by_user:
            self._apply(by_user)
        return {batch.partition: batch.next_offset for batch in batches}

    def drain(self) -> Mapping[int, int]:
        return {}  # nothing is ever held back

    def _apply(self, by_user: Mapping[str, Sequence[tuple[Applied, Event]]]) -> None:
        counts, release = Counts(), self._current()
        users = list(by_user)
        records = dict(zip(users, self._read(users), strict=True))
        changes = {}
        for user in users:
            change = change_timeline(records[user], by_user[user], self._max_events, counts)
            if change is not None:
                changes[user] = change
        refused = self._states.write(new_records(changes, release))
        self.refused += len(refused)
        for name in ("applied", "duplicates", "replayed", "erased"):
            setattr(self.counts, name, getattr(self.counts, name) + getattr(counts, name))

    def _read(self, users: Sequence[str]) -> list[UserRecord | None]:
        """Stored records; a damaged one is set aside and the user begins anew with this batch."""
        records: list[UserRecord | None] = []
        for user, record in zip(users, self._states.read(users), strict=True):
            if isinstance(record, DamagedRecord):
                logger.error("user %s: damaged record set aside: %s", user, record)
                self._states.set_aside(user)
                self.damaged += 1
                records.append(None)
            else:
                records.append(record)
        return records

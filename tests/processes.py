"""Consumer processes as somebody else would run them, on a log and a store that tests share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.every_user import Comparison, compare, folded
from bench.fault_processes import Consumer
from bench.fault_traffic import Logged
from ledstream import parts
from ledstream.settings import read_settings
from store.connection import connect
from store.user_record import UserRecord, source_of
from store.user_state import UserStates
from stream.events import Event, encode_event
from stream.log import Entry, LogUnavailable
from stream.topics import EVENTS
from tests.eventually import until

SETTLES_WITHIN_S = 60.0  # a reader that died is waited for first, and a machine may be busy


class Processes:
    """`ledstream consume timelines`, as many as are asked for; gone on leaving."""

    def __init__(self, log_address: str, store_address: str, namespace: str, folder: Path) -> None:
        flags = {"log": log_address, "store": store_address, "namespace": namespace, "data_dir": folder}
        self.settings = read_settings({}, flags | {"partitions": 2, "timeline_events": 1000})
        self.topic = f"{namespace}.{EVENTS}"
        self._stack = ExitStack()

    def __enter__(self) -> Processes:
        self.log = parts.open_log(self.settings)
        self._stack.callback(self.log.close)
        self.store = self._stack.enter_context(connect(self.settings.store))
        self.states: UserStates = parts.user_states(self.settings, self.store)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def consumer(self, name: str, *, store: str = "") -> Consumer:
        """One that runs. store: another way to the same store."""
        one = Consumer(self.settings.model_copy(update={"store": store or self.settings.store}), name)
        self._stack.callback(one.kill)
        one.start()
        return one

    def send(self, events: Sequence[Event]) -> None:
        """Returns when each is acknowledged."""
        entries = [Entry(event.user_id.encode(), encode_event(event), event.time_ms) for event in events]
        refused = [stored for stored in self.log.append(EVENTS, entries) if isinstance(stored, LogUnavailable)]
        assert not refused, refused[0]

    def settle(self) -> None:
        """Returns once all that is in the log is in the records."""
        until(lambda: self.lag() == 0, SETTLES_WITHIN_S)

    def lag(self) -> int:
        """Records of the log that are not in the users' records."""
        return sum(self.log.end_offsets(EVENTS).values()) - sum(self.positions())

    def positions(self) -> list[int]:
        """How far each partition is in the records."""
        identity, partitions = self.log.identity(EVENTS), self.log.partitions(EVENTS)
        found = self.states.positions([source_of(identity, number) for number in range(partitions)])
        return [position or 0 for position in found]

    def compared(self) -> Comparison:
        """Every user's record, with a fold of the log."""
        expected = folded(Logged(self.log).events(), self.settings.timeline_events)
        return compare(expected, self.states, self.log.identity(EVENTS), {})

    def record(self, user: str) -> UserRecord:
        """The user's, which must be there."""
        (found,) = self.states.read([user])
        assert isinstance(found, UserRecord), found
        return found

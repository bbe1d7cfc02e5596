"""Any order of events, crashes, replays, expiries, erasures, strikes, swaps, restored stores, against a list per user.

LEDSTREAM_TEST_EXAMPLES: how many such histories are tried.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from consumers.timelines import TimelineConsumer
from store.connection import Client, StoreUnavailable, connect
from store.profiles import profiles
from store.releases import Release
from store.user_record import UserRecord, source_of
from store.user_state import UserStates
from stream.decoding import Decoder
from stream.events import ERASE, Event, erasure, event_key, item_key, kind_code, striking
from stream.log import Batch, partition_of
from stream.strikes import STRIKE, Strike
from stream.topics import EVENTS
from tests.records import KINDS, items, lengths, model, published
from tests.snapshots import Snapshot, put_back, take
from tests.store_proxy import Command, Cut, StoreProxy
from tests.test_fold import TOLERANCE, reference, reference_vector
from tests.troubled_log import Crash, TroubledLog, consume

MAX_EVENTS = 6
PARTITIONS = 2
USERS = {user: partition_of(user.encode(), PARTITIONS) for user in ("ana", "bob", "kim", "lea", "tom")}
CATALOGUE = items(8)
EMPTY = Snapshot({})
PARTS = st.integers(0, 10)  # tenths: what is drawn must not depend on how far a process came


@dataclass
class Model:
    """What is to be: of each user a list, the events from `since` on, folded the obvious way."""

    log: list[tuple[int, Event]] = field(default_factory=list)  # with offsets
    since: dict[str, int] = field(default_factory=lambda: dict.fromkeys(USERS, 0))

    def append(self, event: Event) -> None:
        partition = USERS[event.user_id]
        self.log.append((sum(USERS[one.user_id] == partition for _, one in self.log), event))

    def timeline(self, user: str) -> list[Event]:
        mine = [event for offset, event in self.log if event.user_id == user and offset >= self.since[user]]
        return reference(mine, MAX_EVENTS)[user]


def happened(user: str, item: str, kind: str, time_ms: int, event_id: str | None) -> Event:
    if kind == STRIKE:  # of an event that may be there, or come, or never was
        meant = sorted(KINDS)[time_ms % len(KINDS)]
        key = event_key(event_id or "a")
        return striking(user, Strike(item_key(item), kind_code(meant), time_ms, 0, key), time_ms)
    return erasure(user, time_ms) if kind == ERASE else Event(user, item, kind, time_ms, event_id)


def happenings() -> st.SearchStrategy[list[Event]]:
    return st.lists(
        st.builds(
            happened,
            st.sampled_from(sorted(USERS)),
            st.sampled_from([*CATALOGUE, "unknown"]),
            st.sampled_from([*sorted(KINDS) * 5, ERASE, STRIKE, STRIKE]),
            st.integers(0, 10**9),
            st.sampled_from([None, None, None, "a", "b"]),
        ),
        min_size=1,
        max_size=15,
    )


class Meeting(NamedTuple):
    """A process that meets trouble before the command number `after` of those that read, write, or advance.

    is_followed: by one that does not.
    """

    trouble: str
    at: str
    after: int
    events: list[Event]
    max_records: int
    is_new: bool
    copy: int
    is_followed: bool


def meetings() -> st.SearchStrategy[Meeting]:
    return st.builds(
        Meeting,
        st.sampled_from(["crash", "half", "cut", "overtaken", "put back", "crash before commit"]),
        st.sampled_from(["reads", "writes", "writes", "advances"]),
        st.integers(0, 3),
        happenings(),
        st.integers(1, 9),
        st.booleans(),
        st.integers(0, 9),
        st.booleans(),
    )


class Surroundings(NamedTuple):
    """What a run needs. client: of the store itself. proxied: of the proxy before it."""

    client: Client
    proxy: StoreProxy
    proxied: Client
    releases: Sequence[Release]


@pytest.fixture
def surroundings(
    redis_client: Client, redis_address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Surroundings]:
    second = model(CATALOGUE[::-1][:6], seed=2, dim=3, half_life_s=3600, head_weights=(3.9, 2.7))
    made = [model(CATALOGUE), second]
    releases = [published(tmp_path_factory.mktemp("releases"), one) for one in made]
    with StoreProxy(redis_address) as proxy, connect(proxy.address) as proxied:
        yield Surroundings(redis_client, proxy, proxied, releases)


class Consuming(RuleBasedStateMachine):
    """Processes come, meet trouble at one of their commands to the store, and go; in between the world changes."""

    around: Surroundings

    def __init__(self) -> None:
        super().__init__()
        self.namespace = f"machine-{secrets.token_hex(6)}"
        self.log, self.model = TroubledLog(PARTITIONS), Model()
        self.release: Release | None = None
        self.states = UserStates(self.around.client, self.namespace, lengths)
        self.handler = self.process(self.around.proxied)
        self.copies = [(EMPTY, dict(self.model.since))]
        self.trouble: Callable[[Command], None] | None = None
        self.trouble_at, self.commands_before_trouble = "reads", 0
        self.stop = threading.Event()
        self.around.proxy.before = self.before

    def teardown(self) -> None:
        self.all_is_read_and_everything_is_as_it_should_be([], 4, is_new=True)
        put_back(self.around.client, self.namespace, EMPTY)

    def process(self, client: Client) -> TimelineConsumer:
        states = UserStates(client, self.namespace, lengths)
        return TimelineConsumer(states, lambda: self.release, self.log.identity(EVENTS), max_events=MAX_EVENTS)

    def before(self, command: Command) -> None:
        """Called with every command of the process to the store."""
        is_meant = {
            "reads": command.reads(b":position:"),
            "writes": command.writes(b":u:"),
            "advances": command.writes(b":position:"),
        }
        if self.trouble is None or not is_meant[self.trouble_at]:
            return
        if self.commands_before_trouble:
            self.commands_before_trouble -= 1
        else:
            trouble, self.trouble = self.trouble, None
            trouble(command)

    # What happens to the world.

    @rule(user=st.sampled_from(sorted(USERS)))
    def a_user_expires(self, user: str) -> None:
        """What is in the record is forgotten; what a dead process did not note as done is read again."""
        self.around.client.delete(self.states.key(user))
        self.model.since[user] = self.position(USERS[user])

    @rule(number=st.integers(-1, 1))
    def a_release_is_swapped_in(self, number: int) -> None:
        self.release = self.around.releases[number] if number >= 0 else None

    @rule()
    def the_store_is_copied(self) -> None:
        self.copies.append((take(self.around.client, self.namespace), dict(self.model.since)))

    @rule(copy=st.integers(0, 9))
    def the_store_is_put_back(self, copy: int) -> None:
        """To a copy; to nothing, where there is none."""
        self.put_back(copy)

    def put_back(self, copy: int) -> None:
        snapshot, since = self.copies[copy % len(self.copies)]
        put_back(self.around.client, self.namespace, snapshot)
        self.model.since = dict(since)

    @rule(partition=st.integers(0, PARTITIONS - 1), part=PARTS)
    def an_earlier_stretch_is_to_be_read_again(self, partition: int, part: int) -> None:
        """Who has a record is protected by it; who expired comes back."""
        offset = self.position(partition) * part // 10
        self.around.client.set(f"{self.namespace}:position:{self.source(partition):016x}", offset)
        for user, place in USERS.items():
            if place == partition and self.states.read([user]) == [None]:
                self.model.since[user] = min(self.model.since[user], offset)

    @rule(partition=st.integers(0, PARTITIONS - 1), parts=st.tuples(PARTS, PARTS))
    def a_stretch_is_handed_out_twice(self, partition: int, parts: tuple[int, int]) -> None:
        start, stop = (self.position(partition) * part // 10 for part in parts)
        if start < stop:
            self.handler.assigned(partition)
            records = self.log.read(EVENTS, partition, start, stop - start)
            self.handler.handle([Decoder().decode(Batch.of(partition, records))[0]])

    # What processes do.

    @rule(meetings=st.lists(meetings(), min_size=1, max_size=4))
    def processes_meet_trouble(self, meetings: list[Meeting]) -> None:
        for meeting in meetings:
            self.happen(meeting.events)
            self.meet(meeting)
            if meeting.is_followed:
                self.all_is_read_and_everything_is_as_it_should_be([], meeting.max_records, is_new=False)

    def meet(self, meeting: Meeting) -> None:
        trouble = meeting.trouble
        if trouble == "put back" and self.copies[meeting.copy % len(self.copies)][1] != self.model.since:
            trouble = "crash"  # an expiry in between two commands of a batch would have both outcomes
        troubles: dict[str, Callable[[Command], None]] = {
            "crash": self.crash,
            "half": self.write_half_and_crash,
            "cut": self.cut,
            "overtaken": self.overtake,
            "put back": partial(self.put_back_meanwhile, meeting.copy),
        }
        self.log.troubles.crash_before_commit = int(trouble == "crash before commit")
        self.trouble = troubles.get(trouble)
        self.trouble_at, self.commands_before_trouble = meeting.at, meeting.after
        self.run_process(meeting.max_records, is_new=meeting.is_new)

    def crash(self, _: Command) -> None:
        self.stop.set()
        raise Cut

    def cut(self, _: Command) -> None:
        raise Cut

    def write_half_and_crash(self, command: Command) -> None:
        if command.writes(b":u:"):
            half, client = (
                2 + (len(command.keys) - 2) // 2,
                cast(Any, self.around.client),
            )  # hold and position come first
            client.execute_command("EVALSHA", command.words[1], half, *command.keys[:half], *command.arguments)
        self.crash(command)

    def put_back_meanwhile(self, copy: int, command: Command) -> None:
        """A server that comes back with a copy has ended its connections. Before the position moves, a process lives by
        that: the copy may hold the very position it began with, and none of what it wrote since."""
        self.put_back(copy)
        if self.trouble_at == "advances":
            self.cut(command)

    def overtake(self, _: Command) -> None:
        """Another process does a batch or two."""
        other = self.process(self.around.client)
        consume(self.log, other, group="another", max_records=12, until=lambda _: True)

    @rule(events=happenings(), max_records=st.integers(1, 9), is_new=st.booleans())
    def all_is_read_and_everything_is_as_it_should_be(
        self, events: list[Event], max_records: int, *, is_new: bool
    ) -> None:
        self.happen(events)
        self.run_process(max_records, is_new=is_new)
        for user in USERS:
            self.check(user, self.model.timeline(user))

    def happen(self, events: list[Event]) -> None:
        for event in events:
            self.log.send(event)
            self.model.append(event)

    def run_process(self, max_records: int, *, is_new: bool) -> None:
        self.stop = threading.Event()
        if is_new:
            self.handler = self.process(self.around.proxied)
        try:
            consume(self.log, self.handler, max_records=max_records, stop=self.stop)
        except (Crash, StoreUnavailable):  # it is dead, and with it its connections
            self.handler = self.process(self.around.proxied)
            self.around.proxied.connection_pool.disconnect()
            self.around.proxied.connection_pool.reset()
        self.trouble, self.log.troubles.crash_before_commit = None, 0

    def check(self, user: str, timeline: list[Event]) -> None:
        (record,) = self.states.read([user])
        if record is None:
            assert timeline == []
            return
        assert isinstance(record, UserRecord)
        assert record.timeline["item"].tolist() == [item_key(event.item_id) for event in timeline]
        as_of, was_struck = timeline[-1].time_ms if timeline else None, bool(record.struck)
        # Where the newest was struck, the time of the one before is known as it is kept: its step is at most 10**9 ms.
        assert record.as_of == as_of or (was_struck and abs((record.as_of or 0) - (as_of or 0)) <= 10**9 // 2047)
        kept = [e._replace(time_ms=int(at)) for e, at in zip(timeline, record.timeline["time_ms"], strict=True)]
        for release in self.around.releases:
            vector = profiles(self.states.find([user]), release).queries[0, :-1]
            wanted, length = reference_vector(kept, release)
            assert np.abs(vector - wanted).max() <= TOLERANCE * length

    def position(self, partition: int) -> int:
        return self.states.position(self.source(partition)) or 0

    def source(self, partition: int) -> int:
        return source_of(self.log.identity(EVENTS), partition)


def test_whatever_happens_in_whatever_order_each_user_is_what_the_log_says(surroundings: Surroundings) -> None:
    class Here(Consuming):
        around = surroundings

    examples = int(os.environ.get("LEDSTREAM_TEST_EXAMPLES", "20"))
    run_state_machine_as_test(Here, settings=settings(max_examples=examples, stateful_step_count=25, deadline=None))

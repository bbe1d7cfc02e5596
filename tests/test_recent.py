"""What is popular before there is a release: a server that just started knows what the log knows."""

from __future__ import annotations

from serving.recent import RecentItems, newest_items
from stream.events import Event, encode_event, erasure
from stream.log import Entry
from stream.memory_log import MemoryLog
from stream.topics import EVENTS


def test_a_new_server_counts_the_newest_events_of_every_partition_and_stumbles_over_nothing() -> None:
    log = MemoryLog()
    log.create_topic(EVENTS, 3)
    seen = [Event(f"user-{n}", "hat" if n % 3 else "belt", "view", n) for n in range(30)]
    values = [encode_event(event) for event in [*seen, erasure("user-1", 31)]] + [b"no event"]
    log.append(EVENTS, [Entry(str(n).encode(), value, n) for n, value in enumerate(values)])
    recent = RecentItems()
    recent.add(newest_items(log))
    assert recent.ranking() == [("hat", 20), ("belt", 10)]


def test_an_empty_log_knows_nothing() -> None:
    log = MemoryLog()
    log.create_topic(EVENTS, 3)
    assert newest_items(log) == []

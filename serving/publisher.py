"""Accepted events to the log: posts that arrive together share one append."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import count, islice

from serving.batcher import Batcher
from stream.events import Event, encode_event
from stream.kept import KeptLog, Outcome
from stream.log import Entry
from stream.spool import Addressed
from stream.topics import EVENTS

GATHER_S = 0.002  # where posts come together anyway: an append costs as much as ten entries in it
OURS = os.urandom(8).hex()  # begins the ids that this process gives
_numbers = count()
Publisher = Batcher[Sequence[Addressed], Sequence[Outcome]]


def publisher(log: KeptLog, *, max_batch: int = 2000, max_waiting: int = 20_000) -> Publisher:
    """Ask it with a post's entries and their number; it answers with the outcome of each."""
    return Batcher("events", appending(log), max_batch=max_batch, max_waiting=max_waiting, gather_s=GATHER_S)


def appending(log: KeptLog) -> Callable[[Sequence[Sequence[Addressed]]], list[Sequence[Outcome]]]:
    """Appends many posts as one."""

    def append(posts: Sequence[Sequence[Addressed]]) -> list[Sequence[Outcome]]:
        following = iter(log.append([entry for post in posts for entry in post]))
        return [list(islice(following, len(post))) for post in posts]

    return append


def entry_of(event: Event, now_ms: int, topic: str = EVENTS) -> Addressed:
    """The event as it is appended, keyed by its user.

    An event without an id gets one here, so that whatever is sent twice behind this point counts once.
    """
    if event.event_id is None:
        event = event._replace(event_id=f"{OURS}-{next(_numbers)}")
    return Addressed(topic, Entry(event.user_id.encode(), encode_event(event), now_ms))

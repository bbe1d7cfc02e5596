"""Accepted events to the log: posts that arrive together share one `Log.append`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import islice

from serving.batcher import Batcher
from stream.events import Event, encode_event
from stream.log import Entry, Log, LogUnavailable, Position
from stream.topics import EVENTS

Outcome = Position | LogUnavailable
Publisher = Batcher[Sequence[Entry], Sequence[Outcome]]


def publisher(log: Log, *, max_batch: int = 2000, max_waiting: int = 20_000) -> Publisher:
    """Ask it with a post's entries and their number; it answers with the outcome of each."""
    return Batcher("events", appending(log), max_batch=max_batch, max_waiting=max_waiting)


def appending(log: Log) -> Callable[[Sequence[Sequence[Entry]]], list[Sequence[Outcome]]]:
    """Appends many posts as one; a log that is away fails every entry instead of raising."""

    def append(posts: Sequence[Sequence[Entry]]) -> list[Sequence[Outcome]]:
        entries = [entry for post in posts for entry in post]
        outcomes: Sequence[Outcome]
        try:
            outcomes = log.append(EVENTS, entries)
        except LogUnavailable as error:
            outcomes = [error] * len(entries)
        following = iter(outcomes)
        return [list(islice(following, len(post))) for post in posts]

    return append


def entry_of(event: Event, now_ms: int) -> Entry:
    """The event as it is appended, keyed by its user.

    An event without an id gets one here, so that whatever is sent twice behind this point counts once.
    """
    if event.event_id is None:
        event = event._replace(event_id=os.urandom(8).hex())
    return Entry(event.user_id.encode(), encode_event(event), now_ms)

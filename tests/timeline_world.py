"""A consumer of timelines in a test, what it is given, and what it leaves in the store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from consumers.timelines import TimelineConsumer
from store.connection import Client
from store.releases import Release
from store.user_record import UserRecord
from store.user_state import UserStates, encode_timelines
from stream.decoding import Decoder, EventColumns
from stream.events import Event, item_key
from stream.log import Batch
from stream.topics import EVENTS
from tests.records import items
from tests.troubled_log import TroubledLog


def consumer(log: TroubledLog, states: UserStates, release: Release | None = None) -> TimelineConsumer:
    return TimelineConsumer(states, lambda: release, log.identity(EVENTS), max_events=5)


def viewed(user: str, item: str, at: int) -> Event:
    return Event(user, item, "view", at)


def record_of(states: UserStates, user: str) -> UserRecord:
    (found,) = states.read([user])
    assert isinstance(found, UserRecord), found
    return found


def seen(states: UserStates, user: str) -> list[str]:
    """Items in the user's timeline, oldest first."""
    names = {item_key(name): name for name in [*items(40), "hat", "belt", "shoe"]}
    return [names[key] for key in record_of(states, user).timeline["item"].tolist()]


def encoded_afresh(states: UserStates, users: Sequence[str], release: Release) -> None:
    for user in users:
        record = record_of(states, user)
        fresh = encode_timelines([record.timeline], release)
        assert record.release == release.key
        largest = np.abs(fresh.totals).max()
        np.testing.assert_allclose(record.total, fresh.totals[0], atol=1e-3 * largest)  # steps of a sum, a few of them
        assert record.weight == pytest.approx(fresh.weights[0])


def forget_positions(client: Client, namespace: str) -> None:
    """Nobody has read anything: what is read again meets the records alone."""
    client.delete(*client.scan_iter(f"{namespace}:position:*"))


def forget_all(client: Client, namespace: str) -> None:
    """As FLUSHALL does, on a server that others use too."""
    client.delete(*client.scan_iter(f"{namespace}:*"))


def stretch(log: TroubledLog, partition: int, start: int, stop: int) -> EventColumns:
    """Records of a partition as a reader would hand them out."""
    return Decoder().decode(Batch.of(partition, log.read(EVENTS, partition, start, stop - start)))[0]

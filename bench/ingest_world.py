"""What `bench.ingest` measures on: a store with a million users in it, and a log of visits to come.

Activity of known users falls off with their rank as Zipf's law has it (exponent 1), and so does what they did before.
A given share of the visits is by users of whom nothing is stored yet, each of them a new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.world import item_id, item_keys
from consumers.arrivals import Arrivals
from consumers.fold import fold_batch
from led.encoder import I64
from store.releases import Release
from store.stored import Stored
from store.user_record import CHECKED_FROM, FENCE_BYTES, POSITION, sealed
from store.user_state import NOTHING, UserStates
from stream.events import Event, encode_event, kind_code
from stream.log import Entry, Log, partitions_of
from stream.topics import EVENTS

AT_ONCE = 20_000
KINDS = ("view", "click", "sale")
LONGEST = 50


def fill(
    states: UserStates, release: Release, users: int, seed: int, *, sources: Sequence[int], before_ms: int
) -> None:
    """Records of users 0..users-1, made by the consumer's own fold: 50 events for the most active, 5 for the least.

    sources: of the log's partitions, by number; each user's record is as if its partition had held the events before.
    """
    rng = np.random.default_rng((seed, 1))
    keys = item_keys(release.items)
    for first in range(0, users, AT_ONCE):
        ranks = np.arange(first, min(first + AT_ONCE, users))
        lengths = np.minimum(5 + users // 20 // (ranks + 1), LONGEST)
        owner = np.repeat(np.arange(len(ranks)), lengths)
        n = len(owner)
        arrivals = Arrivals(
            [user_id(rank) for rank in ranks.tolist()],
            owner,
            np.arange(n),
            before_ms - 86_400_000 + np.sort(rng.integers(0, 86_400_000, n)),
            keys[some_items(rng, n, release.items)],
            np.full(n, kind_code("view"), np.uint8),
            rng.integers(1, 1 << 32, n).astype(np.uint32),
            np.zeros(n, np.bool_),
        )
        nothing = [NOTHING] * len(ranks)
        _, records, _ = fold_batch(arrivals, Stored.of(nothing), 0, release, LONGEST)
        theirs = partitions_of([user.encode() for user in arrivals.users], len(sources)).tolist()
        moved = [as_before(sources[partition], record) for partition, record in zip(theirs, records, strict=True)]
        assert not states.replace(states.keys(arrivals.users), nothing, moved), "the store is not empty"


def as_before(source: int, record: bytes) -> bytes:
    """The record as of the last event before the source's first."""
    last = np.array([(source, -1)], POSITION).tobytes()
    return sealed(record[:CHECKED_FROM] + last + record[FENCE_BYTES:])


@dataclass(frozen=True)
class Visits:
    """How many, of how many known users and items. share_known: how many of them are by known users."""

    count: int
    users: int
    items: int
    share_known: float
    seed: int


def append(log: Log, visits: Visits, *, start_ms: int) -> None:
    """Visits, a tenth of a millisecond apart, appended to the log."""
    for entries in _entries(visits, start_ms):
        for outcome in log.append(EVENTS, entries):
            if isinstance(outcome, Exception):
                raise outcome


def user_id(number: int) -> str:
    return f"user-{number:011d}"


def _entries(visits: Visits, start_ms: int) -> Iterator[list[Entry]]:
    rng = np.random.default_rng(visits.seed)
    newest = visits.users
    for first in range(0, visits.count, AT_ONCE):
        n = min(AT_ONCE, visits.count - first)
        who = (
            np.floor(visits.users ** rng.random(n)).astype(np.int64) - 1
        )  # Zipf's law: the rank's logarithm is uniform
        is_new = rng.random(n) >= visits.share_known
        new = int(np.count_nonzero(is_new))
        who[is_new] = newest + np.arange(new)
        newest += new
        what = some_items(rng, n, visits.items).tolist()
        kinds = np.searchsorted([0.85, 0.98], rng.random(n)).tolist()
        entries = []
        for place, (user, item, kind) in enumerate(zip(who.tolist(), what, kinds, strict=True), first):
            at = start_ms + place // 10
            event = Event(user_id(user), item_id(item), KINDS[kind], at, f"{visits.seed:x}-{place:012x}")
            entries.append(Entry(event.user_id.encode(), encode_event(event), at))
        yield entries


def some_items(rng: np.random.Generator, n: int, items: int) -> I64:
    return (items * rng.random(n) ** 2).astype(np.int64)

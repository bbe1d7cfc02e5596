"""The first look at an archive: how much there is to train on, and what is held out of it for the gate to ask about.

Held out is the newest hour of every fifth user, as far as the release before was not trained on it: so
neither of the two has learnt from what it is asked, and what is judged is what is published, without a second training.
The price is a fifth of the newest hour, which the next training has. Where the hour holds too few events to judge by,
the newest ones of these users take its place.

Everything is counted in bounded memory, a batch of events after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from led.encoder import I64, Bool
from training.id_hashes import U64, id_hashes
from training.interactions import codes

HOUR_MS = 3_600_000
ONE_IN = np.uint64(5)
ENOUGH = 2000  # events, to see a loss of one in a hundred
FEWEST, MOST_SHARE = 200, 0.2  # of what these users did: fewer decide nothing, and more would be missed
NONE = np.iinfo(np.int64).max
HELD_OUT_AFTER_MS = "held_out_after_ms"  # in what a release tells about itself; null where nothing was held out


@dataclass(frozen=True)
class Survey:
    """events, users, items: how many there are that count; users and items exactly up to some thousands, within 3 %
    above. held_out_after_ms: the events of asked users later than this are not to be trained on. bytes: all batches.
    """

    events: int
    users: int
    items: int
    held_out_after_ms: int = NONE
    bytes: int = 0

    def held_out(self, events: pa.Table, kinds: Collection[str]) -> Bool:
        """Which events are not to be trained on, (n,). kinds: those that count."""
        return _asked(events, kinds) & (_times_ms(events) > self.held_out_after_ms)


def survey(batches: Iterable[pa.Table], kinds: Collection[str], *, learnt_until_ms: int = 0) -> Survey:
    """What the events of all batches (columns of `training.interactions.collect`) are. kinds: those that count.

    learnt_until_ms: up to there the release before may have learnt from every user: nothing of it is held out.
    """
    users, items, events, size = Distinct(), Distinct(), 0, 0
    newest_ms, theirs, newest_of_theirs = 0, 0, np.empty(0, np.int64)
    for batch in batches:
        counts, times_ms = _counting(batch, kinds), _times_ms(batch)
        users.add(id_hashes(batch["user_id"])[counts])
        items.add(id_hashes(batch["item_id"])[counts])
        events, size = events + int(counts.sum()), size + batch.nbytes
        newest_ms = max(newest_ms, int(times_ms[counts].max(initial=0)))
        asked = times_ms[_asked(batch, kinds)]
        theirs += len(asked)
        newest_of_theirs = np.sort(np.concatenate([newest_of_theirs, asked]))[-ENOUGH - 1 :]
    after_ms = max(learnt_until_ms, _held_out_after(newest_ms, theirs, newest_of_theirs))
    return Survey(events, users.count(), items.count(), after_ms, size)


class Distinct:
    """How many different numbers there were, from the smallest of them: of evenly spread numbers, the k-th smallest
    says how dense they lie. Exact up to k.
    """

    def __init__(self, k: int = 4096) -> None:
        self._k, self._smallest = k, np.empty(0, np.uint64)

    def add(self, numbers: U64) -> None:
        """Evenly spread over 64 bits, as `id_hashes` gives them."""
        if len(self._smallest) == self._k:
            numbers = numbers[numbers < self._smallest[-1]]
        self._smallest = np.unique(np.concatenate([self._smallest, numbers]))[: self._k]

    def count(self) -> int:
        if len(self._smallest) < self._k:
            return len(self._smallest)
        return round((self._k - 1) / (float(self._smallest[-1]) / 2.0**64))


def _held_out_after(newest_ms: int, theirs: int, newest_of_theirs: I64) -> int:
    """theirs: how many events the asked users have; newest_of_theirs: times of the last of them, rising."""
    of_hour = int(np.count_nonzero(newest_of_theirs > newest_ms - HOUR_MS))
    some = min(ENOUGH, int(MOST_SHARE * theirs))
    if of_hour >= ENOUGH == some:
        return newest_ms - HOUR_MS
    return int(newest_of_theirs[-some - 1]) if FEWEST <= some < len(newest_of_theirs) else NONE


def _counting(events: pa.Table, kinds: Collection[str]) -> Bool:
    of_kind, names = codes(events["kind"])
    weighs = np.array([*(name in kinds for name in names), False])[of_kind]  # the last is of a kind of null, -1
    has_ids = events["user_id"].is_valid().to_numpy() & events["item_id"].is_valid().to_numpy()
    return np.asarray(weighs & has_ids)


def _asked(events: pa.Table, kinds: Collection[str]) -> Bool:
    """Which events are of users whose newest ones are held out, and count."""
    return np.asarray(_counting(events, kinds) & (id_hashes(events["user_id"]) % ONE_IN == 0))


def _times_ms(events: pa.Table) -> I64:
    return events["time_ms"].to_numpy().astype(np.int64, copy=False)

"""From a batch of events to new user records: which events take effect, what they push out, what the vector becomes.

An event takes effect once. It is dropped when its offset is not beyond the record's (a replay), or when one of the
user's newest IDS_KEPT events has its item, kind and event id (a repeated send). An erasure forgets everything before
it and leaves an empty record behind, whose position keeps replays from bringing the past back. A strike takes one event
out (`consumers/strikes.py`), which stays out however often it is sent again.

All of a batch moves together as arrays; what costs Python per user is cutting old records and joining new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from consumers.arrivals import Arrivals
from consumers.strikes import struck
from led.encoder import I64, NEVER_MS, Bool, Events, encode, fold, worn
from store.releases import Release
from store.stored import Identity, Stored, flat_entries
from store.user_record import (
    ENTRY,
    HEAD,
    IDS_KEPT,
    NO_RELEASE,
    POSITION,
    U16,
    Applied,
    Heads,
    all_sealed,
    as_bytes,
    gap_codes,
    gaps_of,
    in_steps,
    lateness,
    steps_from,
)
from stream.strikes import mark_of

RANKS_TOGETHER = 6  # of a user's events in a batch, steps in time are made for so many of all users together


@dataclass
class Counts:
    """What became of the events of a batch."""

    applied: int = 0
    duplicates: int = 0
    replayed: int = 0
    erased: int = 0
    struck: int = 0

    def add(self, other: Counts) -> None:
        """Add what became of other events."""
        self.applied += other.applied
        self.duplicates += other.duplicates
        self.replayed += other.replayed
        self.erased += other.erased
        self.struck += other.struck


@dataclass(frozen=True)
class Fresh:
    """What of a batch takes effect. place (n,): its events in `Arrivals`, by user and then by log.

    touched: (users,) who has an event that is no replay. forgotten: (users,) whose old timeline is to be dropped.
    """

    place: I64
    touched: Bool
    forgotten: Bool
    counts: Counts


@dataclass(frozen=True)
class Cut:
    """How timelines of at most max_events change. before, left, fresh: (users,) events there were, that go, that come.

    entered: places of the fresh events that stay, of users `owner`. Where more come than fit, the first do not enter.
    """

    before: I64
    left: I64
    fresh: I64
    entered: I64
    owner: I64


def fold_batch(
    arrivals: Arrivals, stored: Stored, source: int, release: Release | None, max_events: int
) -> tuple[I64, list[bytes], Counts]:
    """Places of the users whose record changes, their new records, and what became of the events.

    stored: the records of arrivals.users. source: where the events come from (`store.user_record.source_of`).
    max_events: a timeline keeps this many newest events. Without a release, records get no vector.
    """
    under = _Under(source, release, max_events)
    if not arrivals.strikes:
        return _folded(arrivals, stored, under)
    is_strike = np.isin(arrivals.offsets, np.fromiter(arrivals.strikes, np.int64))
    apart = np.isin(np.arange(len(stored)), arrivals.owner[is_strike])
    changed, records, counts = _of_some(arrivals, stored, np.flatnonzero(~apart), under)
    for user in np.flatnonzero(apart).tolist():
        strikes = np.flatnonzero(is_strike[arrivals.owner == user]).tolist()
        after, more = _with_strikes(arrivals.only(np.array([user])), strikes, stored.values[user], under)
        counts.add(more)
        if after != stored.values[user]:
            changed, records = np.append(changed, user), [*records, after]
    return changed, records, counts


class _Under(NamedTuple):
    """What `fold_batch` folds under."""

    source: int
    release: Release | None
    max_events: int


def _of_some(arrivals: Arrivals, stored: Stored, users: I64, under: _Under) -> tuple[I64, list[bytes], Counts]:
    """`fold_batch` of some users none of whose events is a strike."""
    if not len(users):
        return users, [], Counts()
    theirs = Stored.of([stored.values[user] for user in users.tolist()])
    changed, records, counts = _folded(arrivals.only(users), theirs, under)
    return users[changed], records, counts


def _with_strikes(arrivals: Arrivals, strikes: Sequence[int], data: bytes, under: _Under) -> tuple[bytes, Counts]:
    """One user's record after all of it, and what became of it: from strike to strike. strikes: their places."""
    counts, start = Counts(), 0
    for place in [*strikes, len(arrivals)]:
        if start < place:
            _, records, more = _folded(arrivals.between(start, place), Stored.of([data]), under)
            counts.add(more)
            data = records[0] if records else data
        if place < len(arrivals):
            offset = int(arrivals.offsets[place])
            if offset > int(Stored.of([data]).seen(under.source)[0]):
                data = struck(data, arrivals.strikes[offset], Applied(under.source, offset), under.release)
                counts.struck += 1
            else:
                counts.replayed += 1
        start = place + 1
    return data, counts


def _folded(arrivals: Arrivals, stored: Stored, under: _Under) -> tuple[I64, list[bytes], Counts]:
    """`fold_batch` without strikes."""
    source, release, max_events = under
    fresh = take_effect(arrivals, stored, source, min(IDS_KEPT, max_events))
    step = _Step(arrivals, stored, fresh, _cut(arrivals, stored, fresh, max_events), max_events)
    heads, kept, new = step.heads(source), step.kept(), step.new()
    steps = step.sums(release, heads, kept, new)
    ids, earlier = step.ids(heads), stored.earlier_positions(source, fresh.forgotten)
    heads["earlier"] = np.fromiter(map(len, earlier), np.int64, len(stored)) // POSITION.itemsize
    changed = np.flatnonzero(fresh.touched)
    fixed = np.concatenate([as_bytes(heads[changed]), as_bytes(steps[changed])], axis=1)
    records = all_sealed(fixed, [_chosen(part, changed) for part in (ids, earlier, kept, new)])
    return changed, records, fresh.counts


def take_effect(arrivals: Arrivals, stored: Stored, source: int, remembered: int) -> Fresh:
    """Which events are neither replays nor repeats nor erased again.

    remembered: a repeat is told among so many newest events of its user, in whatever batches they came.
    """
    new = arrivals.offsets > stored.seen(source)[arrivals.owner]
    touched, forgotten = np.zeros(len(stored), np.bool_), np.zeros(len(stored), np.bool_)
    touched[arrivals.owner[new]] = True
    counts = Counts(replayed=int(len(new) - new.sum()))
    for user in _suspicious(arrivals, stored, new).tolist():
        first, last = np.searchsorted(arrivals.owner, [user, user + 1])
        places = (first + np.flatnonzero(new[first:last])).tolist()
        new[places] = False
        before = _Before(stored.identities(user), stored.marks(user))
        lasting, forgotten[user] = _one_by_one(arrivals, places, before, remembered, counts)
        new[lasting] = True
    counts.applied += int(new.sum())
    return Fresh(np.flatnonzero(new), touched, forgotten, counts)


def _suspicious(arrivals: Arrivals, stored: Stored, new: Bool) -> I64:
    """Users with an erasure, an event key that occurs twice, or marks of strikes; a few others may be among them."""
    with_id = np.flatnonzero(new & (arrivals.events != 0))
    owner, keys = arrivals.owner[with_id], arrivals.events[with_id]
    known = (stored.recent_ids()[owner] == keys[:, None]).any(axis=1)
    both = np.sort(owner << 32 | keys.astype(np.int64))
    twice = both[1:][both[1:] == both[:-1]] >> 32
    marked = np.intersect1d(stored.with_marks(), owner)
    return np.unique(np.concatenate([arrivals.owner[new & arrivals.erases], owner[known], twice, marked]))


class _Before(NamedTuple):
    """What tells repeats of one user: the newest events before, and marks of what was struck."""

    window: list[Identity]
    marks: set[int]


def _one_by_one(
    arrivals: Arrivals, places: Sequence[int], before: _Before, remembered: int, counts: Counts
) -> tuple[list[int], bool]:
    """Which of one user's events last, and whether what came before them is forgotten; the others are counted."""
    lasting: list[int] = []
    forgotten = False
    window, marks = before
    for place in places:
        identity = (int(arrivals.items[place]), int(arrivals.kinds[place]), int(arrivals.events[place]))
        if arrivals.erases[place]:
            counts.erased += 1
            counts.applied += len(lasting)
            window, marks, lasting, forgotten = [], set(), [], True
        elif identity[2] and (identity in window[-remembered:] or (marks and mark_of(*identity) in marks)):
            counts.duplicates += 1
        else:
            lasting.append(place)
            window = [*window[-remembered:], identity]
    return lasting, forgotten


def _cut(arrivals: Arrivals, stored: Stored, fresh: Fresh, max_events: int) -> Cut:
    before = np.where(fresh.forgotten, 0, stored.heads["events"].astype(np.int64))
    owner = arrivals.owner[fresh.place]
    coming = np.bincount(owner, minlength=len(stored))
    surplus = np.maximum(before + coming - max_events, 0)
    left = np.minimum(surplus, before)
    rank = np.arange(len(owner)) - (np.cumsum(coming) - coming)[owner]
    enters = rank >= (surplus - left)[owner]
    return Cut(before, left, coming, fresh.place[enters], owner[enters])


class _Step:
    """From old records to new ones, part by part; a part is an array or a list by user."""

    def __init__(self, arrivals: Arrivals, stored: Stored, fresh: Fresh, cut: Cut, max_events: int) -> None:
        self._arrivals, self._stored, self._fresh, self._cut = arrivals, stored, fresh, cut
        self._max_events = max_events
        self._codes, self._kept_ms = _steps_in_time(arrivals, stored, fresh, cut)

    def heads(self, source: int) -> Heads:
        """The new heads, but for the vector's part and the number of earlier positions."""
        arrivals, stored, cut = self._arrivals, self._stored, self._cut
        heads = np.zeros(len(stored), HEAD)
        last = np.searchsorted(arrivals.owner, np.arange(len(stored)), side="right") - 1
        heads["source"], heads["offset"] = source, arrivals.offsets[last]
        heads["applied"] = np.where(self._fresh.forgotten, 0, stored.heads["applied"]) + cut.fresh
        heads["events"] = np.minimum(cut.before + cut.fresh, self._max_events)
        heads["ids"] = np.minimum(heads["events"], IDS_KEPT)
        for name in ("time_ms", "late"):
            heads[name] = np.where(cut.before > 0, stored.heads[name], 0)
        # Of several values for one user the last, the newest event's, stays.
        heads["time_ms"][cut.owner] = self._kept_ms[cut.entered]
        heads["late"][cut.owner] = lateness((arrivals.times_ms - self._kept_ms)[cut.entered])
        heads["release"], heads["at_ms"] = NO_RELEASE, NEVER_MS
        return heads

    def kept(self) -> list[bytes]:
        """What stays of the old timelines."""
        heads = self._stored.heads
        return self._stored.entries_after(np.where(self._fresh.forgotten, heads["events"], self._cut.left))

    def new(self) -> list[bytes]:
        """What comes behind it."""
        arrivals, cut = self._arrivals, self._cut
        made = np.empty(len(cut.entered), ENTRY)
        made["word"] = arrivals.items[cut.entered] << np.uint64(8) | arrivals.kinds[cut.entered]
        made["gap"] = self._codes[cut.entered]
        return _by_user(made.tobytes(), cut.owner, len(self._stored), ENTRY.itemsize)

    def ids(self, heads: Heads) -> list[bytes]:
        """Event keys of each user's newest events."""
        place = self._fresh.place
        keys = self._arrivals.events[place].astype("<u4").tobytes()
        new = _by_user(keys, self._arrivals.owner[place], len(self._stored), 4)
        sizes = (4 * heads["ids"].astype(np.int64)).tolist()
        kept = self._stored.ids(self._fresh.forgotten)
        return [(old + ids)[-size:] if size else b"" for old, ids, size in zip(kept, new, sizes, strict=True)]

    def sums(
        self, release: Release | None, heads: Heads, kept: Sequence[bytes], new: Sequence[bytes]
    ) -> npt.NDArray[np.int16]:
        """The new sums as steps (users, dim), their scalars put into the heads.

        Sums move incrementally where the stored ones are of this release, and are encoded from the timeline
        otherwise, once every max_events applied (which bounds the rounding that storing and adding gather), and where
        they are `worn`.
        """
        stored, cut = self._stored, self._cut
        if release is None:
            return np.empty((len(stored), 0), np.int16)
        # An erased or new user has nothing to encode anew: the sums of nothing are zero under any release.
        periodic = heads["applied"] // self._max_events != stored.heads["applied"] // self._max_events
        anew = (cut.before > 0) & ((stored.heads["release"] != np.uint64(release.key)) | periodic)
        before = stored.sums(release, ~anew & (cut.before > 0))
        left = stored.flat(np.where(anew, 0, cut.left), release)
        sums = fold(release.encoder, release.input_embeddings, before, self._entered(~anew, release), left)
        anew |= worn(release.encoder, sums) & self._fresh.touched
        if anew.any():
            users = np.flatnonzero(anew)
            entries = [kept[user] + new[user] for user in users.tolist()]
            whole = flat_entries(entries, heads["time_ms"][users], release)
            sums.put(users, encode(release.encoder.tail, release.input_embeddings, len(users), whole))
        steps, heads["scale"] = in_steps(sums.totals)
        heads["release"], heads["dim"] = release.key, release.dim
        heads["weight"], heads["mass"], heads["at_ms"] = sums.weights, sums.masses, sums.at_ms
        return steps

    def _entered(self, moving: Bool, release: Release) -> Events:
        """The events that enter timelines whose sums move."""
        place = self._cut.entered[moving[self._cut.owner]]
        arrivals = self._arrivals
        rows = release.rows(arrivals.items[place])
        return Events(arrivals.owner[place], rows, arrivals.kinds[place], self._kept_ms[place])


def _steps_in_time(arrivals: Arrivals, stored: Stored, fresh: Fresh, cut: Cut) -> tuple[U16, I64]:
    """Codes of the steps in time into the fresh events, and their times as kept; (n,), for the others anything."""
    codes, kept = np.zeros(len(arrivals.offsets), np.uint16), arrivals.times_ms.copy()
    first = np.cumsum(cut.fresh) - cut.fresh
    users = np.flatnonzero(cut.fresh)
    at = stored.heads["time_ms"].copy()
    beginning = users[cut.before[users] == 0]
    at[beginning] = kept[fresh.place[first[beginning]]]
    for rank in range(RANKS_TOGETHER):
        users = users[cut.fresh[users] > rank]
        place = fresh.place[first[users] + rank]
        codes[place] = gap_codes(arrivals.times_ms[place] - at[users])
        at[users] += gaps_of(codes[place])
        kept[place] = at[users]
    for user in users[cut.fresh[users] > RANKS_TOGETHER].tolist():
        place = fresh.place[first[user] + RANKS_TOGETHER : first[user] + cut.fresh[user]]
        codes[place], kept[place] = steps_from(int(at[user]), arrivals.times_ms[place].tolist())
    return codes, kept


def _chosen(part: list[bytes], users: I64) -> list[bytes]:
    return part if len(users) == len(part) else [part[user] for user in users.tolist()]


def _by_user(data: bytes, owner: I64, users: int, size: int) -> list[bytes]:
    """Things of `size` bytes, in the order of their owners, cut into each user's."""
    ends = (size * np.cumsum(np.bincount(owner, minlength=users))).tolist()
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]

"""Live recall of two releases: would they have shown the item that a user turned to just now?

Events are followed as they come, in no group and without a trace. For each one sampled, what its user did before is
encoded under both releases, and the item's place in either's ranking of all items is counted exactly. Both releases
are asked about the same events, which tells them apart on a fraction of the events that two groups of users would
take. But users turn to what they were shown, and most are shown the champion's choice: so as many events are taken of
users on the champion as of those on the canary, and the advantage is the same on both sides.

Left out: items the user had seen, which neither release would show, and first events, before which there is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from led.encoder import F32, I64, Bool
from led.evidence import Pairs
from led.ranking import score
from store.item_index import TIE
from store.releases import Release
from store.user_record import Timeline, UserRecord
from store.user_state import UserStates, encode_timelines
from stream.announcements import Canary
from stream.decoding import Decoder
from stream.events import Event, item_key
from stream.log import Batch, Log
from stream.topics import EVENTS

K = 20
READ_AT_ONCE = 5000  # of a partition; what came before is skipped, as a sample may
ASKED_AT_ONCE = 128  # events a look asks about, which takes over a second of a core at a million items
ITEMS_AT_ONCE = 1 << 14
CHAMPION, CANARY = "champion", "canary"

Scorer = Callable[[F32, "slice | I64"], F32]
"""Scores (users, items) of the items in these rows for user vectors (users, dim)."""


class Asked(NamedTuple):
    """One event to ask about: whose group it counts for, what its user did before, the item's key."""

    group: str
    history: Timeline
    item: int


@dataclass(frozen=True)
class Contestants:
    """The two releases, loaded, and the trial they are in."""

    champion: Release
    canary: Release
    trial: Canary


class LiveRecall:
    """Used by one thread. next_offsets: where each partition is followed from; by default, from its end."""

    def __init__(
        self, log: Log, states: UserStates, contestants: Contestants, next_offsets: Mapping[int, int] | None = None
    ) -> None:
        self._log, self._states, self._contestants = log, states, contestants
        self.next_offsets = dict(log.end_offsets(EVENTS) if next_offsets is None else next_offsets)
        self._decoder = Decoder()

    def look(self) -> dict[str, Pairs]:
        """What came since the last look, by group of users.

        Raises StoreUnavailable or LogUnavailable, and then the next look sees what this one did not.
        """
        events, next_offsets = self._arrived()
        asked = self._asked(events[-ASKED_AT_ONCE:])
        pairs = {CHAMPION: Pairs(), CANARY: Pairs()}
        if asked:
            histories, items = [one.history for one in asked], np.array([one.item for one in asked], np.uint64)
            champion = is_shown(self._contestants.champion, histories, items)
            canary = is_shown(self._contestants.canary, histories, items)
            for group in pairs:
                ours = np.array([one.group == group for one in asked])
                pairs[group] = pairs_of(champion[ours], canary[ours])
        self.next_offsets = next_offsets
        return pairs

    def _arrived(self) -> tuple[list[tuple[str, Event]], dict[int, int]]:
        """Sampled events, each with its group, and where to read on."""
        found, next_offsets = [], {}
        for partition, end in self._log.end_offsets(EVENTS).items():
            start = max(self.next_offsets.get(partition, end), end - READ_AT_ONCE)
            records = self._log.read(EVENTS, partition, start, READ_AT_ONCE) if start < end else []
            next_offsets[partition] = records[-1].offset + 1 if records else min(start, end)
            if records:
                events = self._decoder.decode(Batch.of(partition, records))[0].events()
                sampled = ((group_of(self._contestants.trial, event.user_id), event) for event in events)
                found += [(group, event) for group, event in sampled if group and event.item_id]
        return sorted(found, key=lambda pair: pair[1].time_ms), next_offsets

    def _asked(self, events: Sequence[tuple[str, Event]]) -> list[Asked]:
        users = list(dict.fromkeys(event.user_id for _, event in events))
        records = dict(zip(users, self._states.read(users), strict=True))
        asked = []
        for group, event in events:
            record = records[event.user_id]
            history = before(record, event) if isinstance(record, UserRecord) else None
            if history is not None and len(history):
                asked.append(Asked(group, history, item_key(event.item_id)))
        return asked


def group_of(trial: Canary, user_id: str) -> str | None:
    """Which group the user's events count for: two of equal size, None for all others.

    A canary that everybody gets has one group.
    """
    size, drawn = min(trial.share, 1 - trial.share) or 1.0, trial.draw(user_id)
    if drawn < size:
        return CANARY
    return CHAMPION if drawn >= 1 - size else None


def before(record: UserRecord, event: Event) -> Timeline | None:
    """What the user did before the event; None where the item was among it."""
    timeline, key = record.timeline, item_key(event.item_id)
    places = np.flatnonzero(timeline["item"] == key)
    if not len(places):  # not applied yet
        return timeline
    first = int(places[0])
    times = timeline["time_ms"]
    rounding = 2 + abs(int(times[first] - times[max(first - 1, 0)])) // 512 + abs(record.late)
    return timeline[:first] if abs(int(times[first]) - event.time_ms) <= rounding else None


def is_shown(release: Release, histories: Sequence[Timeline], items: npt.NDArray[np.uint64], k: int = K) -> Bool:
    """Whether each user's item (users,) is among the best k that the release would show after this history.

    A user without a vector under the release would be shown the most popular items.
    """
    rows = release.rows(items)
    known = np.flatnonzero(rows >= 0)
    shown = np.zeros(len(items), np.bool_)
    if not len(known):
        return shown
    chosen = [histories[place] for place in known.tolist()]
    vectors = encode_timelines(chosen, release).vectors()
    personal = vectors.any(axis=1)
    better = np.empty(len(known), np.int64)
    for which, scores in ((personal, _personal(release)), (~personal, _popular(release))):
        ours = np.flatnonzero(which)
        if len(ours):
            seen = [np.unique(release.rows(chosen[place]["item"].astype(np.uint64))) for place in ours]
            better[ours] = _better(scores, vectors[ours], rows[known[ours]], seen, release.items)
    shown[known] = better < k
    return shown


def pairs_of(champion: Bool, canary: Bool) -> Pairs:
    """Counts of events (n,) by which of the two hit."""
    both, one, other = champion & canary, champion & ~canary, canary & ~champion
    return Pairs(int(both.sum()), int(one.sum()), int(other.sum()), int((~champion & ~canary).sum()))


def _personal(release: Release) -> Scorer:
    return lambda vectors, rows: score(vectors, release.output_embeddings[rows], release.biases[rows])


def _popular(release: Release) -> Scorer:
    return lambda vectors, rows: np.tile(release.popularity[rows], (len(vectors), 1))


def _better(scores: Scorer, vectors: F32, targets: I64, seen: Sequence[I64], items: int) -> I64:
    """How many items each user (users,) has not seen and the release ranks above the target."""
    alone = [vectors[user : user + 1] for user in range(len(vectors))]
    least = np.array([scores(one, targets[user : user + 1])[0, 0] for user, one in enumerate(alone)])
    least += TIE * np.abs(least)
    better = np.zeros(len(vectors), np.int64)
    for start in range(0, items, ITEMS_AT_ONCE):
        rows = slice(start, start + ITEMS_AT_ONCE)
        better += (scores(vectors, rows) > least[:, None]).sum(axis=1)
    for user, one in enumerate(alone):
        hidden = seen[user][seen[user] >= 0]
        better[user] -= int((scores(one, hidden)[0] > least[user]).sum())
    return better

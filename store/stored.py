"""Many users' records at once, cut into the arrays that folding and answering work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from led.encoder import F32, I64, Bool, Events, Sums, encode
from store.releases import Release
from store.user_record import (
    CHECKED_FROM,
    EARLIER_KEPT,
    ENTRY,
    FENCE_BYTES,
    HEAD,
    IDS_KEPT,
    POSITION,
    STRUCK,
    Heads,
    decode_record,
    gaps_of,
    heads_of,
)

Identity = tuple[int, int, int]  # item key, kind code, event key
LAST = slice(CHECKED_FROM, FENCE_BYTES)  # of a head: its source and offset, as a POSITION has them
_NO_IDS = bytes(4 * IDS_KEPT)
_STRUCK = STRUCK.to_bytes(8, "little")


@dataclass(frozen=True)
class Stored:
    """Records of some users as stored, b"" for a user without one. Users are places in `values`.

    heads: (users,) HEAD, zero without a record.
    """

    values: Sequence[bytes]
    heads: Heads
    _ids_at: list[int] = field(repr=False)
    _earlier_at: list[int] = field(repr=False)
    _entries_at: list[int] = field(repr=False)

    @classmethod
    def of(cls, values: Sequence[bytes]) -> Stored:
        """The records in these bytes. Of a damaged one (`store.user_record.damaged`) only the head may be looked at."""
        heads = heads_of(values)
        size = HEAD.itemsize
        ids_at = size + 2 * heads["dim"].astype(np.int64)
        earlier_at = ids_at + 4 * heads["ids"]
        entries_at = earlier_at + POSITION.itemsize * heads["earlier"]
        return cls(values, heads, ids_at.tolist(), earlier_at.tolist(), entries_at.tolist())

    def __len__(self) -> int:
        return len(self.values)

    def seen(self, source: int) -> I64:
        """How far the source is in each record; -1 where nothing of it is."""
        seen = np.where(self._exists() & (self.heads["source"] == np.uint64(source)), self.heads["offset"], -1)
        name = source.to_bytes(8, "little")
        for user in np.flatnonzero(self.heads["earlier"]).tolist():
            if name in self._earlier(user):
                there = np.frombuffer(self._earlier(user), POSITION)
                seen[user] = max(seen[user], *there["offset"][there["source"] == np.uint64(source)].tolist(), -1)
        return np.asarray(seen, np.int64)

    def earlier_positions(self, source: int, forgotten: Bool) -> list[bytes]:
        """What a record written by the source keeps of positions in others, newest first; then, of those who are not
        forgotten, the marks of what was struck.
        """
        kept = [b""] * len(self.values)
        elsewhere = self._exists() & (self.heads["source"] != np.uint64(source))
        name = source.to_bytes(8, "little")
        for user in np.flatnonzero(elsewhere | (self.heads["earlier"] > 0)).tolist():
            others = (self.values[user][LAST] if elsewhere[user] else b"") + self._earlier(user)
            marks = b""
            if _STRUCK in others or name in others:
                there = np.frombuffer(others, POSITION)
                is_mark = there["source"] == np.uint64(STRUCK)
                marks = b"" if forgotten[user] else there[is_mark].tobytes()
                others = there[~is_mark & (there["source"] != np.uint64(source))].tobytes()
            kept[user] = others[: EARLIER_KEPT * POSITION.itemsize] + marks
        return kept

    def marks(self, user: int) -> set[int]:
        """Of what was struck from the user's timeline (`stream.strikes`)."""
        there = np.frombuffer(self._earlier(user), POSITION)
        return set(there["offset"][there["source"] == np.uint64(STRUCK)].tolist())

    def with_marks(self) -> I64:
        """Users who have any; a few others may be among them."""
        return np.array([u for u in np.flatnonzero(self.heads["earlier"]).tolist() if _STRUCK in self._earlier(u)], int)

    def recent_ids(self) -> npt.NDArray[np.uint32]:
        """(users, IDS_KEPT) event keys of each one's newest events; before them, where there are fewer, anything."""
        size = 4 * IDS_KEPT
        data = [value[end - size : end] or _NO_IDS for value, end in zip(self.values, self._earlier_at, strict=True)]
        return np.frombuffer(b"".join(data), "<u4").reshape(-1, IDS_KEPT)

    def identities(self, user: int) -> list[Identity]:
        """Of the user's newest events, as many as have event keys."""
        if not self.values[user]:
            return []
        timeline = decode_record(self.values[user]).timeline[-IDS_KEPT:]
        return [(int(entry["item"]), int(entry["kind"]), int(entry["event"])) for entry in timeline]

    def ids(self, forgotten: Bool) -> list[bytes]:
        """Event keys as stored; none of those who are forgotten."""
        return [
            b"" if gone else value[start:end]
            for value, start, end, gone in zip(
                self.values, self._ids_at, self._earlier_at, forgotten.tolist(), strict=True
            )
        ]

    def entries_after(self, dropped: I64) -> list[bytes]:
        """Timelines without their first `dropped` (users,) entries."""
        starts = (np.asarray(self._entries_at) + ENTRY.itemsize * dropped.astype(np.int64)).tolist()
        return [value[start:] for value, start in zip(self.values, starts, strict=True)]

    def flat(self, first: I64, release: Release) -> Events:
        """The first `first` (users,) events of each timeline; without a half-life, of any time."""
        users = np.flatnonzero(first)
        if release.encoder.half_life_s is None:  # where time does not count, no later entries are needed to tell it
            sizes = (ENTRY.itemsize * first[users]).tolist()
            at = [(self.values[user], self._entries_at[user]) for user in users.tolist()]
            entries = [value[start : start + size] for (value, start), size in zip(at, sizes, strict=True)]
        else:
            entries = [self.values[user][self._entries_at[user] :] for user in users.tolist()]
        return flat_entries(entries, self.heads["time_ms"][users], release, first[users], users)

    def sums(self, release: Release, which: Bool) -> Sums:
        """The running sums of those whose record was made under the release; of the others nothing."""
        sums = Sums.zeros(len(self.values), release.dim)
        users = np.flatnonzero(which)
        if not len(users):
            return sums
        start, end = HEAD.itemsize, HEAD.itemsize + 2 * release.dim
        steps = np.frombuffer(b"".join([self.values[user][start:end] for user in users.tolist()]), "<i2")
        heads = self.heads[users]
        sums.totals[users] = steps.reshape(len(users), release.dim) * heads["scale"][:, None]
        sums.weights[users], sums.at_ms[users], sums.masses[users] = heads["weight"], heads["at_ms"], heads["mass"]
        return sums

    def encoded(self, release: Release) -> F32:
        """User vectors (users, dim) from the whole timelines, under a release that did not make these records."""
        entries = self.entries_after(np.zeros(len(self), np.int64))
        flat = flat_entries(entries, self.heads["time_ms"], release)
        return encode(release.encoder, release.input_embeddings, len(self), flat).vectors()

    def _exists(self) -> Bool:
        return np.asarray(self.heads["magic"] != b"")

    def _earlier(self, user: int) -> bytes:
        return self.values[user][self._earlier_at[user] : self._entries_at[user]]


def flat_entries(
    entries: Sequence[bytes], newest_ms: I64, release: Release, first: I64 | None = None, users: I64 | None = None
) -> Events:
    """Timelines, as stored, as the flat arrays of `led.encoder`; of each its `first` events, or all.

    newest_ms: (timelines,) time of each one's newest event. users: the number each has in the result, or its place.
    """
    sizes = np.array([len(one) for one in entries], np.int64) // ENTRY.itemsize
    flat = np.frombuffer(b"".join(entries), ENTRY)
    owner = np.repeat(np.arange(len(entries)), sizes)
    ends = np.cumsum(sizes)
    into = np.cumsum(gaps_of(flat["gap"]))
    times = newest_ms[owner] - (into[ends[owner] - 1] - into)
    if first is not None:
        chosen = np.arange(len(flat)) - (ends - sizes)[owner] < first[owner]
        flat, owner, times = flat[chosen], owner[chosen], times[chosen]
    rows = release.rows(flat["word"] >> np.uint64(8))
    kinds = (flat["word"] & np.uint64(255)).astype(np.uint8)
    return Events(owner if users is None else users[owner], rows, kinds, times)

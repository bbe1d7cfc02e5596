"""Users' records as a request needs them: a query for the index, the items seen, and how far they go.

Record by record: requests come a few at a time, for which arrays over all of them cost more than they save.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from led.encoder import F32, head_terms
from store.releases import Release
from store.stored import Stored
from store.user_record import ENTRY, HEAD, DamagedRecord, head_of

SPARE = 1  # of the newest events so many need not count, and no others are looked at


class Profiles(NamedTuple):
    """Of users in order. queries (users, dim + 1) float32: [u ; 1] (`led.ranking`), u being zero without a vector.

    has_vector: who has one. seen: item keys of each timeline, oldest first. as_of: time of each one's last applied
    event, Unix milliseconds; None without any.
    """

    queries: F32
    has_vector: list[bool]
    seen: list[list[int]]
    as_of: list[int | None]


def profiles(records: Sequence[bytes], release: Release | None) -> Profiles:
    """The users with these records under a release, or without vectors; b"" or a damaged record is as none.

    Sums of that release are taken as they are, its encoder's head weights added; all others are encoded again from the
    timelines, so that no vector ever meets another release's items.
    """
    dim, key = (release.dim, release.key) if release else (0, 0)
    queries = np.zeros((len(records), dim + 1), np.float32)
    factors = np.zeros(len(records), np.float32)
    seen: list[list[int]] = [[]] * len(records)
    as_of: list[int | None] = [None] * len(records)
    foreign = []
    for place, data in enumerate(records):
        try:
            head = head_of(data) if data else None
        except DamagedRecord:
            head = None
        if head is None or not head.events:
            continue
        seen[place] = (np.frombuffer(data, ENTRY, head.events, head.entries_at)["word"] >> 8).tolist()
        as_of[place] = head.time_ms + head.late
        if head.release != key:
            foreign.append(place)
        elif head.weight > 0:
            queries[place, :dim] = np.frombuffer(data, "<i2", dim, HEAD.itemsize)
            factors[place] = head.scale / head.weight
    queries *= factors[:, None]
    if release is not None and release.encoder.head_weights:
        _weigh_heads(queries[:, :dim], records, [place for place, at in enumerate(as_of) if at is not None], release)
    if release is not None and foreign:
        queries[foreign, :dim] = Stored.of([records[place] for place in foreign]).encoded(release)
    has_vector: list[bool] = queries.any(axis=1).tolist()  # type: ignore[assignment]
    queries[:, dim] = 1
    return Profiles(queries, has_vector, seen, as_of)


def _weigh_heads(vectors: F32, records: Sequence[bytes], places: Sequence[int], release: Release) -> None:
    """Make vectors (users, dim) of running sums, where they are of this release, such that their heads weigh more.

    places: users whose record is good. The newest events are looked at alone, and whole timelines where too few of them
    count.
    """
    stored = Stored.of([records[place] for place in places])
    heads = stored.heads
    users = np.flatnonzero((heads["release"] == np.uint64(release.key)) & (heads["weight"] > 0))
    most = int(heads["events"][users].max(initial=0))
    for how_many in sorted({min(len(release.encoder.head_weights) + SPARE, most), most} - {0}):
        newest = stored.newest(users, how_many, release)
        totals, weights, counted = head_terms(release.encoder, release.input_embeddings, newest, heads["at_ms"][users])
        whole = (counted >= len(release.encoder.head_weights)) | (heads["events"][users] <= how_many)
        done, before = users[whole], heads["weight"][users[whole]]
        after = (before + weights[whole]).astype(np.float32)
        mine = np.asarray(places)[done]
        vectors[mine] = (vectors[mine] * before[:, None] + totals[whole]) / after[:, None]
        users = users[~whole]
        if not len(users):
            break

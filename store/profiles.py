"""Users' records as a request needs them: a query for the index, the items seen, and how far they go.

Record by record: requests come a few at a time, for which arrays over all of them cost more than they save.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from led.encoder import F32, F64, I64, Newest, head_terms
from store.releases import Release
from store.stored import Stored
from store.user_record import ENTRY, HEAD, DamagedRecord, Head, gaps_of, head_of

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
    has_heads = release is not None and bool(release.encoder.head_weights)
    queries = np.zeros((len(records), dim + 1), np.float32)
    factors = np.zeros(len(records), np.float32)
    own: list[tuple[int, Head]] = []
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
            if has_heads:
                own.append((place, head))
    queries *= factors[:, None]
    if own and release is not None:
        _weigh_heads(queries[:, :dim], records, own, release)
    if release is not None and foreign:
        queries[foreign, :dim] = Stored.of([records[place] for place in foreign]).encoded(release)
    has_vector: list[bool] = (queries.any(axis=1) if own or foreign else factors > 0).tolist()  # type: ignore[assignment]
    queries[:, dim] = 1
    return Profiles(queries, has_vector, seen, as_of)


def _weigh_heads(vectors: F32, records: Sequence[bytes], users: list[tuple[int, Head]], release: Release) -> None:
    """Add the head weights to vectors (records, dim) that are those of the tail. users: places in records, with heads.

    Of each user the newest events are looked at, and the whole timeline where too few of these count.
    """
    wanted = len(release.encoder.head_weights)
    totals, weights, counted = _head_terms(records, users, wanted + SPARE, release)
    if counted.min(initial=wanted) < wanted:
        short = [n for n, (_, head) in enumerate(users) if counted[n] < wanted and head.events > wanted + SPARE]
        if short:
            longest = max(users[n][1].events for n in short)
            totals[short], weights[short], _ = _head_terms(records, [users[n] for n in short], longest, release)
    places, before = [place for place, _ in users], np.array([head.weight for _, head in users])
    after = (before + weights)[:, None].astype(np.float32)
    vectors[places] = (vectors[places] * before[:, None].astype(np.float32) + totals) / after


def _head_terms(
    records: Sequence[bytes], users: list[tuple[int, Head]], how_many: int, release: Release
) -> tuple[F32, F64, I64]:
    """`led.encoder.head_terms` of so many newest events of each user."""
    size = ENTRY.itemsize * how_many
    data = b"".join([records[place][-size:].rjust(size, b"\0") for place, _ in users])
    entries = np.frombuffer(data, ENTRY).reshape(len(users), how_many)
    words = entries["word"]
    rows, kinds = release.rows(words >> np.uint64(8)), (words & np.uint64(255)).astype(np.uint8)
    events = [head.events for _, head in users]
    if min(events, default=how_many) < how_many:
        rows[np.arange(how_many) < how_many - np.array(events)[:, None]] = -1
    ages_ms = np.array([head.at_ms - head.time_ms for _, head in users])[:, None]
    if release.encoder.half_life_s is not None:
        gaps = gaps_of(entries["gap"])
        ages_ms = ages_ms + gaps[:, ::-1].cumsum(axis=1)[:, ::-1] - gaps
    return head_terms(release.encoder, release.input_embeddings, Newest(rows, kinds, ages_ms))

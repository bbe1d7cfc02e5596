"""Users' records as a request needs them: a query for the index, the items seen, and how far they go.

Record by record: requests come a few at a time, for which arrays over all of them cost more than they save.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from crc32c import crc32c

from led.encoder import F32
from store.releases import Release
from store.stored import Stored
from store.user_record import CHECKED_FROM, ENTRY, HEAD, MAGIC, POSITION

_HEAD = struct.Struct("<2sIQqQIHHBBffqqif")  # HEAD's fields


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

    Sums of that release are taken as they are, all others encoded again from the timelines, so that no vector ever
    meets another release's items.
    """
    dim, key = (release.dim, release.key) if release else (0, 0)
    queries = np.zeros((len(records), dim + 1), np.float32)
    factors = np.zeros(len(records), np.float32)
    seen: list[list[int]] = [[]] * len(records)
    as_of: list[int | None] = [None] * len(records)
    foreign = []
    for place, data in enumerate(records):
        if len(data) < HEAD.itemsize:
            continue
        magic, crc, _, _, made_by, _, width, events, ids, earlier, weight, _, _, time_ms, late, scale = (
            _HEAD.unpack_from(data)
        )
        at = HEAD.itemsize + 2 * width + 4 * ids + POSITION.itemsize * earlier
        if magic != MAGIC or len(data) != at + ENTRY.itemsize * events or crc32c(data[CHECKED_FROM:]) != crc:
            continue
        if not events:
            continue
        seen[place] = (np.frombuffer(data, ENTRY, events, at)["word"] >> 8).tolist()
        as_of[place] = time_ms + late
        if made_by != key:
            foreign.append(place)
        elif weight > 0:
            queries[place, :dim] = np.frombuffer(data, "<i2", dim, HEAD.itemsize)
            factors[place] = scale / weight
    queries *= factors[:, None]
    if release is not None and foreign:
        queries[foreign, :dim] = Stored.of([records[place] for place in foreign]).encoded(release)
    has_vector: list[bool] = queries.any(axis=1).tolist()  # type: ignore[assignment]
    queries[:, dim] = 1
    return Profiles(queries, has_vector, seen, as_of)

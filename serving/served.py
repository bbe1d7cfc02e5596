"""A release as requests need it: warmed, and item ids decoded once."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import orjson

from store.releases import Release
from stream.events import item_key

KEPT_ITEMS = 1 << 18


def beginning(item_id: str) -> bytes:
    """An item of an answer in JSON, up to its score."""
    return b'{"item_id":%b,"score":' % orjson.dumps(item_id)


class Beginnings(dict[int, bytes]):
    """By row, how an item begins in an answer; made when first asked for. Larger catalogues start over once it is full,
    which a plain dict is faster for than a cache that keeps an order.
    """

    def __init__(self, release: Release) -> None:
        self._release = release

    def __missing__(self, row: int) -> bytes:
        if len(self) >= KEPT_ITEMS:
            self.clear()
        made = self[row] = beginning(self._release.item_id(row))
        return made


class Served:
    """One release, warmed, shared by threads.

    item: of a row, how it begins in an answer, remembered. json: the version. most_popular: rows and their item keys.
    withheld: keys of items that nobody is to be shown; whoever gives it may change it while it is looked into.
    """

    def __init__(self, release: Release, withheld: Set[int] = frozenset()) -> None:
        self.release, self.withheld = release, withheld
        self.version = release.version
        self.json = orjson.dumps(release.version)
        self.item = Beginnings(release).__getitem__
        popular = release.most_popular
        self.most_popular = list(zip(popular.tolist(), release.item_keys[popular].tolist(), strict=True))
        release.warm_up()
        for row, _ in self.most_popular:
            self.item(row)

    def knows(self, item_id: str) -> bool:
        """Whether the item is part of this release."""
        return bool(self.release.rows(np.array([item_key(item_id)], np.uint64))[0] >= 0)

    def heaviest_kind(self) -> int:
        """Code of the kind of event that counts most under this release."""
        weights = self.release.encoder.kind_weights
        return max(weights, key=lambda code: weights[code])

"""A release as requests need it: warmed, and item ids decoded once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from store.releases import Release
from stream.events import item_key

KEPT_IDS = 1 << 18


class Served:
    """One release, warmed, shared by threads. item_id: the id of a row, remembered."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.version = release.version
        self.item_id = lru_cache(maxsize=KEPT_IDS)(release.item_id)
        self.most_popular: list[int] = release.most_popular.tolist()
        release.warm_up()
        for row in self.most_popular:
            self.item_id(row)

    def knows(self, item_id: str) -> bool:
        """Whether the item is part of this release."""
        return bool(self.release.rows(np.array([item_key(item_id)], np.uint64))[0] >= 0)

    def heaviest_kind(self) -> int:
        """Code of the kind of event that counts most under this release."""
        weights = self.release.encoder.kind_weights
        return max(weights, key=lambda code: weights[code])

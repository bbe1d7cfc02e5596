"""How many events a second a site may send."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from serving.refusals import Refused

BURST_S = 10.0


class TooMany(Refused):
    """More events than this site may send for now. after_s: when to come back."""

    def __init__(self, site: str, per_s: float, after_s: int) -> None:
        super().__init__("key", site, f"over {per_s:g} events a second", status=429)
        self.after_s = after_s


class Rates:
    """A bucket a site: filled at `per_s`, ten seconds deep. Of one process; used inside one event loop.

    per_s: 0 for no bound.
    """

    def __init__(self, per_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._depth, self._now_s = per_s, max(per_s * BURST_S, 1.0), now_s
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, and when

    def spend(self, site: str, events: int) -> None:
        """Take so many events. A post larger than a bucket passes when that is full. Raises TooMany."""
        if not self._per_s:
            return
        now_s = self._now_s()
        left, at_s = self._buckets.get(site, (self._depth, now_s))
        left = min(left + (now_s - at_s) * self._per_s, self._depth)
        if left < min(events, self._depth):
            self._buckets[site] = left, now_s
            raise TooMany(site, self._per_s, math.ceil((min(events, self._depth) - left) / self._per_s))
        self._buckets[site] = left - events, now_s

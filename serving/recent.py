"""What was popular in this process lately: the answer while there is no release at all."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Set
from contextlib import suppress

from stream.events import DecodeError, decode_event
from stream.log import Log, LogUnavailable, UnknownTopic
from stream.topics import EVENTS

RANKED = 1000
READ_OF_A_PARTITION = 2000


class RecentItems:
    """Counts the newest `kept` item ids posted to this process. Added to by one thread, read by any.

    withheld: keys of items that nobody is to be shown, for whoever shows the ranking.
    """

    def __init__(self, kept: int = 10_000, withheld: Set[int] = frozenset()) -> None:
        self.withheld = withheld
        self._newest: deque[str] = deque()
        self._counts: Counter[str] = Counter()
        self._kept = kept
        self._added = self._ranked_at = 0
        self._ranking: list[tuple[str, int]] = []

    def add(self, item_ids: Iterable[str]) -> None:
        for item in item_ids:
            self._newest.append(item)
            self._counts[item] += 1
            self._added += 1
        while len(self._newest) > self._kept:
            oldest = self._newest.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]

    def ranking(self) -> list[tuple[str, int]]:
        """Item ids with their counts, most first, the smaller id winning a tie. May miss the newest twentieth."""
        if self._added - self._ranked_at > len(self._newest) // 20:
            self._ranked_at = self._added
            counts = dict(self._counts)  # one step under the interpreter's lock, so that adding may go on
            self._ranking = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:RANKED]
        return self._ranking


def newest_items(log: Log) -> list[str]:
    """Items of the newest events in the log, so that a process that starts knows as much as one that was there.

    Empty while the log is away, or the topic.
    """
    items = []
    try:
        starts = log.start_offsets(EVENTS)
        for partition, end in log.end_offsets(EVENTS).items():
            first = max(starts[partition], end - READ_OF_A_PARTITION)
            for record in log.read(EVENTS, partition, first, READ_OF_A_PARTITION):
                with suppress(DecodeError):
                    event = decode_event(record.value)
                    items += [event.item_id] if event.item_id else []
    except (LogUnavailable, UnknownTopic):
        return []
    return items

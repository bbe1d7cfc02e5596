"""The figures of all workers at one moment, added up."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Metric

from serving.console.shapes import LiveAnswer, Spread
from serving.schemas import ReadyAnswer

KEPT_S = 0.5  # however many pages look, workers are asked twice a second
Sums = Mapping[str, float]


class LiveFigures:
    """Used by any thread.

    families: what the workers of this server count. ready: how store, log and consumers fare. Both may block.
    """

    def __init__(
        self, families: Callable[[], Iterable[Metric]], ready: Callable[[], ReadyAnswer], now_ms: Callable[[], int]
    ) -> None:
        self._families, self._ready, self._now_ms = families, ready, now_ms
        self._lock = threading.Lock()
        self._kept: LiveAnswer | None = None
        self._kept_at = float("-inf")

    def answer(self) -> LiveAnswer:
        """As of now, or of up to KEPT_S ago."""
        with self._lock:
            if self._kept is None or time.monotonic() >= self._kept_at + KEPT_S:
                self._kept = self._read()
                self._kept_at = time.monotonic()
            return self._kept

    def _read(self) -> LiveAnswer:
        sums: defaultdict[str, float] = defaultdict(float)
        spreads: defaultdict[str, defaultdict[float, float]] = defaultdict(lambda: defaultdict(float))
        for family in self._families():
            for sample in family.samples:
                if "le" in sample.labels:
                    spreads[sample.name][float(sample.labels["le"])] += sample.value
                elif sample.name == "ledstream_requests_total":
                    sums[f"answered {sample.labels['code'][:1]}"] += sample.value
                else:
                    sums[sample.name] += sample.value
        return LiveAnswer(
            at_ms=self._now_ms(),
            workers=int(sums.get("ledstream_workers", 1)),
            accepted=sums["ledstream_events_accepted_total"],
            rejected=sums["ledstream_events_rejected_total"],
            answers=sums["ledstream_answer_seconds_count"],
            refused=sums["answered 4"],
            failed=sums["answered 5"],
            cpu_seconds=sums.get("process_cpu_seconds_total"),
            memory_bytes=sums.get("process_resident_memory_bytes"),
            answer_seconds=_spread("ledstream_answer_seconds", spreads, sums),
            freshness_seconds=_spread("ledstream_freshness_seconds", spreads, sums),
            users=sums.get("ledstream_users"),
            lag=sums.get("ledstream_lag_records"),
            spool_bytes=sums.get("ledstream_spool_bytes"),
            state=self._ready(),
        )


def _spread(name: str, spreads: Mapping[str, Mapping[float, float]], sums: Sums) -> Spread | None:
    """None where no worker has the histogram."""
    buckets = sorted(spreads.get(f"{name}_bucket", {}).items())
    if not buckets:
        return None
    return Spread(
        count=sums.get(f"{name}_count", 0.0),
        sum=sums.get(f"{name}_sum", 0.0),
        at_most=[None if bound == float("inf") else bound for bound, _ in buckets],
        counts=[count for _, count in buckets],
    )

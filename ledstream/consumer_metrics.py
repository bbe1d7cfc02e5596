"""A consumer's numbers as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import Counter, Gauge, start_http_server

from ledstream.settings import Settings
from stream.loop import Progress
from stream.stages import Stages

GAUGES = {
    "lag_records": "Records not yet read, of this process's partitions",
    "lag_seconds": "Age of the newest record handled; 0 where nothing is left to read",
    "waiting": "1 while the store or the log is away",
    "last_turn_timestamp_seconds": "When the loop last went round",
}
COUNTERS = {
    "consumed": "Records read and handled",
    "batches": "Batches, of one partition each",
    "dead_letters": "Records nobody could read, kept as dead letters",
    "waits": "Times the loop waited for the store or the log",
    "commit_failures": "Commits that failed; the next one covers them",
    "rebalances": "Times partitions came or went",
    "rewinds": "Times the store was elsewhere than this process, which then read on from there",
    "remade": "Times a client of the log that had stalled was made anew",
    "lost": "Records that were deleted from the log before they were read",
}
TALLIES = {
    "applied": "Events that took effect",
    "duplicates": "Repeated sends, dropped",
    "replayed": "Records read again, dropped",
    "erased": "Erasures",
    "struck": "Strikes of single events",
    "damaged": "User records set aside because they did not read well",
    "overtaken": "User records that another process wrote first; folded again",
    "archived": "Events written to the archive",
    "files": "Files written to the archive",
    "items_put": "Items whose fields were replaced",
    "items_deleted": "Items deleted",
}
STAGES = {"seconds": "Seconds spent", "cpu_seconds": "Seconds of CPU spent"}


class ConsumerMetrics:
    """A loop's progress, and what its handler tells beside it, as Prometheus metrics; on its own port if one is set.

    tallies: counts by name, of those in TALLIES. stages: where the handler's time goes.
    """

    def __init__(
        self, settings: Settings, group: str, tallies: Callable[[], Mapping[str, int]], stages: Stages
    ) -> None:
        self.group, self._tallies, self._handling = group, tallies, stages
        self._gauges = {
            name: Gauge(f"ledstream_consumer_{name}", text, ["group"]).labels(group) for name, text in GAUGES.items()
        }
        self._counters = {
            name: Counter(f"ledstream_consumer_{name}", text, ["group"]).labels(group)
            for name, text in (COUNTERS | {name: TALLIES[name] for name in tallies()}).items()
        }
        self._stages = {
            name: Counter(f"ledstream_consumer_stage_{name}", f"{text} in a stage", ["group", "stage"])
            for name, text in STAGES.items()
        }
        self._shown: dict[tuple[str, ...], float] = {}
        if settings.metrics_port:
            start_http_server(settings.metrics_port, addr=settings.host)

    def show(self, progress: Progress) -> None:
        """Bring the metrics up to the progress."""
        tallies = self._tallies()
        for name, counter in self._counters.items():
            self._raise(counter, tallies[name] if name in tallies else getattr(progress, name), name)
        for kind, counter in self._stages.items():
            for stages in (progress.stages, self._handling):
                for stage, seconds in list(getattr(stages, kind).items()):
                    self._raise(counter.labels(self.group, stage), seconds, kind, stage)
        self._gauges["lag_records"].set(sum(progress.lag.values()))
        self._gauges["lag_seconds"].set(progress.lag_s)
        self._gauges["waiting"].set(progress.waiting_for is not None)
        self._gauges["last_turn_timestamp_seconds"].set(progress.ticked_at)

    def _raise(self, counter: Counter, value: float, *name: str) -> None:
        counter.inc(max(value - self._shown.get(name, 0), 0))
        self._shown[name] = value

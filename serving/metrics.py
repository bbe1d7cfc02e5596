"""The server's Prometheus metrics. What a request touches is a child found once; what is dear is read at a scrape."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.siblings import Siblings
from store.connection import StoreUnavailable
from stream.log import Log, LogUnavailable, UnknownTopic
from stream.stages import Stages
from stream.topics import EVENTS, ITEMS

TIMELINES_GROUP = "timelines"
GROUPS = (TIMELINES_GROUP, "archive")
CATALOGUE_GROUP = "catalogue"
TOPIC_OF = {CATALOGUE_GROUP: ITEMS}
SAMPLED_EVERY_S = 1.0
ANSWER_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
FRESHNESS_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What this process counts, and beside it what is the same whichever worker is asked.

    workers: folder in which the workers of this server find each other, so that a scrape of one shows all of them
    (`serving/siblings.py`); None for a process alone.
    """

    def __init__(self, workers: Path | None = None) -> None:
        self.registry, self._alike = CollectorRegistry(), CollectorRegistry()
        self._siblings = None if workers is None else Siblings(workers, str(os.getpid()), self.registry)
        ProcessCollector(registry=self.registry)
        requests = Counter("ledstream_requests", "Requests", ["endpoint", "code"], registry=self.registry)
        self.request: Callable[[str, int], Counter] = lru_cache(maxsize=1024)(requests.labels)
        self.answer_seconds = Histogram(
            "ledstream_answer_seconds", "From a question to its answer", buckets=ANSWER_BUCKETS, registry=self.registry
        )
        self.freshness_seconds = Histogram(
            "ledstream_freshness_seconds",
            "From a probe's acceptance to the end of the first answer that has it in",
            buckets=FRESHNESS_BUCKETS,
            registry=self.registry,
        )
        self.probes_lost = Counter("ledstream_probes_lost", "Probes the log did not take", registry=self.registry)
        self.batch_size = Histogram(
            "ledstream_batch_size", "Questions answered together", buckets=BATCH_BUCKETS, registry=self.registry
        )
        self.accepted = Counter("ledstream_events_accepted", "Events in the log", registry=self.registry)
        self.rejected = Counter("ledstream_events_rejected", "Events refused as invalid", registry=self.registry)
        self.release = Gauge("ledstream_release_info", "The current release", ["version"], registry=self.registry)
        self.swaps = Counter("ledstream_swaps", "Releases taken as current", registry=self.registry)
        self.swap_refused = Counter("ledstream_swap_refused", "Releases refused", registry=self.registry)

    def start(self) -> None:
        """From now on the other workers are answered."""
        if self._siblings is not None:
            self._siblings.start()

    def stop(self) -> None:
        """Returns when no other worker is answered any more."""
        if self._siblings is not None:
            self._siblings.stop()

    def swapped(self, version: str) -> None:
        """A release became current."""
        self.swaps.inc()
        self.release.clear()
        self.release.labels(version).set(1)

    def refused(self, version: str) -> None:  # noqa: ARG002  the reason is in /readyz and the log
        """A release was refused."""
        self.swap_refused.inc()

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A gauge read at a scrape, at most once a second; absent while what it asks is away."""
        self._alike.register(_Sampled(name, text, read))

    def watch_stages(self, stages: Stages) -> None:
        """Counters of the time spent in each stage."""
        self.registry.register(_Staged(stages))

    def exposition(self) -> bytes:
        """All of it in Prometheus's text format. Blocks while gauges are read and other workers asked."""
        return b"".join(generate_latest(registry) for registry in self._registries())

    def families(self) -> Iterator[Metric]:
        """The same as values, for who adds up instead of scraping."""
        for registry in self._registries():
            yield from registry.collect()

    def _registries(self) -> tuple[CollectorRegistry, CollectorRegistry]:
        counted = self.registry
        if self._siblings is not None:
            counted = CollectorRegistry()
            counted.register(self._siblings)
        return counted, self._alike


def lag(log: Log, group: str = TIMELINES_GROUP) -> float:
    """Records of the group's topic that its consumers have not committed."""
    topic = TOPIC_OF.get(group, EVENTS)
    done, starts = log.committed(topic, group), log.start_offsets(topic)
    return sum(end - max(done.get(number, 0), starts.get(number, 0)) for number, end in log.end_offsets(topic).items())


class _Sampled(Collector):
    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name, self._text, self._read = name, text, read
        self._value: float | None = None
        self._read_at = float("-inf")

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(self._name, self._text)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if time.monotonic() >= self._read_at + SAMPLED_EVERY_S:
            try:
                self._value = self._read()
            except (StoreUnavailable, LogUnavailable, UnknownTopic):
                self._value = None
            self._read_at = time.monotonic()
        if self._value is not None:
            yield GaugeMetricFamily(self._name, self._text, self._value)


class _Staged(Collector):
    def __init__(self, stages: Stages) -> None:
        self._stages = stages

    def collect(self) -> Iterator[CounterMetricFamily]:
        text = "Seconds spent in a stage of answering, those of waiting included"
        family = CounterMetricFamily("ledstream_answer_stage_seconds", text, labels=["stage"])
        for stage, seconds in dict(self._stages.seconds).items():
            family.add_metric([stage], seconds)
        yield family

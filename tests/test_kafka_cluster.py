"""Three real brokers, one of them killed under load: nothing acknowledged is lost, and all goes on by itself.

The long form (LEDSTREAM_TEST_LONG=1) kills broker and controller in turn, twenty times.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from stream.confluent_log import ConfluentLog
from stream.decoding import EventColumns
from stream.events import Event, encode_event
from stream.kafka_log import KafkaLog
from stream.log import Entry, Log, Position
from stream.loop import Loop
from stream.topics import EVENTS, topics
from tests.eventually import until
from tests.servers import KafkaCluster

SENDS_PER_S, SENDERS, PARTITIONS = 500, 4, 4
GOES_ON_WITHIN_S = 15.0
pytestmark = [pytest.mark.kafka, pytest.mark.faults]


class Load:
    """Sends numbered events at a steady rate, each until it is acknowledged, and remembers when which was."""

    def __init__(self, log: Log) -> None:
        self._log, self._stop, self._numbers = log, threading.Event(), itertools.count()
        self.acknowledged: dict[str, Position] = {}
        self.acknowledged_at = [[time.monotonic()] for _ in range(PARTITIONS)]
        self.refused = 0
        self._threads = [threading.Thread(target=self._send) for _ in range(SENDERS)]

    def start(self) -> None:
        for one in self._threads:
            one.start()

    def stop(self) -> None:
        self._stop.set()
        for one in self._threads:
            one.join()

    def _send(self) -> None:
        started, sent = time.monotonic(), 0
        while not self._stop.is_set():
            due = int((time.monotonic() - started) * SENDS_PER_S / SENDERS) - sent
            if due:
                sent += due
                self._send_until_stored([f"item-{next(self._numbers)}" for _ in range(due)])
            time.sleep(0.01)

    def _send_until_stored(self, items: list[str]) -> None:
        while items:
            entries = [
                Entry(user.encode(), encode_event(Event(user, item, "view", 1)), int(time.time() * 1000))
                for item in items
                for user in (f"user-{hash(item) % 1000}",)
            ]
            results = self._log.append(EVENTS, entries)
            stored = {item: result for item, result in zip(items, results, strict=True) if isinstance(result, Position)}
            self.acknowledged |= stored
            for partition in {at.partition for at in stored.values()}:
                self.acknowledged_at[partition].append(time.monotonic())
            items = [item for item in items if item not in stored]
            self.refused += len(items)


class Recorder:
    """A handler that remembers what it was given, and when."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int], str] = {}
        self.repeated = 0
        self.handled_at = [[time.monotonic()] for _ in range(PARTITIONS)]

    def assigned(self, _: int) -> int | None:
        return None

    def revoked(self, _: int) -> None:
        return None

    def handle(self, batches: Sequence[EventColumns]) -> Mapping[int, int]:
        for batch in batches:
            for offset, _, event in batch.rows():
                at = (batch.partition, offset)
                self.repeated += at in self.found
                assert self.found.setdefault(at, event.item_id) == event.item_id
            self.handled_at[batch.partition].append(time.monotonic())
        return {batch.partition: batch.next_offset for batch in batches}

    def drain(self) -> Mapping[int, int]:
        return {}


@contextmanager
def flowing(log: Log) -> Iterator[tuple[Load, Recorder, Loop[EventColumns]]]:
    """Events sent and consumed meanwhile; at the end all that was acknowledged has been read and committed."""
    for topic, partitions in topics(PARTITIONS).items():
        log.create_topic(topic, partitions)
    load, recorder, stop = Load(log), Recorder(), threading.Event()
    loop = Loop(log, EVENTS, "g", recorder, poll_timeout_s=0.2)
    died: list[BaseException] = []

    def consume() -> None:
        try:
            loop.run(stop)
        except BaseException as error:
            died.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    load.start()
    try:
        yield load, recorder, loop
    finally:
        load.stop()
        deadline = time.monotonic() + 30
        while not died and len(recorder.found) < len(load.acknowledged) and time.monotonic() < deadline:
            time.sleep(0.1)
        stop.set()
        consumer.join()
    assert not died
    missing = {item for item, at in load.acknowledged.items() if recorder.found.get((at.partition, at.offset)) != item}
    assert not missing, "acknowledged and not read"
    assert log.committed(EVENTS, "g") == log.end_offsets(EVENTS)


def longest_gap_s(times: list[list[float]], since: float) -> float:
    """For how long, at most, nothing happened in one of the partitions."""
    now = time.monotonic()
    return max(
        later - earlier for ours in times for earlier, later in itertools.pairwise([*ours, now]) if later >= since
    )


def wait_for_all(times: list[list[float]], after: float) -> None:
    """Until something happened in every partition."""
    until(lambda: all(ours[-1] > after for ours in times), 2 * GOES_ON_WITHIN_S)


@pytest.fixture(params=[KafkaLog, ConfluentLog], ids=["kafka-python", "confluent"])
def log(request: pytest.FixtureRequest, kafka_cluster: KafkaCluster, namespace: str) -> Iterator[Log]:
    made: Log = request.param(kafka_cluster.brokers, namespace, replication=3)
    yield made
    made.close()


def test_the_leader_of_a_partition_dies_under_load_and_nothing_acknowledged_is_lost(
    log: Log, kafka_cluster: KafkaCluster, namespace: str
) -> None:
    with flowing(log) as (load, recorder, loop):
        victim = kafka_cluster.leader(f"{namespace}.{EVENTS}", 0)
        killed_at = kill_and_go_on(kafka_cluster, victim, load, recorder)
        report(load, recorder, loop, killed_at)
        assert longest_gap_s(load.acknowledged_at, killed_at) < GOES_ON_WITHIN_S
        assert longest_gap_s(recorder.handled_at, killed_at) < GOES_ON_WITHIN_S
        kafka_cluster.restart(victim)


@pytest.mark.slow
@pytest.mark.skipif("LEDSTREAM_TEST_LONG" not in os.environ, reason="the long form: set LEDSTREAM_TEST_LONG")
def test_broker_and_controller_die_in_turn_twenty_times_and_nothing_acknowledged_is_lost(
    log: Log, kafka_cluster: KafkaCluster, namespace: str
) -> None:
    with flowing(log) as (load, recorder, loop):
        for turn in range(20):
            is_broker = turn % 2 == 0
            victim = kafka_cluster.leader(f"{namespace}.{EVENTS}", 0) if is_broker else kafka_cluster.controller()
            killed_at = kill_and_go_on(kafka_cluster, victim, load, recorder)
            print(f"{turn + 1}, the {'leader' if is_broker else 'controller'}:", end=" ")
            report(load, recorder, loop, killed_at)
            assert longest_gap_s(load.acknowledged_at, killed_at) < GOES_ON_WITHIN_S
            assert longest_gap_s(recorder.handled_at, killed_at) < GOES_ON_WITHIN_S
            kafka_cluster.restart(victim)


def kill_and_go_on(cluster: KafkaCluster, victim: int, load: Load, recorder: Recorder) -> float:
    """When it was killed; every partition was written to and read before and after."""
    for times in (load.acknowledged_at, recorder.handled_at):
        wait_for_all(times, after=time.monotonic())
    killed_at = time.monotonic()
    cluster.kill(victim)
    # The brokers miss it after nine seconds; what is in flight until then proves nothing.
    time.sleep(10)
    for times in (load.acknowledged_at, recorder.handled_at):
        wait_for_all(times, after=time.monotonic())
    return killed_at


def report(load: Load, recorder: Recorder, loop: Loop[EventColumns], since: float) -> None:
    """The figures, as JSON."""
    figures = {
        "acknowledged": len(load.acknowledged),
        "sent_again": load.refused,
        "read": len(recorder.found),
        "read_again": recorder.repeated,
        "no_acknowledgement_s": round(longest_gap_s(load.acknowledged_at, since), 2),
        "nothing_read_s": round(longest_gap_s(recorder.handled_at, since), 2),
        "commit_failures": loop.progress.commit_failures,
        "waits": loop.progress.waits,
        "remade": loop.progress.remade,
        "lost": loop.progress.lost,
    }
    print(json.dumps(figures))

"""What others do to a topic while real consumers are at work, or away: each has its one outcome, and no event two."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from ledstream import rebuild_command
from stream.events import Event, encode_event, item_key
from stream.kafka_log import KafkaLog
from stream.log import Entry, Position
from stream.topics import EVENTS
from tests.eventually import until
from tests.processes import Processes
from tests.servers import KafkaServer

USERS = 100
pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.slow]


@pytest.fixture
def processes(kafka_server: KafkaServer, redis_address: str, namespace: str, tmp_path: Path) -> Iterator[Processes]:
    address = f"kafka://{kafka_server.bootstrap}"
    with Processes(address, redis_address, namespace, tmp_path) as processes:
        yield processes


@pytest.fixture
def administrator(kafka_server: KafkaServer) -> Iterator[Any]:
    client: Any = KafkaAdminClient(bootstrap_servers=kafka_server.bootstrap)
    yield client
    client.close()


def viewed(numbers: range) -> list[Event]:
    """An item of its own in every event, its number; users by turns."""
    now_ms = int(time.time() * 1000)
    return [Event(f"user-{n % USERS}", f"item-{n}", "view", now_ms, f"event-{n}") for n in numbers]


def items_of(processes: Processes, user: int) -> list[int]:
    """Keys of the user's items, in the order they took effect."""
    keys: list[int] = processes.record(f"user-{user}").timeline["item"].tolist()
    return keys


def keys_of(numbers: range, user: int) -> list[int]:
    return [item_key(f"item-{n}") for n in numbers if n % USERS == user]


class Flow:
    """Events 0, 1, 2, … sent from a thread, each until it is acknowledged. partitions: where they went."""

    def __init__(self, log: KafkaLog) -> None:
        self._log, self._stop, self._numbers = log, threading.Event(), count(0, 20)
        self._thread = threading.Thread(target=self._run)
        self.sent = 0
        self.partitions: set[int] = set()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            first = next(self._numbers)
            waiting = [
                Entry(event.user_id.encode(), encode_event(event), event.time_ms)
                for event in viewed(range(first, first + 20))
            ]
            while waiting:
                results = self._log.append(EVENTS, waiting)
                self.partitions |= {result.partition for result in results if isinstance(result, Position)}
                waiting = [e for e, result in zip(waiting, results, strict=True) if not isinstance(result, Position)]
            self.sent = first + 20

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        yield
        self._stop.set()
        self._thread.join()


def test_partitions_added_while_events_flow_cost_no_event_and_count_none_twice(
    processes: Processes, administrator: Any, kafka_server: KafkaServer, namespace: str
) -> None:
    log = KafkaLog([kafka_server.bootstrap], namespace, metadata_max_age_s=2.0)
    flow = Flow(log)
    consumers = [processes.consumer(name) for name in ("one", "other")]
    with flow.running():
        until(lambda: flow.sent > 200 and processes.lag() < 100, 60)
        administrator.create_partitions({processes.topic: 4})
        until(lambda: flow.partitions == {0, 1, 2, 3}, 60)
        until(lambda: processes.log.partitions(EVENTS) == 4 and processes.lag() < 100, 90)
    processes.settle()
    log.close()
    for user in range(USERS):
        assert Counter(items_of(processes, user)) == Counter(keys_of(range(flow.sent), user))
    assert [one.end() for one in consumers] == [0, 0]


def test_a_topic_made_again_ends_the_consumers_with_a_sentence_and_is_read_from_its_start_when_they_are_back(
    processes: Processes, administrator: Any
) -> None:
    consumers = [processes.consumer(name) for name in ("one", "other")]
    processes.send(viewed(range(2000)))
    processes.settle()
    old = processes.log.identity(EVENTS)
    administrator.delete_topics([processes.topic])
    until(lambda: is_made_again(processes, old), 60)
    until(lambda: is_sent(processes, range(2000, 3000)), 60)
    for one in consumers:
        assert one.wait(60) == 2
        assert "events is gone" in one.last_words or "topic events does not exist" in one.last_words
        assert "Traceback" not in one.log.read_text()
        one.start()
    processes.settle()
    for user in range(USERS):
        assert items_of(processes, user) == keys_of(range(3000), user)
    for one in consumers:  # one may have done all of it while the other still started
        until(one.answers)
    assert [one.end() for one in consumers] == [0, 0]


def is_made_again(processes: Processes, old: int) -> bool:
    """As soon as the brokers have forgotten the old one; a consumer that is started meanwhile does it too."""
    processes.log.create_topic(EVENTS, 2)
    return processes.log.identity(EVENTS) != old


def is_sent(processes: Processes, numbers: range) -> bool:
    """Once the first of them is acknowledged, the others are."""
    processes.send(viewed(numbers[:1]))
    processes.send(viewed(numbers[1:]))
    return True


def test_records_deleted_while_the_consumer_was_away_are_reported_as_lost_once_and_reading_goes_on(
    processes: Processes, administrator: Any
) -> None:
    consumer = processes.consumer("one")
    processes.send(viewed(range(1000)))
    processes.settle()
    assert consumer.end() == 0
    processes.send(viewed(range(1000, 3000)))
    at = processes.positions()
    starts = {number: position + 400 for number, position in enumerate(at)}
    administrator.delete_records({TopicPartition(processes.topic, n): start for n, start in starts.items()})
    consumer.start()
    processes.settle()
    processes.send(viewed(range(3000, 3100)))
    processes.settle()
    until(lambda: consumer.asked("lost") == 800, 60)
    assert consumer.end() == 0
    text = consumer.log.read_text()
    for number, position in enumerate(at):
        assert text.count(f"partition {number}: records {position} to {starts[number] - 1} were deleted unread") == 1
    assert sum(processes.record(f"user-{user}").applied for user in range(USERS)) == 3100 - 800


def test_a_log_that_lost_what_was_read_ends_the_consumer_with_a_sentence_until_the_records_are_rebuilt(
    processes: Processes, kafka_server: KafkaServer
) -> None:
    consumer = processes.consumer("one")
    processes.send(viewed(range(1000)))
    processes.settle()
    kafka_server.kill()
    kafka_server.forget(processes.topic, 0)
    kafka_server.start()
    assert consumer.wait(60) == 2
    consumer.start()  # what is gone does not come back by trying again
    assert consumer.wait(60) == 2
    assert "the log ends at 0, and of those before it some are gone: begin anew" in consumer.last_words
    assert rebuild_command.run(processes.settings, "log") == 0
    consumer.start()
    processes.settle()
    processes.send(viewed(range(1000, 1100)))
    processes.settle()
    assert consumer.end() == 0

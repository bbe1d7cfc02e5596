"""What a record costs to read from Kafka: the bare client, and both clients through our contract, in one run.

    python -m bench.kafka_clients [--records 1000000] [--batch 10000] [--partitions 4] [--rounds 3]

Starts a broker of its own (Java), fills a topic with events of about 60 bytes, and reads it again and again from the
start, one way after the other. JSON on the last line; CPU is that of this process, all its threads.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from kafka import KafkaConsumer

from stream.confluent_log import ConfluentLog
from stream.events import Event, encode_event
from stream.kafka_base import KafkaBase
from stream.kafka_log import KafkaLog
from stream.log import Entry
from stream.topics import EVENTS
from tests.servers import KafkaServer

NAMESPACE = "bench"


class Cost(NamedTuple):
    """Of one reading of the topic."""

    cpu_us: float
    wall_us: float
    records_per_poll: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        server = KafkaServer(Path(folder) / "kafka")
        server.start()
        try:
            fill(server.bootstrap, options.records, options.partitions)
            ways: dict[str, Callable[[], Iterator[int]]] = {
                "bare kafka-python": lambda: bare(server.bootstrap, options.batch),
                "kafka-python": lambda: through(KafkaLog([server.bootstrap], NAMESPACE), options.batch),
                "confluent": lambda: through(ConfluentLog([server.bootstrap], NAMESPACE), options.batch),
            }
            costs: dict[str, list[Cost]] = {name: [] for name in ways}
            for _ in range(options.rounds):
                for name, way in ways.items():
                    costs[name].append(cost(way(), options.records))
                    print(f"{name:18} {costs[name][-1]}")
        finally:
            server.kill()
    cpu_us = {name: round(median(one.cpu_us for one in found), 2) for name, found in costs.items()}
    print(f"{platform.machine()}, Python {platform.python_version()}, {vars(options)}")
    print(
        json.dumps(
            {
                "cpu_us_a_record": cpu_us,
                "ours_to_bare": round(cpu_us["kafka-python"] / cpu_us["bare kafka-python"], 2),
                "kafka_python_to_confluent": round(cpu_us["kafka-python"] / cpu_us["confluent"], 2),
            }
        )
    )


def fill(bootstrap: str, records: int, partitions: int) -> None:
    """By the quicker client: it is reading that is measured."""
    log = ConfluentLog([bootstrap], NAMESPACE)
    log.create_topic(EVENTS, partitions)
    for first in range(0, records, 20_000):
        events = [
            Event(f"user-{n % 50_021:06d}", f"item-{n % 9_973:05d}", "view", 1_700_000_000_000 + n, f"e{n:08x}")
            for n in range(first, min(first + 20_000, records))
        ]
        log.append(EVENTS, [Entry(event.user_id.encode(), encode_event(event), event.time_ms) for event in events])
    log.close()


def bare(bootstrap: str, batch: int) -> Iterator[int]:
    """Records by poll, of the client as it comes."""
    consumer: Any = KafkaConsumer(
        f"{NAMESPACE}.{EVENTS}",
        bootstrap_servers=bootstrap,
        group_id=f"bare-{time.monotonic()}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        metrics_enabled=False,
    )
    while True:
        try:
            yield sum(map(len, consumer.poll(timeout_ms=200, max_records=batch).values()))
        except GeneratorExit:
            consumer.close()
            return


def through(log: KafkaBase, batch: int) -> Iterator[int]:
    """Records by poll, through the contract."""
    reader = log.reader(EVENTS, f"ours-{time.monotonic()}")
    while True:
        try:
            yield sum(map(len, reader.poll(max_records=batch, timeout_s=0.2)))
        except GeneratorExit:
            reader.close()
            log.close()
            return


def cost(polls: Iterator[int], records: int) -> Cost:
    """From the first records on, until all are read: joining the group is no part of it."""
    first = next(how_many for how_many in polls if how_many)
    cpu_s, wall_s, read, times = time.process_time(), time.perf_counter(), 0, 0
    for how_many in polls:
        read += how_many
        times += how_many > 0
        if first + read >= records:
            break
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    polls.close()  # type: ignore[attr-defined]
    return Cost(round(cpu_s / read * 1e6, 2), round(wall_s / read * 1e6, 2), round(read / times))


if __name__ == "__main__":
    main()

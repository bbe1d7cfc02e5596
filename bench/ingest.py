"""Events from the log into user records: `ledstream consume timelines` against the bare client reading the same topic.

python -m bench.ingest --log kafka --events 5000000
python -m bench.ingest --log redis --events 1000000
python -m bench.ingest --processes 2 --events 2000000

The consumer, and before it the bare client, has the first core alone; the servers have the second. With two processes
everybody shares both, and their CPU says what more cores would give.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from bench.ingest_world import Visits, append, fill
from bench.report import closing, opening
from bench.scraped import scraped
from bench.world import model, servers
from ledstream import parts
from ledstream.settings import Settings, read_settings
from store.connection import connect
from store.user_record import source_of
from stream.announcements import announce
from stream.backends import open_log
from stream.topics import EVENTS, topics
from tests.servers import free_ports

SAMPLE_EVERY_S = 0.25
WARM_AFTER, LIMIT_S = 0.02, 1800.0
STAGES = ("poll", "decode", "group", "read", "fold", "write", "advance", "commit")


@dataclass
class Sample:
    """What the consumers say of themselves at one moment, summed. stages: (wall, CPU) seconds by name."""

    at: float
    cpu_s: float
    consumed: float
    batches: float
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)


def main() -> None:
    chosen = _arguments()
    opening("bench.ingest", vars(chosen))
    alone = chosen.processes == 1 and (os.cpu_count() or 1) > 1
    with ExitStack() as stack:
        with _pinned({1} if alone else None):
            log_at, store_at, folder = stack.enter_context(servers(kafka=chosen.log == "kafka", tcp=True))
        given = {"log": log_at, "store": store_at, "data_dir": folder, "kafka_client": chosen.client}
        settings = read_settings({}, given)
        users_before, used_before = _prepare(settings, chosen)
        core = {0} if alone else None
        before_s = _bare(settings, chosen, core)
        first, last = _consume(settings, chosen, core)
        bare_s = (before_s + _bare(settings, chosen, core)) / 2  # a shared machine is not as fast at every minute
        client = connect(store_at, timeout_s=30)
        users = parts.user_states(settings, client).count()
        used = int(client.info("memory")["used_memory"])
    events, seconds = last.consumed - first.consumed, last.at - first.at
    per_s, bare_per_s = events / seconds, chosen.events / bare_s
    _show_stages(first, last, events)
    batch = events / (last.batches - first.batches)
    print(f"bare poll {bare_per_s:,.0f}/s, consumed {per_s:,.0f}/s, {users_before:,} users before and {users:,} after")
    closing(
        {
            "log": chosen.log,
            "client": chosen.client,
            "processes": chosen.processes,
            "events": chosen.events,
            "events_per_s": round(per_s),
            "bare_poll_per_s": round(bare_per_s),
            "ratio_to_bare": round(per_s / bare_per_s, 3),
            "cpu_us_per_event": round((last.cpu_s - first.cpu_s) / events * 1e6, 2),
            "events_per_batch": round(batch),
            "stages_us": {name: round(wall / events * 1e6, 2) for name, (wall, _) in _spent(first, last).items()},
            "stages_cpu_us": {name: round(cpu / events * 1e6, 2) for name, (_, cpu) in _spent(first, last).items()},
            "bytes_per_user": round((used - used_before) / users),
            "users": users,
        }
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", choices=("kafka", "redis"), default="kafka")
    parser.add_argument("--client", choices=("kafka-python", "confluent"), default="kafka-python")
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--users", type=int, default=1_000_000, help="in the store before the first event")
    parser.add_argument("--share-known", type=float, default=0.6, help="of the events; the others are of new users")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _prepare(settings: Settings, chosen: argparse.Namespace) -> tuple[int, int]:
    """A release, a store full of users, a log full of visits; returns the users and the bytes of the empty store."""
    client = connect(settings.store, timeout_s=30)
    used = int(client.info("memory")["used_memory"])
    log = open_log(settings.log, settings.namespace, kafka_client="confluent")  # which fills a topic many times faster
    for topic, partitions in topics(settings.partitions).items():
        log.create_topic(topic, partitions)
    now_ms = int(time.time() * 1000)
    releases = parts.releases(settings)
    version = releases.publish(model(chosen.items, chosen.dim, chosen.seed), now_ms=now_ms)
    announce(log, version, now_ms)
    states = parts.user_states(settings, client)
    release = releases.load(version, with_index=False)
    sources = [source_of(log.identity(EVENTS), number) for number in range(settings.partitions)]
    fill(states, release, chosen.users, chosen.seed, sources=sources, before_ms=now_ms - 10**8)
    start_ms = now_ms - chosen.events // 10
    started = time.perf_counter()
    visits = Visits(chosen.events, chosen.users, chosen.items, chosen.share_known, chosen.seed)
    append(log, visits, start_ms=start_ms)
    print(f"appended {chosen.events / (time.perf_counter() - started):,.0f}/s, generated as they went", flush=True)
    log.close()
    return states.count(), used


def _bare(settings: Settings, chosen: argparse.Namespace, core: set[int] | None) -> float:
    """Seconds the client takes to read the topic in a process of its own: nothing decoded, stored or committed."""
    context = multiprocessing.get_context("spawn")
    answer: Any = context.Queue()
    process = context.Process(target=_read_bare, args=(settings, chosen.events, core, answer))
    process.start()
    seconds: float = answer.get(timeout=LIMIT_S)
    process.join()
    return seconds


def _read_bare(settings: Settings, count: int, core: set[int] | None, answer: Any) -> None:
    with _pinned(core):
        seconds = _poll_kafka(settings, count) if settings.log.startswith("kafka") else _poll_log(settings, count)
    answer.put(seconds)


def _poll_kafka(settings: Settings, count: int) -> float:
    """kafka-python with its own defaults, whichever client the consumer uses."""
    topic = f"{settings.namespace}.{EVENTS}"
    places = [TopicPartition(topic, number) for number in range(settings.partitions)]
    bootstrap = settings.log.removeprefix("kafka://")
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest")
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    started, read = time.perf_counter(), 0
    while read < count:
        polled: Mapping[object, list[object]] = consumer.poll(timeout_ms=1000, max_records=5000)
        read += sum(map(len, polled.values()))
    seconds = time.perf_counter() - started
    consumer.close()
    return seconds


def _poll_log(settings: Settings, count: int) -> float:
    log = open_log(settings.log, settings.namespace)
    reader = log.reader(EVENTS, "bare")
    started, read = time.perf_counter(), 0
    while read < count:
        read += sum(map(len, reader.poll(max_records=5000, timeout_s=1.0)))
    seconds = time.perf_counter() - started
    reader.close()
    return seconds


def _consume(settings: Settings, chosen: argparse.Namespace, core: set[int] | None) -> tuple[Sample, Sample]:
    """Two moments of the consumers' work: warm, and all but done."""
    ports = free_ports(chosen.processes)
    with ExitStack() as stack:
        pids = [stack.enter_context(_consumer(settings, port, core)) for port in ports]
        first, limit = None, time.monotonic() + LIMIT_S
        while time.monotonic() < limit:
            time.sleep(SAMPLE_EVERY_S)
            now = _sample(pids, ports)
            if first is None and now.consumed > WARM_AFTER * chosen.events:
                first = now
            if first is not None and now.consumed >= chosen.events:
                return first, now
    raise RuntimeError(f"{now.consumed:,.0f} of {chosen.events:,} events in {LIMIT_S:.0f} s")


@contextmanager
def _consumer(settings: Settings, port: int, core: set[int] | None) -> Iterator[int]:
    names = ("log", "store", "data_dir", "kafka_client")
    given = {f"LEDSTREAM_{name.upper()}": str(getattr(settings, name)) for name in names}
    environment = os.environ | given | {"LEDSTREAM_METRICS_PORT": str(port), "OPENBLAS_NUM_THREADS": "1"}
    with _pinned(core):
        process = subprocess.Popen(
            [sys.executable, "-m", "ledstream", "consume", "timelines"], env=environment, cwd=Path(__file__).parents[1]
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def _sample(pids: list[int], ports: list[int]) -> Sample:
    now = Sample(time.perf_counter(), sum(map(_cpu_seconds, pids)), 0, 0)
    for port in ports:
        for name, labels, value, *_ in scraped(port):
            stage = labels.get("stage", "")
            wall, cpu = now.stages.get(stage, (0.0, 0.0))
            match name.removeprefix("ledstream_consumer_"):
                case "consumed_total":
                    now.consumed += value
                case "batches_total":
                    now.batches += value
                case "stage_seconds_total":
                    now.stages[stage] = wall + value, cpu
                case "stage_cpu_seconds_total":
                    now.stages[stage] = wall, cpu + value
    return now


def _cpu_seconds(pid: int) -> float:
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def _spent(first: Sample, last: Sample) -> dict[str, tuple[float, float]]:
    none = (0.0, 0.0)
    ends = ((stage, first.stages.get(stage, none), last.stages.get(stage, none)) for stage in STAGES)
    return {stage: (to[0] - since[0], to[1] - since[1]) for stage, since, to in ends}


def _show_stages(first: Sample, last: Sample, events: float) -> None:
    print("µs an event      wall     CPU")
    for stage, (wall, cpu) in _spent(first, last).items():
        print(f"  {stage:10} {wall / events * 1e6:9.2f} {cpu / events * 1e6:7.2f}")


@contextmanager
def _pinned(cores: set[int] | None) -> Iterator[None]:
    """On these cores alone, with what is started meanwhile; where the system knows no such thing, anywhere."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    main()

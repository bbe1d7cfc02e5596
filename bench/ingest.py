"""Events from the log into user records: one consumer, against the bare client reading the same topic.

python -m bench.ingest --log kafka --events 300000
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable

from bench.report import closing, opening
from bench.world import events, model, servers
from consumers.timelines import GROUP, TimelineConsumer
from ledstream import parts
from ledstream.settings import Settings, read_settings
from stream.backends import open_log
from stream.events import encode_event
from stream.log import Entry, Log
from stream.loop import Loop, Progress
from stream.topics import EVENTS, topics

AT_ONCE = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", choices=("kafka", "redis"), default="kafka")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    opening("bench.ingest", vars(chosen))
    with servers(kafka=chosen.log == "kafka") as (log_address, store_address, folder):
        settings = read_settings({}, {"log": log_address, "store": store_address, "data_dir": folder})
        log = open_log(log_address, settings.namespace)
        for topic, partitions in topics(settings.partitions).items():
            log.create_topic(topic, partitions)
        append_s = _timed(lambda: _append(log, chosen))
        bare_s = _timed(lambda: _read_bare(log, chosen.events))
        apply_s, cpu_s = _apply(log, settings, chosen)
        client = parts.open_store(settings)
        states = parts.user_states(settings, client)
        users = states.count()
        used = int(client.info("memory")["used_memory"])
        log.close()
    per_s, bare_per_s = chosen.events / apply_s, chosen.events / bare_s
    print(f"append {chosen.events / append_s:,.0f}/s, bare poll {bare_per_s:,.0f}/s, apply {per_s:,.0f}/s")
    closing(
        {
            "log": chosen.log,
            "events_per_s": round(per_s),
            "bare_poll_per_s": round(bare_per_s),
            "ratio_to_bare": round(per_s / bare_per_s, 3),
            "cpu_us_per_event": round(cpu_s / chosen.events * 1e6, 2),
            "users": users,
            "store_used_mb": round(used / 1e6, 1),
        }
    )


def _append(log: Log, chosen: argparse.Namespace) -> None:
    start_ms = int(time.time() * 1000) - chosen.events
    waiting = []
    for event in events(chosen.events, users=chosen.users, items=chosen.items, seed=chosen.seed, start_ms=start_ms):
        waiting.append(Entry(event.user_id.encode(), encode_event(event), event.time_ms))
        if len(waiting) == AT_ONCE:
            _append_all(log, waiting)
            waiting = []
    _append_all(log, waiting)


def _append_all(log: Log, entries: list[Entry]) -> None:
    for outcome in log.append(EVENTS, entries) if entries else []:
        if isinstance(outcome, Exception):
            raise outcome


def _read_bare(log: Log, count: int) -> None:
    """The client's own poll loop: nothing decoded, nothing stored, nothing committed."""
    reader = log.reader(EVENTS, "bare")
    read = 0
    while read < count:
        read += sum(len(batch.records) for batch in reader.poll(max_records=5000, timeout_s=1.0))
    reader.close()


def _apply(log: Log, settings: Settings, chosen: argparse.Namespace) -> tuple[float, float]:
    """Seconds, and seconds of this process's CPU, until the consumer has applied everything."""
    releases = parts.releases(settings)
    version = releases.publish(model(chosen.items, chosen.dim, chosen.seed), now_ms=int(time.time() * 1000))
    release = releases.load(version, with_index=False)
    states = parts.user_states(settings, parts.open_store(settings))
    handler = TimelineConsumer(states, lambda: release, log.identity(EVENTS), max_events=settings.timeline_events)
    stop = threading.Event()

    def enough(progress: Progress) -> None:
        if progress.consumed >= chosen.events:
            stop.set()

    loop = Loop(log, EVENTS, GROUP, handler, max_records=5000, on_tick=enough)
    cpu = time.process_time()
    seconds = _timed(lambda: loop.run(stop))
    assert handler.counts.applied == chosen.events, handler.counts
    return seconds, time.process_time() - cpu


def _timed(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

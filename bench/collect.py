"""Events a second that the collector takes, with Kafka on the same box: in batches of 100, and one by one.

    python -m bench.collect --workers 2

Closed loop: so many connections, each of which sends its next post once the one before is answered (h2load, one
process for each of four bodies, whose users lie in different partitions). Then at a rate, come what may (oha, latencies
counted from when a post was due). Every accepted event is acknowledged by the broker before its 202; at the end they
are counted there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.load import need
from bench.report import closing, opening, percentiles_ms
from bench.server import cpu_seconds, serving
from bench.world import servers
from ledstream import parts
from ledstream.own_system import free_port
from ledstream.settings import Settings, read_settings
from stream.log import Log
from stream.topics import EVENTS

BODIES = 4


@dataclass(frozen=True)
class Run:
    """events_per_s: of those answered 202. cpu_us: of the server, for an event. failed: posts answered otherwise."""

    events_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    failed: int

    def __str__(self) -> str:
        told = f"{self.events_per_s:,.0f} events/s, {self.cpu_us:.0f} µs of CPU an event"
        return f"{told}, post p50 {self.p50_ms:.2f} p99 {self.p99_ms:.2f} ms, {self.failed} failed"


def main() -> None:
    chosen = _arguments()
    need("h2load", "oha")
    opening("bench.collect", vars(chosen))
    figures: dict[str, object] = {"workers": chosen.workers, "log": chosen.log, "client": chosen.client}
    with servers(kafka=chosen.log == "kafka") as (log_address, store_address, folder):
        flags = {"log": log_address, "store": store_address, "data_dir": folder, "workers": chosen.workers}
        flags["kafka_client"] = chosen.client
        settings = read_settings({}, flags | {"port": free_port("127.0.0.1", 0), "partitions": 4})
        log = parts.open_log(settings)
        with serving(settings) as pid:
            for size, posts, rate in ((100, chosen.posts, chosen.rate // 100), (1, chosen.singles, chosen.rate_single)):
                bodies = [_body(folder, size, number) for number in range(BODIES)]
                _closed(settings, pid, bodies, (max(posts // 5, chosen.connections), chosen.connections, size))
                runs = [
                    _counted(log, settings, pid, bodies, (posts, chosen.connections, size)) for _ in range(chosen.runs)
                ]
                at_rate = _at_rate(settings, pid, bodies[0], (rate, chosen.rate_s, size))
                print(f"batches of {size}, at {rate} posts/s: {at_rate}", flush=True)
                median = statistics.median(run.events_per_s for run in runs)
                middle = min(runs, key=lambda run: abs(run.events_per_s - median))
                figures |= {f"of_{size}_{name}": round(value, 2) for name, value in vars(middle).items()}
                figures[f"of_{size}_at_{rate}_p99_ms"] = at_rate.p99_ms
        log.close()
    closing(figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", choices=("kafka", "redis"), default="kafka")
    parser.add_argument("--client", choices=("kafka-python", "confluent"), default="kafka-python")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", type=int, default=128, help="of each kind of run")
    parser.add_argument("--posts", type=int, default=3000, help="of 100 events, in each run")
    parser.add_argument("--singles", type=int, default=60_000, help="posts of one event, in each run")
    parser.add_argument("--runs", type=int, default=3, help="the median is reported")
    parser.add_argument("--rate", type=int, default=10_000, help="events a second in batches, of the open loop")
    parser.add_argument("--rate-single", type=int, default=2_500, help="events a second one by one")
    parser.add_argument("--rate-s", type=float, default=10)
    return parser.parse_args()


def _body(folder: Path, size: int, number: int) -> Path:
    """A file with a post. Events have no ids: each time they are sent they are others."""
    events = [
        {
            "user_id": f"user-{number}-{place}",
            "item_id": f"item-{place:05}",
            "kind": "view",
            "context": {"page": "home"},
        }
        for place in range(size)
    ]
    path = folder / f"post-{size}-{number}.json"
    path.write_bytes(orjson.dumps(events if size > 1 else events[0]))
    return path


def _counted(log: Log, settings: Settings, pid: int, bodies: Sequence[Path], load: tuple[int, int, int]) -> Run:
    """As `_closed`; ends the program where the log does not hold as many events more."""
    before = sum(log.end_offsets(EVENTS).values())
    run = _closed(settings, pid, bodies, load)
    stored, sent = sum(log.end_offsets(EVENTS).values()) - before, (load[0] // BODIES * BODIES - run.failed) * load[2]
    if stored < sent:
        raise SystemExit(f"{sent:,} events were answered 202, and {stored:,} are in the log")
    print(f"batches of {load[2]}: {run}", flush=True)
    return run


def _closed(settings: Settings, pid: int, bodies: Sequence[Path], load: tuple[int, int, int]) -> Run:
    """load: posts, connections, events in a post."""
    posts, connections, size = load
    cpu = cpu_seconds(pid)
    with ExitStack() as stack:
        programs = []
        for body in bodies:
            log = body.with_suffix(".log")
            log.unlink(missing_ok=True)
            command = ["h2load", "--h1", "-t1", f"-c{connections // BODIES}", f"-n{posts // BODIES}", f"-d{body}"]
            command += [f"--log-file={log}", "-H", "content-type: application/json", _url(settings)]
            programs.append(stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL)))
        if any(program.wait() for program in programs):
            raise SystemExit("h2load failed")
    cpu = cpu_seconds(pid) - cpu
    lines = [line.split() for body in bodies for line in body.with_suffix(".log").read_text().splitlines()]
    begun, ended = min(int(line[0]) for line in lines), max(int(line[0]) + int(line[2]) for line in lines)
    good = [int(line[2]) / 1e6 for line in lines if line[1] == "202"]
    told = percentiles_ms(good)
    per_s = len(good) * size / (ended - begun) * 1e6
    return Run(per_s, cpu / max(len(good) * size, 1) * 1e6, told["p50_ms"], told["p99_ms"], len(lines) - len(good))


def _at_rate(settings: Settings, pid: int, body: Path, load: tuple[int, float, int]) -> Run:
    """load: posts a second, seconds, events in a post."""
    per_s, seconds, size = load
    command = ["oha", "--no-tui", "--output-format", "json", "--latency-correction", "-m", "POST", "-D", str(body)]
    command += ["-q", str(per_s), "-z", f"{seconds:g}s", "-c", "32", "-w", "-T", "application/json", _url(settings)]
    cpu = cpu_seconds(pid)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu = cpu_seconds(pid) - cpu
    told = json.loads(done.stdout)
    statuses = {status: int(count) for status, count in told["statusCodeDistribution"].items()}
    good, percentiles = statuses.pop("202", 0), told["latencyPercentiles"]
    failed = sum(statuses.values()) + sum(told.get("errorDistribution", {}).values())
    rate, cpu_us = good * size / told["summary"]["total"], cpu / max(good * size, 1) * 1e6
    return Run(rate, cpu_us, round(1000 * percentiles["p50"], 2), round(1000 * percentiles["p99"], 2), failed)


def _url(settings: Settings) -> str:
    return f"http://{settings.host}:{settings.port}/v1/events"


if __name__ == "__main__":
    main()

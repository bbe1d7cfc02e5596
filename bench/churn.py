"""Users who come once and never return: whether memory, throughput and latency stay where they are.

    python -m bench.churn --minutes 20
    python -m bench.churn --minutes 20 --log kafka

Visitors come at a steady rate, have three events on average, a second apart, and are never seen again. Their records
expire after the run's length divided by --churn, so that ten times as many users come as are alive at any moment. Log
and store are servers of their own (the log is trimmed as ever), the consumer is a real `ledstream consume timelines`.
A third of the run is warm-up: by then records expire, the log is trimmed (at the default rate, after 150 s) and caches
are full.

drift_percent is what a line by least squares through the rest rises over it, in percent of the mean; spread_percent the
largest sample less the smallest. Latency runs from the log's acknowledgement of a new user's event to the record in the
store, asked for every millisecond. Exits 1 unless the memory of store and consumer drifts by 1 % at most, throughput of
the last third is within 1 % of the second's, and its median latency at most half above.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.churn_traffic import LEAVES, Probes, Visitors
from bench.report import closing, opening, percentiles_ms
from bench.scraped import scraped
from bench.world import model
from ledstream import parts
from ledstream.settings import Settings, read_settings
from store.connection import connect
from store.embedded import EmbeddedStore
from stream.announcements import announce
from tests.servers import KafkaServer, free_ports

ROOT = Path(__file__).parents[1]
SAMPLE_EVERY_S, TOLD_EVERY = 2.0, 15
WARM_UP = 1 / 3
FLAT_PERCENT, LATENCY_MAY_GROW = 1.0, 1.5
WATCHED = ("store_bytes", "store_rss", "log_bytes", "users", "consumer_rss")
HELD_TO = ("store_bytes", "consumer_rss")

F64 = npt.NDArray[np.float64]


class Sample(NamedTuple):
    """One moment. at: seconds of the monotonic clock. users: keys in the store, expired ones included."""

    at: float
    store_bytes: int
    store_rss: int
    log_bytes: int
    users: int
    consumer_rss: float
    applied: float
    lag: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", choices=("kafka", "redis"), default="redis")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=int, default=3000, help="events a second")
    parser.add_argument("--churn", type=float, default=10.0, help="users who come, for each one alive at a time")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    opening("bench.churn", vars(chosen))
    seconds = 60 * chosen.minutes
    with ExitStack() as stack:
        settings = _servers(stack, chosen, idle_after_s=max(2, round(seconds / chosen.churn)))
        _publish(settings, chosen)
        stack.enter_context(_consumer(settings))
        visitors = stack.enter_context(Visitors(settings, chosen.rate, chosen.items, chosen.seed))
        probes = stack.enter_context(Probes(settings))
        samples = _sampled(settings, seconds, chosen.log)
    figures = _figures(chosen, samples, visitors, probes)
    closing(figures)
    return 0 if figures["flat"] else 1


def _servers(stack: ExitStack, chosen: argparse.Namespace, idle_after_s: int) -> Settings:
    """Fresh ones, and the settings of everybody."""
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="ledstream-bench-")))
    store = stack.enter_context(EmbeddedStore(folder / "store"))
    if chosen.log == "kafka":
        broker = KafkaServer(folder / "kafka")
        broker.start()
        stack.callback(broker.stop)
        log = f"kafka://{broker.bootstrap}"
    else:
        log = stack.enter_context(EmbeddedStore(folder / "log")).address
    given = {"log": log, "store": store.address, "data_dir": folder, "idle_after_s": idle_after_s}
    return read_settings({}, given | {"metrics_port": free_ports(1)[0]})


def _publish(settings: Settings, chosen: argparse.Namespace) -> None:
    """A release, so that records hold vectors."""
    now_ms = int(time.time() * 1000)
    version = parts.releases(settings).publish(model(chosen.items, chosen.dim, chosen.seed), now_ms=now_ms)
    log = parts.open_log(settings)
    announce(log, version, now_ms)
    log.close()


@contextmanager
def _consumer(settings: Settings) -> Iterator[None]:
    with (settings.data_dir / "consumer.log").open("wb") as out:
        command = [sys.executable, "-m", "ledstream", "consume", "timelines"]
        process = subprocess.Popen(command, env=settings.as_environ(), cwd=ROOT, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        code = process.wait(30)
    assert code == 0, (settings.data_dir / "consumer.log").read_text()[-2000:]


def _sampled(settings: Settings, seconds: float, log: str) -> list[Sample]:
    """From when the consumer shows its numbers on."""
    samples: list[Sample] = []
    with connect(settings.store) as store, ExitStack() as stack:
        log_store = stack.enter_context(connect(settings.log)) if log == "redis" else None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if shown := {sample.name: sample.value for sample in scraped(settings.metrics_port)}:
                memory = store.info("memory")
                log_bytes = int(log_store.info("memory")["used_memory"]) if log_store else 0
                samples.append(
                    Sample(
                        time.monotonic(),
                        int(memory["used_memory"]),
                        int(memory["used_memory_rss"]),
                        log_bytes,
                        store.dbsize(),
                        shown["process_resident_memory_bytes"],
                        shown["ledstream_consumer_applied_total"],
                        shown["ledstream_consumer_lag_records"],
                    )
                )
                if len(samples) % TOLD_EVERY == 1:
                    _tell(samples)
            time.sleep(SAMPLE_EVERY_S)
    return samples


def _tell(samples: Sequence[Sample]) -> None:
    now = samples[-1]
    print(
        f"{now.at - samples[0].at:6.0f} s: store {now.store_bytes / 1e6:.1f} MB ({now.store_rss / 1e6:.1f} resident), "
        f"{now.users:,} keys, consumer {now.consumer_rss / 1e6:.1f} MB, log {now.log_bytes / 1e6:.1f} MB, "
        f"{now.applied:,.0f} applied, lag {now.lag:.0f}",
        flush=True,
    )


def _figures(
    chosen: argparse.Namespace, samples: Sequence[Sample], visitors: Visitors, probes: Probes
) -> dict[str, Any]:
    first, last = samples[0].at, samples[-1].at
    warm, later = first + WARM_UP * (last - first), first + (1 + WARM_UP) / 2 * (last - first)
    rest = [sample for sample in samples if sample.at >= warm]
    at = np.array([sample.at for sample in rest])
    watched = {name: np.array([getattr(sample, name) for sample in rest], np.float64) for name in WATCHED}
    drifts = {name: drift(at, values) for name, values in watched.items()}
    second, third = _part(rest, probes, warm, later), _part(rest, probes, later, last)
    is_flat = all(abs(drifts[name][0]) <= FLAT_PERCENT for name in HELD_TO)
    is_flat &= abs(third["events_per_s"] / second["events_per_s"] - 1) <= FLAT_PERCENT / 100
    is_flat &= third["p50_ms"] <= LATENCY_MAY_GROW * second["p50_ms"]
    return {
        "log": chosen.log,
        "users_came": visitors.users,
        "users_alive": round(chosen.rate * LEAVES * (60 * chosen.minutes / chosen.churn + 1 / LEAVES)),
        **{f"mean_{name}": round(float(values.mean())) for name, values in watched.items()},
        "largest_lag": max(sample.lag for sample in rest),
        "drift_percent": {name: drift for name, (drift, _) in drifts.items()},
        "spread_percent": {name: spread for name, (_, spread) in drifts.items()},
        "second_third": second,
        "last_third": third,
        "flat": is_flat,
    }


def _part(samples: Sequence[Sample], probes: Probes, start: float, end: float) -> dict[str, float]:
    """Throughput and latency of a part of the run."""
    within = [sample for sample in samples if start <= sample.at <= end]
    per_s = (within[-1].applied - within[0].applied) / (within[-1].at - within[0].at)
    seconds = [took for began, took in probes.seconds if start <= began < end]
    return {"events_per_s": round(per_s, 1)} | percentiles_ms(seconds)


def drift(at: F64, values: F64) -> tuple[float, float]:
    """By how much a line through the values rises over their time, and the largest less the smallest; percent."""
    percent = 100 / (float(values.mean()) or 1.0)
    slope = float(np.polyfit(at - at.mean(), values, 1)[0])
    return round(percent * slope * float(at[-1] - at[0]), 2), round(percent * float(values.max() - values.min()), 2)


if __name__ == "__main__":
    sys.exit(main())
